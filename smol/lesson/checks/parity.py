"""The checks of notebook 3: a loss, a test of causality, a planted bug found, a bug of one's own,
weights read out of four bits.

And `answer_key`, for who teaches by the planted bugs: `python -m smol.lesson` prints it.
"""

import struct
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from smol import parity
from smol.lesson import kind
from smol.lesson.exercise import SMALL, NotAttempted, ask, exercise, expect, expect_close
from smol.model import SmolLM2


@exercise
def check_cross_entropy(cross_entropy):
    ids = torch.randint(20, (2, 7))
    for scale in (1.0, 300.0):  # the second one overflows a naive exp
        logits = torch.randn(2, 7, 20) * scale
        want = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        got = ask(kind.number, cross_entropy, logits, ids)
        expect_close(got, want, f"the loss of logits of size {scale:.0f}")


@exercise
def check_is_causal(is_causal):
    ids = torch.randint(SMALL.vocab_size, (1, 12))
    with torch.no_grad():
        for name in (None, "no_mask", "mask_sees_next", "mask_hides_self", "rope_interleaved"):
            model = SmolLM2(SMALL).eval()
            if name:
                parity.MUTANTS[name](model)
            want = name not in ("no_mask", "mask_sees_next")
            got = ask(kind.truth, is_causal, model, ids)
            what = f"the mutant {name}" if name else "the healthy model"
            expect(got == want, f"{what} {'is' if want else 'is not'} causal, you say {got}")


@exercise
def check_diagnosis(name, seed: int):
    if name is ...:
        raise NotAttempted
    planted = parity.plant_unknown(SmolLM2(SMALL), seed)
    name = kind.text(name)
    expect(name in parity.MUTANTS, f"{name!r} is none of smol.parity.MUTANTS")
    said = f"it is not {name}: what does that one change, and where? And yours?"
    expect(name == planted.name, said)


@exercise
def check_own_mutant(edit, caught_by: Callable):
    """`edit` (old, new) must escape all checks of `caught_by(mutant)` but the last, the ladder."""
    if edit is ...:
        raise NotAttempted
    edit = kind.parts(2, "a pair of the old text and the new")(edit, "your edit")
    edit = tuple(kind.text(part, "a part of your edit") for part in edit)
    known = [mutant.name for mutant in parity.MUTANTS.values() if edit in mutant.edits]
    expect(not known, f"that is {', '.join(known)}, one of the fifty")
    with kind.readers_code():
        checks = caught_by(parity.Mutant("yours", "", "", edits=(edit,)))
    *others, last = checks
    early = [name for name in others if checks[name]]
    expect(not early, f"it is caught without the ladder, by: {', '.join(early)}")
    expect(checks[last], "the ladder does not see it either: is it a bug at all?")


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
    }


def answer_key(seed: int) -> str:
    """Which bug notebook 3's section 3.6 plants with `seed`, and where: for who teaches by it."""
    planted = parity.plant_unknown(model := SmolLM2(SMALL), seed)
    at = next(i for i, layer in enumerate(model.layers) if _planted(layer))
    return f"{seed:4}  {planted.place(at):26}{planted.name:27}{planted.story}"


def _planted(layer: torch.nn.Module) -> bool:
    return any(type(m).__module__.startswith("smol.model with") for m in layer.modules())
