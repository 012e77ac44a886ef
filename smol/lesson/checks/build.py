"""The checks of notebook 2: the parts of the model, each beside Hugging Face's on its weights.

A part is given what Hugging Face's module was given while that model read a text, in the first,
the middle and the last layer, and must answer what that module answered, to the bit. `MISTAKES`
holds for each part the classic wrong answers, each with the sentence that names it: the check
computes them all, and says the sentence of the one that the reader's answer equals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.checks.judge import EXACT, Judge, judge_module
from smol.lesson.checks.slips import MISTAKES
from smol.lesson.checks.slips_functions import neighbours
from smol.lesson.exercise import ask, exercise, expect, expect_close, expect_like
from smol.model import (
    MLP,
    Block,
    GroupedQueryAttention,
    RMSNorm,
    SmolLM2,
    apply_rope,
    eager_attention,
    rope_cos_sin,
)
from smol.parity import trace

# "Once upon a time there was a little girl who lived in a small village."
VILLAGE = [6403, 1980, 253, 655, 665, 436, 253, 1838, 8180, 617, 4161, 281, 253, 1165, 6560, 30]


# -- what the reader has not written, from the package, with attention written out ----------------


class EagerAttention(GroupedQueryAttention):
    """The package's module with its attention written out, as the reader's is."""

    attend = staticmethod(eager_attention)


class EagerBlock(Block):
    """The package's block with its attention written out."""

    def __init__(self, config):
        super().__init__(config)
        self.self_attn = EagerAttention(config)


class EagerSmolLM2(SmolLM2):
    """The package's model with its attention written out."""

    def __init__(self, config):
        super().__init__(config)
        self.set_attn_implementation("eager")


# -- what Hugging Face's model does ---------------------------------------------------------------


@dataclass
class Run:
    """What went into and came out of each module of `reference` while it read `ids`."""

    reference: nn.Module
    ids: Tensor
    calls: dict

    def layers(self) -> list[tuple[str, nn.Module]]:
        """The first, the middle and the last layer, each with its name."""
        layers = self.reference.model.layers
        return [(f"layer {i}", layers[i]) for i in (0, len(layers) // 2, len(layers) - 1)]

    def modules(self, name: str) -> list[tuple[str, dict, tuple, Tensor]]:
        """Of that module of each of them ("": the layer itself) where it is, its weights, what
        went in, and what came out."""
        found = []
        for where, layer in self.layers():
            call = self.calls[f"layers.{where.split()[1]}.{name}".rstrip(".")]
            inputs = (call.x, *self.tables()) if call.cos_sin else (call.x,)
            found.append((where, layer.get_submodule(name).state_dict(), inputs, call.out))
        return found

    def tables(self) -> tuple[Tensor, Tensor]:
        cos, sin = self.calls["layers.0.self_attn"].cos_sin
        return cos[0], sin[0]  # (T, hd)

    def qkv(self, layer: int, turned: bool = True) -> list[Tensor]:
        """q (1, H, T, hd), k and v (1, K, T, hd) as attention in that layer is given them."""
        a, x = self.reference.model.layers[layer].self_attn, self.ids
        names = ("q_proj", "k_proj", "v_proj")
        x = [self.calls[f"layers.{layer}.self_attn.{name}"].out for name in names]
        q, k, v = (t.view(*t.shape[:2], -1, a.head_dim).transpose(1, 2) for t in x)
        cos, sin = self.tables()
        return [apply_rope(q, cos, sin), apply_rope(k, cos, sin), v] if turned else [q, k, v]


def run_of(reference: nn.Module) -> Run:
    """Hugging Face's model reads the village sentence, its attention written out ("eager")."""
    ids = torch.tensor([VILLAGE]) % reference.config.vocab_size
    before = reference.config._attn_implementation
    reference.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            calls = trace(reference, lambda: reference(ids, use_cache=False))
    finally:
        reference.set_attn_implementation(before)
    return Run(reference, ids, calls)


def their_attention(layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Hugging Face's own function for attention, (B, H, T, hd)."""
    from transformers.models.llama.modeling_llama import eager_attention_forward

    T, lowest = q.size(2), torch.finfo(q.dtype).min
    mask = torch.full((T, T), lowest, dtype=q.dtype).triu(1)[None, None]
    out = eager_attention_forward(layer.self_attn, q, k, v, mask, layer.self_attn.scaling)[0]
    return out.transpose(1, 2)


def smol_config(reference):
    """The config of Hugging Face's model as this series writes it."""
    return SmolLM2Config.from_dict(reference.config.to_dict())


# -- the exercises --------------------------------------------------------------------------------


@exercise(instead=RMSNorm)
def check_rms_norm(made, reference):
    given, c = run_of(reference).modules("input_layernorm"), reference.config
    hint = "Theirs multiplies by torch.rsqrt(…), the weight last."
    args = c.hidden_size, c.rms_norm_eps
    return judge_module("rms_norm", "x", made, RMSNorm, given, hint, *args)


@exercise(instead=apply_rope)
def check_apply_rope(turn, reference):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    run, judge = run_of(reference), Judge("apply_rope", "x cos sin")
    cos, sin = run.tables()
    for where, _ in run.layers():
        q, k, _ = run.qkv(int(where.split()[1]), turned=False)
        for x in (q, k):
            want = apply_rotary_pos_emb(x, x, cos[None], sin[None])[0]
            judge.hear(turn, (x, cos, sin), want, where)
    given = torch.randn(2, 3, 5, 6), *rope_cos_sin(torch.arange(5), 6, 500.0)
    judge.hear_other_sizes(turn, given, apply_rope(*given))
    return judge.verdict("Theirs is x · cos + (−b, a) · sin.")


@exercise
def check_attention(attention, reference):
    run, judge = run_of(reference), Judge("attention", "q k v")
    for where, layer in run.layers():
        q, k, v = run.qkv(int(where.split()[1]))
        want = their_attention(layer, q, k, v)[0]
        group = q.size(1) // k.size(1)
        for h in range(q.size(1)):
            given = q[0, h], k[0, h // group], v[0, h // group]
            judge.hear(attention, given, want[h], f"{where}, head {h}")
    given = torch.randn(3, 5, 6).unbind()
    judge.hear_other_sizes(
        attention, given, eager_attention(*(t[None, None] for t in given))[0, 0]
    )
    if judge.largest == 0:
        return f"{EXACT}, on all {q.size(1)} heads"
    return f"within {judge.largest:.0e} of Hugging Face's, which multiplies all heads at once"


@exercise(instead=eager_attention)
def check_grouped_attention(attend, reference):
    run, judge = run_of(reference), Judge("grouped_attention", "q k v")
    for where, layer in run.layers():
        given = run.qkv(int(where.split()[1]))
        judge.hear(attend, tuple(given), their_attention(layer, *given), where)
    given = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    judge.hear_other_sizes(attend, given, eager_attention(*given))
    hint = "Theirs: scores, scale, mask, softmax, mix, each by itself; a fused kernel adds in "
    return judge.verdict(f"{hint}another order.")


@exercise(instead=EagerAttention)
def check_attention_module(made, reference):
    given = run_of(reference).modules("self_attn")
    hint = "Theirs calls attend and apply_rope as they are."
    config = smol_config(reference)
    names = "x cos sin"
    return judge_module("attention_module", names, made, EagerAttention, given, hint, config)


@exercise(instead=MLP)
def check_mlp(made, reference):
    given = run_of(reference).modules("mlp")
    hint = "Theirs calls F.silu."
    return judge_module("mlp", "x", made, MLP, given, hint, smol_config(reference))


@exercise(instead=EagerBlock)
def check_block(made, reference):
    given = run_of(reference).modules("")
    hint = "Theirs adds to the stream twice, attention first."
    return judge_module(
        "block", "x cos sin", made, EagerBlock, given, hint, smol_config(reference)
    )


@exercise(instead=EagerSmolLM2)
def check_model(made, reference):
    run = run_of(reference)
    state = {k.removeprefix("model."): t for k, t in reference.state_dict().items()}
    given = [("the logits", state, (run.ids,), run.calls["lm_head"].out)]
    hint = "The same parts in the same order give the same bits."
    return judge_module("model", "ids", made, EagerSmolLM2, given, hint, smol_config(reference))


# -- Going further --------------------------------------------------------------------------------


def _first(exercise: str, got: Tensor, want: Tensor, given: tuple, what: str) -> None:
    """NotYet with the sentence of the mistake that `got` is, or with how far it is off."""
    got = expect_like(got, want, what)
    for says, wrong in MISTAKES[exercise].items():
        same = torch.isclose(got, wrong(*given), rtol=1e-4, atol=1e-5, equal_nan=True)
        expect(not same.all(), says)
    expect_close(got, want, what)


def _unchanged(function: Callable, x: Tensor, *others) -> Tensor:
    """What it answers; NotYet where it wrote into the x that it was given."""
    copy = x.clone()
    got = ask(kind.tensor, function, copy, *others)
    same = copy.shape == x.shape and torch.equal(copy, x)
    expect(same, "your function changes the x that it was given: work on a copy, x = x - …")
    return got


@exercise
def check_layer_norm(layer_norm):
    x, weight = torch.randn(2, 5, 8) * 3 + 1, torch.rand(8)
    x[0, 0] = 1e-3 * torch.randn(8)  # so small that eps shows
    want = F.layer_norm(x, (8,), weight, eps=1e-5)
    got = _unchanged(layer_norm, x, weight)
    _first("layer_norm", got, want, (x, weight), "the output")


@exercise
def check_rope_complex(rope_complex):
    x, positions = torch.randn(2, 3, 7, 16), torch.arange(100, 107)
    want = apply_rope(x, *rope_cos_sin(positions, 16, 10_000.0))
    got = _unchanged(rope_complex, x, positions, 10_000.0)
    _first("rope_complex", got, want, (x, positions, 10_000.0), "the rotated x")


@exercise
def check_sliding_mask(sliding_mask):
    for T, window in ((5, 2), (6, 100), (6, 3)):
        got = ask(kind.tensor, sliding_mask, T, window)
        want = torch.tensor([[0 <= i - j < window for j in range(T)] for i in range(T)])
        expect(got.dtype == torch.bool, f"the mask is {got.dtype}, not torch.bool")
        if got.shape == want.shape and torch.equal(got, want):
            continue
        for says, wrong in MISTAKES["sliding_mask"].items():
            made = wrong(T, window)
            expect(got.shape != made.shape or not torch.equal(got, made), says)
        expect(False, f"T = {T}, window = {window}: wanted {want.int().tolist()}")


@exercise
def check_to_interleaved(to_interleaved):
    heads, hd, D = 2, 8, 16
    wq, wk, x = torch.randn(heads * hd, D), torch.randn(heads * hd, D), torch.randn(1, 6, D)
    cos, sin = rope_cos_sin(torch.arange(6), hd, 10_000.0)

    def scores(wq, wk, rope):
        q, k = ((x @ w.T).view(1, 6, heads, hd).transpose(1, 2) for w in (wq, wk))
        return rope(q, cos, sin) @ rope(k, cos, sin).transpose(2, 3)

    moved = [ask(kind.tensor, to_interleaved, w.clone(), heads) for w in (wq, wk)]
    for w in moved:
        expect_like(w, wq, "the weight")
    for says, wrong in MISTAKES["to_interleaved"].items():
        same = all(torch.equal(m, wrong(w, heads)) for m, w in zip(moved, (wq, wk), strict=True))
        expect(not same, says)
    want = scores(wq, wk, apply_rope)
    expect_close(scores(*moved, neighbours), want, "the scores with neighbouring pairs")
