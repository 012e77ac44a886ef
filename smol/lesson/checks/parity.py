"""The checks of notebook 3: a loss, a test of causality, a planted bug found, a bug of one's own.

And `answer_key`, for who teaches by the planted bugs: `python -m smol.lesson` prints it.
"""

from collections.abc import Callable

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


def answer_key(seed: int) -> str:
    """Which bug notebook 3's section 3.6 plants with `seed`, and where: for who teaches by it."""
    planted = parity.plant_unknown(model := SmolLM2(SMALL), seed)
    at = next(i for i, layer in enumerate(model.layers) if _planted(layer))
    return f"{seed:4}  {planted.place(at):26}{planted.name:27}{planted.story}"


def _planted(layer: torch.nn.Module) -> bool:
    return any(type(m).__module__.startswith("smol.model with") for m in layer.modules())
