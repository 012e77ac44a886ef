"""What is said of a part of the model: exact, nearly, or which mistake it is, or where it is off.

`Judge` hears a reader's answer on one input after another, and gives the verdict at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.checks.raised import question
from smol.lesson.checks.slips import MISTAKES
from smol.lesson.exercise import Nearly, ask, expect, expect_like, readers_module
from smol.lesson.kind import NotYet, Raised
from smol.model import rope_cos_sin
from smol.parity import Difference, compare

EXACT = "exact: Hugging Face's numbers, to the bit"
ROUNDING = 3e-6  # of the largest value: more is no rounding in one part
THROUGH_ALL = 1e-5  # nor in all the layers one after another
LITTLE = 1e-3  # not so much that something is missing or at the wrong place
SAME = 1e-5  # a slip is what the reader did if it is as near as that, and …
NEARER = 10  # … so many times nearer than the right answer

# No number of SmolLM2's, nor of exercise.SMALL's.
OTHER = SmolLM2Config(
    vocab_size=40,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=0.01,
    rope_theta=500.0,
    initializer_range=0.3,
)
CAN_BE_OTHERS = {
    "rms_norm": "B, T, D and eps",
    "apply_rope": "B, the number of heads, T and hd",
    "attention": "T and hd",
    "grouped_attention": "B, H, K, T and hd",
    "attention_module": "B, T, H, K and hd",
    "mlp": "B, T and D",
    "block": "B, T and D",
    "model": "B, T and the numbers of the config",
}
# Where the first token is right and the others are not; where it is wrong, as they all are.
LOOK_AT = {
    "apply_rope": (
        "the first token, which is not turned, is right, later ones are not: look at the partner "
        "(−b, a), at sin, and whether a and b are halves of the last dimension",
        "all tokens are wrong, the first too, which is not turned: look at x · cos, and at what "
        "is joined",
    ),
    "attention": (
        "the first token, which has only itself to read, is right, later ones are not: look at "
        "scores, scale, mask and softmax",
        "all tokens are wrong, the first too, which has only itself to read: look at softmax, v, "
        "the mix",
    ),
    "attention_module": (
        "the first token, which has only itself to read, is right, later ones are not: look at "
        "RoPE, and at what attend is given",
        "all tokens are wrong, the first too, which has only itself to read: look at v, at the "
        "heads, at o_proj",
    ),
    "block": (
        "the first token, which has only itself to read, is right, later ones are not: look at "
        "what attention is given",
        "all tokens are wrong, the first too, which has only itself to read: look at norms, "
        "additions, their order",
    ),
    "model": (
        "the first token, which has only itself to read, is right, later ones are not: look at "
        "RoPE's tables",
        "all tokens are wrong, the first too, which has only itself to read: look at embedding, "
        "layers, norm, head",
    ),
}
LOOK_AT["grouped_attention"] = LOOK_AT["attention"]
NAN = "a row without any key, or −∞ put in after softmax?"


@dataclass
class Judge:
    """Hears an answer to `exercise`, a function of what `names` says."""

    exercise: str
    names: str
    largest: float = 0.0  # of all differences, as a fraction of the largest value
    where: str = ""

    def hear(self, function: Callable, given: tuple, want: Tensor, where: str, *known) -> None:
        """NotYet where the answer is wrong. `known` is what the slips take before `given`."""
        got = self._answer(function, given, known)
        near = compare(got, want)
        if near.exact:
            return
        whole = self.exercise == "model"
        if whole or near.relative >= ROUNDING:  # else it may lie near a slip by chance
            self._name_the_slip(got, near, (*known, *given), where)
            if near.relative >= (THROUGH_ALL if whole else ROUNDING):
                self._say_how_far(got, want, near, where)
        if near.relative > self.largest:
            self.largest, self.where = near.relative, where

    def _answer(self, function: Callable, given: tuple, known: tuple) -> Tensor:
        copies = [t.clone() for t in given]
        try:
            got = ask(kind.tensor, function, *copies)
        except Raised as error:
            asks = question(self.exercise, str(error), (*known, *given))
            raise Raised(f"{error}. {asks}" if asks else str(error)) from error
        for name, copy, before in zip(self.names.split(), copies, given, strict=True):
            sign = "+" if self.exercise == "block" else "*"
            said = f"your function changes the {name} that it was given: work on a copy, "
            said += f"{name} = {name} {sign} … ({name} {sign}= … writes into it)"
            expect(copy.shape == before.shape and torch.equal(copy, before), said)
        return got

    def _name_the_slip(self, got: Tensor, near: Difference, given: tuple, where: str) -> None:
        best, named = SAME, ""
        for says, wrong in MISTAKES[self.exercise].items():
            away = _apart(got, wrong(*given))
            if away < best and away * NEARER < near.relative:
                best, named = away, says
            if best < 1e-6:
                break
        expect(not named, f"{where}: {named}")

    def _say_how_far(self, got: Tensor, want: Tensor, near: Difference, where: str) -> None:
        expect_like(got, want, "the output")
        why = NAN if "attention" in self.exercise else ""
        expect(not got.isnan().any(), f"{where}: the output has NaN in it{why and ': ' + why}")
        if near.relative < LITTLE:
            said = f"{where}: off by {near.relative:.0e} of the largest value: too much for "
            raise NotYet(f"{said}rounding. Is a small number another: eps, θ, the first position?")
        close = torch.isclose(got, want, rtol=1e-4, atol=1e-5 * near.scale)
        said = f"{where}: the output is off: {100 * close.float().mean():.0f} % right, "
        said += f"largest difference {near.largest:.2g} at {list(near.where)}"
        look = self._look_at(got, want)
        raise NotYet(f"{said}: {look}" if look else said)

    def _look_at(self, got: Tensor, want: Tensor) -> str:
        if self.exercise not in LOOK_AT:
            return ""
        if self.exercise == "grouped_attention":
            heads = [h for h in range(want.size(1)) if _right(got[:, h], want[:, h])]
            if 0 < len(heads) < want.size(1):
                which = f"heads {heads} are right" if len(heads) > 1 else f"head {heads} is right"
                return f"{which}, the others are not: which kv head does each of them read?"
        tokens = [_right(got[..., t, :], want[..., t, :]) for t in range(want.size(-2))]
        first, *later = tokens
        if "attention" in self.exercise and later and later[-1] and not any(tokens[:-1]):
            return (
                "the last token, which sees all, is right, earlier ones are not: look at the mask"
            )
        if first and not any(later):
            return LOOK_AT[self.exercise][0]
        return LOOK_AT[self.exercise][1] if not any(tokens) else ""

    def hear_other_sizes(self, function: Callable, given: tuple, want: Tensor) -> None:
        """NotYet where an answer that was right so far is not right with other sizes."""
        said = "right for the sizes of SmolLM2 and this text only: "
        said += f"{CAN_BE_OTHERS[self.exercise]} can be others"
        try:
            got = self._answer(function, given, ())
        except Raised as error:
            raise NotYet(said) from error
        expect(got.shape == want.shape and compare(got, want).relative < THROUGH_ALL, said)

    def verdict(self, hint: str) -> str:
        """Exact; Nearly, with `hint`, where only the rounding differed."""
        if not self.largest:
            return EXACT
        away = f"{self.largest:.0e} of the largest value, {self.where}"
        raise Nearly(f"right, but rounded otherwise ({away}). {hint}")


@torch.no_grad()
def judge_module(exercise: str, names: str, made: type, ours: type, given: list, hint: str, *args):
    """The verdict on a module class. `given` holds (where, state, inputs, want), `args` is what
    makes one. The slips are made with `ours`, whose parts have the names that they know."""
    judge = Judge(exercise, names)
    for where, state, inputs, want in given:
        module = readers_module(made, *args, state=state)
        known = readers_module(ours, *args, state=state)
        judge.hear(module, inputs, want, where, known)
    other = (OTHER.hidden_size, OTHER.rms_norm_eps) if exercise == "rms_norm" else (OTHER,)
    right = other_weights(ours(*other))
    inputs = other_inputs(given[0][2])
    module = readers_module(made, *other, state=right.state_dict())
    judge.hear_other_sizes(module, inputs, right(*inputs))
    return judge.verdict(hint)


def other_weights(module: nn.Module) -> nn.Module:
    """Random ones, norms among them."""
    for weight in module.parameters():
        nn.init.uniform_(weight, 0.5, 1.5) if weight.dim() == 1 else nn.init.normal_(
            weight, 0, 0.3
        )
    return module.eval()


def other_inputs(inputs: tuple) -> tuple:
    """As many tensors of the same kinds, for two texts of five tokens and the config `OTHER`."""
    if not inputs[0].is_floating_point():
        return (torch.randint(OTHER.vocab_size, (2, 5)),)
    x = torch.randn(2, 5, OTHER.hidden_size)
    return (
        (x, *rope_cos_sin(torch.arange(5), OTHER.head_dim, OTHER.rope_theta))
        if inputs[1:]
        else (x,)
    )


def _apart(got: Tensor, made: Tensor) -> float:
    """The largest difference as a fraction of the largest value; NaN equals NaN, ∞ equals ∞."""
    if got.shape != made.shape or got.dtype != made.dtype:
        return torch.inf
    if not torch.equal(got.isfinite(), made.isfinite()):
        return torch.inf
    got, made = (t.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).float() for t in (got, made))
    return (got - made).abs().max().item() / max(made.abs().max().item(), 1e-30)


def _right(got: Tensor, want: Tensor) -> bool:
    return (got - want).abs().max().item() <= 1e-5 * want.abs().max().item()
