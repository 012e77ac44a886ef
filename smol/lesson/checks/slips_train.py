"""The slips of notebook 5's last exercises: for each the classic wrong answers, and the sentence
that names the mistake. A check computes them all and says the sentence of the one that the
reader's answer equals. And for all of the notebook what is said of the errors that classic wrong
answers raise: a part of the error's text, and the cause."""

import math
from collections.abc import Callable
from operator import ge, gt, le, lt

from smol.lesson import kind as kinds
from smol.lesson.exercise import ask
from smol.lesson.kind import Raised

LN2 = math.log(2)


def _judge(leak=lt, heart=lt, nothing=ge, limit=lambda h: h / 2, guessed=lambda t, h: h):
    """The right verdict, or one with a slip."""

    def verdict(train, held_out, floor, uniform):
        if leak(held_out, floor):
            return "leak"
        if heart(train, max(floor, limit(held_out))):
            return "by heart"
        return "nothing" if nothing(guessed(train, held_out), uniform) else "learning"

    return verdict


judged = _judge()


BITS_PER_BYTE: dict[str, Callable | tuple] = {
    "these are nats: divide by ln 2 for bits": lambda loss, tokens, size: loss * tokens / size,
    "multiplied by ln 2: a bit is ln 2 nats, so divide by it": (
        lambda loss, tokens, size: loss * tokens / size * LN2
    ),
    "the loss is a mean over tokens: times their number it is the sum": (
        lambda loss, tokens, size: loss / size / LN2
    ),
    "that is bits per token: the tokenizer's choice is still in it": (
        lambda loss, tokens, size: loss / LN2
    ),
    "bytes per token, upside down: tokens / bytes": (
        lambda loss, tokens, size: loss * size / tokens / LN2
    ),
    "log10 in place of the natural logarithm": (
        lambda loss, tokens, size: loss * tokens / size / math.log10(2)
    ),
    "`size` is in bytes, not in bits: no 8, and nats / ln 2 are bits": (
        lambda loss, tokens, size: loss * tokens / size * 8,
        lambda loss, tokens, size: loss * tokens / size * 8 / LN2,
        lambda loss, tokens, size: loss * tokens / size / 8,
        lambda loss, tokens, size: loss * tokens / size / 8 / LN2,
    ),
}

WHOLE_MEAN: dict[str, Callable | tuple] = {
    "the mean of the means: a target in a small part counts more than one in a large part": (
        lambda means, counts: sum(means) / len(means)
    ),
    "the sum of the means": lambda means, counts: sum(means),
    "that is the sum of all losses: divide by the number of targets": (
        lambda means, counts: sum(m * n for m, n in zip(means, counts, strict=True))
    ),
    "divided by the number of parts: by the number of targets": (
        lambda means, counts: sum(m * n for m, n in zip(means, counts, strict=True)) / len(counts)
    ),
    "a mean times its count is a sum: the means themselves are not to be added": (
        lambda means, counts: sum(means) / sum(counts)
    ),
}

VERDICT: dict[str, Callable | tuple] = {
    "a training loss under the floor is no leak: the text may be known by heart": (
        lambda t, h, f, u: "leak" if min(t, h) < f else judged(t, h, f, u)
    ),
    "a leak first: held-out text under the floor is no learning by heart": (
        lambda t, h, f, u: "by heart" if t < max(f, h / 2) else judged(t, h, f, u)
    ),
    "a training loss a bit lower than the held-out one is usual: by heart is under half of it": (
        lambda t, h, f, u: "by heart" if h >= f and t < h else judged(t, h, f, u)
    ),
    "under half of the held-out loss is by heart too, above the floor or not": (
        lambda t, h, f, u: judged(max(t, h / 2), h, f, u) if t >= f else judged(t, h, f, u)
    ),
    "under the floor is by heart too, half of the held-out loss or not": (
        lambda t, h, f, u: judged(max(t, f), h, f, u)
    ),
    "by heart comes before nothing: what it knows by heart may be worth nothing elsewhere": (
        lambda t, h, f, u: "nothing" if h >= u else judged(t, h, f, u)
    ),
    "nothing is learned where held-out text is no better than guessing: the uniform line": (
        lambda t, h, f, u: "learning" if judged(t, h, f, u) == "nothing" else judged(t, h, f, u)
    ),
    '"nothing" is judged by the held-out loss: held_out >= uniform': (
        _judge(guessed=lambda t, h: t),
        _judge(guessed=min),
    ),
    '"by heart" is under half of the held-out loss, not some nats under it': (
        _judge(limit=lambda h: h - 1),
        _judge(limit=lambda h: h - 2),
        _judge(limit=lambda h: h - 3),
    ),
    "at a limit itself: under and less than are <, no better than guessing is >=": (
        _judge(leak=le),
        _judge(heart=le),
        _judge(nothing=gt),
        _judge(leak=le, heart=le),
        _judge(leak=le, nothing=gt),
        _judge(heart=le, nothing=gt),
        _judge(leak=le, heart=le, nothing=gt),
    ),
}


def named(slips: dict[str, Callable | tuple], got, *args, same: Callable) -> str | None:
    """The sentence of the slip that answers `got` for these arguments."""
    for said, some in slips.items():
        if any(same(slip(*args), got) for slip in all_of(some)):
            return said
    return None


def all_of(slips) -> tuple:
    """The slips of one sentence: one, or several."""
    return slips if isinstance(slips, tuple) else (slips,)


def ask_and_explain(causes: dict[str, str], answer, *args, kind: Callable = kinds.number):
    """`ask`, and beside an error of the reader's code that is in `causes` what causes it."""
    try:
        return ask(kind, answer, *args)
    except Raised as error:
        cause = next((cause for part, cause in causes.items() if part in str(error)), None)
        if cause is None:
            raise
        raise Raised(f"{str(error).rstrip('.')}: {cause}") from error


RAISED_BY_LOSS = {
    "out of bounds for dimension": "with B texts the tokens lie along the last dimension: "
    "gather(-1, labels[..., None])",
    "Index tensor must have the same number of dimensions": "the labels lack a last dimension: "
    "gather(-1, labels[..., None])",
    "Expected target size": "cross_entropy looks for the classes in dimension 1: flatten(0, 1) "
    "the logits, flatten() the labels",
    "to match target batch_size": "as many labels as logits are wanted: logits[:, :-1], "
    "ids[:, 1:], both flattened",
}
RAISED_BY_WSD = {
    "ZeroDivisionError": "take warmup_and_decay: a warm-up of 0 has one step, and so a decay of 0",
}
RAISED_BY_CLIP = {
    "same number of dimensions": "some gradients are matrices: flatten() each before cat",
    "stack expects each tensor": "the gradients differ in shape: flatten() each, then cat",
}
RAISED_BY_MEAN = {
    "multiply sequence": "two lists of numbers: multiply pair by pair",
    "unsupported operand": "two lists of numbers: take them pair by pair",
}
