"""The questions that tell one bug in an attention module from another, and the tree that they
make (notebook 3, section 3.6)."""

import torch

from smol import parity
from smol.lesson.exercise import SMALL
from smol.model import SmolLM2, rope_cos_sin

TREE = {  # question -> where to go if the two modules agree, and if they differ
    "as it is": ("a rung that goes elsewhere: cache, bf16, gradients", "with one token alone"),
    "with one token alone": (
        "without rotation",
        "values, o_proj, which key/value head is read, or a mask that hides a token from itself",
    ),
    "without rotation": (
        "with all tokens at one position",
        "without rotation, in the last row,",
    ),
    "without rotation, in the last row,": ("the mask", "without rotation, with equal tokens,"),
    "without rotation, with equal tokens,": (
        "the scores: their factor, or the heads of q",
        "how the heads are put together",
    ),
    "with all tokens at one position": (
        "the rotation itself: pairs, direction",
        "with one token at position 9",
    ),
    "with one token at position 9": ("without the sine", "v is rotated too"),
    "without the sine": ("the sine is lost", "q and k are rotated differently"),
}


def leaf(mutant: parity.Mutant) -> str | None:
    """Where the tree of questions ends for a bug in an attention module; None for another bug."""
    answers, place = answers_to_questions(mutant), "as it is"
    while answers and place in TREE:
        place = TREE[place][answers[place] == "differ"]
    return place if answers else None


def answers_to_questions(mutant: parity.Mutant) -> dict[str, str]:
    """For a bug in an attention module, what it answers to the questions of section 3.6."""
    if mutant.where != parity.MUTANTS["no_mask"].where or mutant.action:
        return {}
    healthy = SmolLM2(SMALL).layers[0].self_attn
    ill = mutant(SmolLM2(SMALL), layer=0).layers[0].self_attn
    ill.load_state_dict(healthy.state_dict())
    x = torch.randn(1, 12, SMALL.hidden_size)
    cos, sin = rope_cos_sin(torch.arange(12), SMALL.head_dim, SMALL.rope_theta)
    flat, none, last = torch.ones_like(cos), torch.zeros_like(sin), slice(-1, None)
    inputs = {
        "as it is": (x, cos, sin),
        "with one token alone": (x[:, :1], cos[:1], sin[:1]),
        "without rotation": (x, flat, none),
        "without rotation, in the last row,": (x, flat, none, last),
        "without rotation, with equal tokens,": (x[:, :1].expand_as(x), flat, none),
        "with all tokens at one position": (x, cos[9:10], sin[9:10]),
        "with one token at position 9": (x[:, :1], cos[9:10], sin[9:10]),
        "without the sine": (x, cos, none),
    }
    found = {}
    with torch.no_grad():
        for question, (x, c, s, *rows) in inputs.items():
            mine, theirs = (
                module(x, c, s)[:, rows[0] if rows else slice(None)] for module in (ill, healthy)
            )
            apart = parity.compare(mine, theirs).relative
            found[question] = "agree" if apart < 1e-5 else "differ"
    return found
