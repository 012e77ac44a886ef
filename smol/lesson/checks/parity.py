"""The checks of notebook 3: a loss, a test of causality, a planted bug found, a bug of one's own,
weights read out of four bits.

And `answer_key`, for who teaches by the planted bugs: `python -m smol.lesson` prints it.
"""

import copy
import inspect
import math
import struct
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import smol.model
from smol import parity
from smol.lesson import kind
from smol.lesson.checks.diagnosis import answers_to_questions
from smol.lesson.exercise import SMALL, NotAttempted, ask, exercise, expect, expect_close
from smol.lesson.kind import NotYet, Raised
from smol.model import SmolLM2

# -- the loss -------------------------------------------------------------------------------------


def _surprises(logits, ids):
    """Minus the log-probability of each of `ids` under the logits at its own place."""
    return -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def _right(logits, ids):
    return _surprises(logits[:, :-1], ids[:, 1:])


LOSS_MISTAKES = {
    "the labels are not shifted: position t predicts token t + 1": (
        lambda z, ids: _surprises(z, ids).mean()
    ),
    "logits and labels both lost their last one: the labels lose their first": (
        lambda z, ids: _surprises(z[:, :-1], ids[:, :-1]).mean()
    ),
    "shifted the wrong way: the logits lose their last row, the labels their first": (
        lambda z, ids: _surprises(z[:, 1:], ids[:, :-1]).mean()
    ),
    "that is the sum over the predictions: take their mean": lambda z, ids: _right(z, ids).sum(),
    "divided by T: each text has T − 1 predictions": (
        lambda z, ids: _right(z, ids).sum() / ids.numel()
    ),
    "divided by the number of texts: the mean is over all B · (T − 1) predictions": (
        lambda z, ids: _right(z, ids).sum() / len(ids)
    ),
    "divided by T − 1 only: there are B texts": (
        lambda z, ids: _right(z, ids).sum() / (ids.size(1) - 1)
    ),
    "the minus is missing": lambda z, ids: -_right(z, ids).mean(),
    "the logarithm is to the base 2 (or 10): the natural one is wanted": (
        lambda z, ids: _right(z, ids).mean() / math.log(2),
        lambda z, ids: _right(z, ids).mean() / math.log(10),
    ),
    "the logarithm is missing: these are probabilities": (
        lambda z, ids: (-_right(z, ids)).exp().mean(),
        lambda z, ids: -(-_right(z, ids)).exp().mean(),
        lambda z, ids: 1 - (-_right(z, ids)).exp().mean(),
    ),
    "the logarithm of the mean: take the mean of the logarithms": (
        lambda z, ids: -(-_right(z, ids)).exp().mean().log()
    ),
    "you took the largest off inside the sum, but not off z: take it off all logits first": (
        lambda z, ids: _right(z, ids).mean() - z[:, :-1].amax(-1).mean()
    ),
    "only the first text was read: the mean is over all B texts": (
        lambda z, ids: _right(z[:1], ids[:1]).mean()
    ),
    "logits are no log-probabilities yet: log Σ e^z must be taken off": (
        lambda z, ids: -z[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    ),
}
READY_MADE = {"log_softmax", "logsumexp", "cross_entropy", "nll_loss", "nll_loss_nd"}


class _Used(TorchFunctionMode):
    """The names of PyTorch's functions that are called within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(getattr(func, "__name__", "").removeprefix("special_"))
        return func(*args, **(kwargs or {}))


@exercise
def check_cross_entropy(cross_entropy):
    ids = torch.randint(20, (2, 7))
    for scale in (1.0, 300.0):  # the second one overflows a naive exp
        logits = torch.randn(2, 7, 20) * scale
        want = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        with _Used() as used:
            got = ask(kind.number, cross_entropy, logits, ids)
        ready = ", ".join(sorted(used.names & READY_MADE))
        expect(not ready, f"{ready} is what you are to write: take exp, sum and log")
        try:
            expect_close(got, want, f"the loss of logits of size {scale:.0f}")
        except NotYet as off:
            raise NotYet(f"{off}{said_of_loss(got, logits, ids)}") from None


def said_of_loss(got: float, logits, ids) -> str:
    """The sentence for the mistake that makes this number, or nothing."""
    if math.isnan(got):
        return ": exp overflows; take each token's largest logit off first"
    if got == -math.inf:
        said = "a sum of exps has become 0; take off each row's own largest logit, amax(-1, "
        return f": {said}keepdim=True), not the largest of all"
    if math.isinf(got):
        return ": a probability has become 0; write log p = z − log Σ e^z, and no p"
    for sentence, wrong in LOSS_MISTAKES.items():
        for one in wrong if isinstance(wrong, tuple) else (wrong,):
            if math.isclose(one(logits, ids).item(), got, rel_tol=1e-4):
                return f": {sentence}"
    return ""


# -- causality ------------------------------------------------------------------------------------


END = "return self.lm_head(self.norm(x)) if head"
LEAKS = {  # models that see ahead where a hurried test does not look
    "that mixes a millionth of the text's mean into every token": (
        (
            "x = self.embed_tokens(input_ids)",
            "x = self.embed_tokens(input_ids); x += 1e-6 * x.mean(1, True)",
        ),
    ),
    "that adds to each token the one after the next": (
        (END, f"x = torch.cat((x[:, :-2] + x[:, 2:], x[:, -2:]), 1)\n        {END}"),
    ),
    "that sees ahead in the second text of a batch only": (
        (END, f"x = torch.cat((x[:1], x[1:] + x[1:].mean(1, True)))\n        {END}"),
    ),
}
BROKEN = {
    **{f"the mutant {n}": parity.MUTANTS[n] for n in ("no_mask", "mask_sees_next")},
    **{f"a model {how}": parity.Mutant(how, "", "", edit) for how, edit in LEAKS.items()},
}


@exercise
def check_is_causal(is_causal):
    for last in (SMALL.vocab_size - 1, 0):
        _try_causality(is_causal, "the healthy model", SmolLM2(SMALL), last, True)
    for what, mutant in BROKEN.items():
        fed = _try_causality(is_causal, what, mutant(SmolLM2(SMALL)), 5, False)
        put = {int(read[0, -1]) for read in fed} - {5}
        for last in put:  # who always puts in the same token changes nothing here
            what_now = f"{what}, where the last token is {last},"
            _try_causality(is_causal, what_now, mutant(SmolLM2(SMALL)), last, False)
    for name in ("mask_hides_self", "rope_interleaved"):
        model = parity.MUTANTS[name](SmolLM2(SMALL))
        _try_causality(is_causal, f"the mutant {name}", model, 5, True)


def _try_causality(is_causal: Callable, what: str, model: SmolLM2, last: int, want: bool) -> list:
    """Holds the reader's verdict on `model` against `want`; gives back what the model read."""
    ids = torch.randint(SMALL.vocab_size, (2, 12))
    ids[:, -1] = last
    with torch.no_grad():
        got, fed = _asked_and_fed(is_causal, model.eval(), ids)
    said = f"{what} {'is' if want else 'is not'} causal, you say {got}"
    expect(got == want, f"{said}{_said_of_causality(fed, ids, want)}")
    return fed


def _asked_and_fed(is_causal: Callable, model: SmolLM2, ids) -> tuple[bool, list]:
    """The reader's verdict, and what the model was given to read for it."""
    fed, before, end = [], ids.clone(), model.config.vocab_size

    def remember(_, args, kwargs):
        read = args[0] if args else kwargs.get("input_ids")
        if isinstance(read, torch.Tensor) and read.numel():
            fed.append(read.clone())

    hook = model.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        got = ask(kind.truth, is_causal, model, ids)
    except Raised:
        outside = [t for read in fed for t in read.flatten().tolist() if not 0 <= t < end]
        last = before[0, -1].item()
        said = f"the last token is {last}, and you put {outside[:1]} in its place: the vocabulary"
        expect(not outside, f"{said} has 0 to {end - 1}")
        raise
    finally:
        hook.remove()
    said = "your function changes `ids` itself, so that both runs read the same: clone it first"
    expect(torch.equal(ids, before), said)
    return got, fed


def _said_of_causality(fed: list, ids, want: bool) -> str:
    """What is wrong with the way in which the verdict came about."""
    if len(fed) < 2:
        return f": the model was run {len(fed)} times, two texts are to be compared"
    if any(read.shape != ids.shape for read in fed):
        return ": both texts must have the length of `ids`"
    changed = (torch.stack(fed) != ids).any(0)
    if changed.any() and not changed.any(1).all():
        return ": change the last token of every text in the batch, ids[:, -1]"
    changed = changed.any(0)
    if not changed.any():
        return ": both runs read the same tokens, nothing was changed"
    if changed[:-1].any():
        return ": change the last token only; logits from the changed place on may move"
    if want:
        return ": the logits at the changed token may move, leave the last row out"
    return (
        ": compare all rows before the last one, of all texts, and all of their logits, to the bit"
    )


# -- the planted bugs -----------------------------------------------------------------------------


@exercise
def check_diagnosis(name, seed: int):
    if name is ...:
        raise NotAttempted
    planted = parity.plant_unknown(SmolLM2(SMALL), seed)
    name = kind.text(name)
    expect(name in parity.MUTANTS, f"{name!r} is none of smol.parity.MUTANTS")
    if name == planted.name:
        return
    guess = parity.MUTANTS[name]
    if guess.where != planted.where:
        raise NotYet(f"it is not {name}: that one sits in {guess.where}, look at the first FAIL")
    mine, yours = answers_to_questions(guess), answers_to_questions(planted)
    for question, answer in mine.items():
        now = yours[question]
        expect(answer == now, f"it is not {name}: {question} that one would {answer}, yours {now}")
    said = (
        "all questions have the same answers with it. Plant it in a copy and compare the numbers"
    )
    raise NotYet(f"it is not {name}, though {said}, as with `suspect` above")


@exercise
def check_own_mutant(edit, caught_by: Callable):
    """`edit` (old, new) must escape all checks of `caught_by(mutant)` but the last, the ladder."""
    if edit is ...:
        raise NotAttempted
    edit = kind.parts(2, "a pair of the old text and the new")(edit, "your edit")
    edit = tuple(kind.text(part, "a part of your edit") for part in edit)
    times = inspect.getsource(smol.model).count(edit[0]) if edit[0] else 0
    expect(times == 1, f"your old text stands {times} times in smol/model.py: once is wanted")
    expect(edit[0] != edit[1], "your old text and your new one are the same: nothing would change")
    yours = parity.Mutant("yours", "", "", edits=(edit,))
    known = [m.name for m in parity.MUTANTS.values() if not m.action and m.diff() == yours.diff()]
    expect(not known, f"that is {', '.join(known)}, one of the fifty")
    with kind.readers_code():
        checks = caught_by(yours)
    expect(_runs(yours), "with it the model raises an error: that everybody sees at once")
    *others, last = checks
    early = [name for name in others if checks[name]]
    expect(not early, f"it is caught without the ladder, by: {', '.join(early)}")
    beyond = "does it sit where the ladder never goes (padding, eager attention, head=False)?"
    expect(checks[last], f"the ladder does not see it either: is it a bug at all, or {beyond}")


def _runs(mutant: parity.Mutant) -> bool:
    """Whether the model still writes with the bug in it: a text at once, and one token more."""
    try:
        model, ids = mutant(SmolLM2(SMALL), layer=1).eval(), torch.arange(8)[None]
        cache = model.new_cache(1, 8)
        for part in (ids[:, :4], ids[:, 4:7], ids[:, 7:]):
            model(part, cache)
        cache.reset()
        model(ids)
        copy.deepcopy(model).bfloat16()(ids)
    except Exception:
        return False
    return True


# -- four bits ------------------------------------------------------------------------------------


@exercise
def check_unpack_q4_1(unpack_q4_1):
    for d, m in ((0.5, -3.0), (0.013053894, -0.090332031), (0.0087, 0.0302)):
        q = torch.randint(16, (32,)).numpy()
        block = struct.pack("<ee", d, m) + bytes((q[:16] | q[16:] << 4).tolist())
        weights = ask(kind.items, unpack_q4_1, block)
        said = f"a block has 32 weights, your answer has {len(weights)}"
        said += ": the first four bytes are d and m" if len(weights) == 40 else ""
        expect(len(weights) == 32, said)
        numbers = [kind.number(w, f"weight {i}") for i, w in enumerate(weights)]
        with np.errstate(over="ignore"):
            got = np.array(numbers, dtype=np.float64).astype(np.float32)
        want = _dequantised(block)
        if (got == want).all():
            continue
        for mistake, wrong in _mistakes(block, q).items():
            expect(not np.array_equal(got, wrong, equal_nan=True), mistake)
        near = np.allclose(got, want, rtol=1e-3, atol=1e-3 * d)
        expect(
            not near, "close, but not to the bit: make d and m longer than fp16 before you compute"
        )
        at = int((got != want).argmax())
        expect(False, f"weight {at} is {got[at]:.6g}, should be {want[at]:.6g}")


def _dequantised(block: bytes) -> np.ndarray:
    """The 32 weights by the library, in fp32."""
    from gguf import GGMLQuantizationType, dequantize

    return dequantize(np.frombuffer(block, np.uint8)[None], GGMLQuantizationType.Q4_1)[0]


def _mistakes(block: bytes, q: np.ndarray) -> dict[str, np.ndarray]:
    """The likely ones: what to say, and the weights that one gets by it."""
    d, m = np.frombuffer(block[:4], "<f2").astype(np.float32)
    with np.errstate(all="ignore"):  # some bytes the wrong way round are no number
        back_d, back_m = np.frombuffer(block[:4], ">f2").astype(np.float32)
        back = back_d * q + back_m
    low, high = q.reshape(2, 16)
    whole = low + 16 * high  # the bytes as they stand
    neighbours, high_first = (np.stack(pair, 1).flatten() for pair in ((low, high), (high, low)))
    return {
        "a byte's two halves are weights i and i + 16, not neighbours: all low halves come "
        "first": d * neighbours + m,
        "the high and the low half of each byte are exchanged": d * np.roll(q, 16) + m,
        "a byte's high half is weight i + 16, its low half weight i: all low halves come first, "
        "then all high ones": d * high_first + m,
        "& 240 leaves the high half where it is, 16 times too large: shift it, >> 4": (
            d * np.concatenate((low, 16 * high)) + m
        ),
        "these are the numbers q: a weight is d·q + m": q,
        "d and m are exchanged: the scale comes first": m * q + d,
        'fp16 is read with its high byte first: the low one comes first, "<e"': back,
        "the minimum is missing: w = d·q + m": d * q,
        "the minimum is added, not subtracted": d * q - m,
        "q goes from 0 to 15: with a minimum, no 8 is taken off": d * (q - 8.0) + m,
        "that is Q4_0, w = d·(q − 8): a block with a minimum has w = d·q + m": d * (q - 8.0),
        "% 15 makes 0 of 15: the low half is & 15, or % 16": (
            d * np.concatenate((whole % 15, high)) + m
        ),
    }


def answer_key(seed: int) -> str:
    """Which bug notebook 3's section 3.6 plants with `seed`, and where: for who teaches by it."""
    planted = parity.plant_unknown(model := SmolLM2(SMALL), seed)
    at = next(i for i, layer in enumerate(model.layers) if _planted(layer))
    return f"{seed:4}  {planted.place(at):26}{planted.name:27}{planted.story}"


def _planted(layer: torch.nn.Module) -> bool:
    return any(type(m).__module__.startswith("smol.model with") for m in layer.modules())
