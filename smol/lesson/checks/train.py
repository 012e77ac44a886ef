"""The checks of notebook 5's second half: bits per byte, means over parts, a run judged."""

import math

import torch

from smol.lesson import kind
from smol.lesson.checks import slips_train
from smol.lesson.exercise import ask, exercise, expect


@exercise
def check_bits_per_byte(bits_per_byte):
    for loss, tokens, size in ((2.0, 1000, 4000), (0.693147, 10, 10), (3.5, 7, 31)):
        got = ask(kind.number, bits_per_byte, loss, tokens, size)
        want = loss * tokens / size / math.log(2)
        said = f"{loss} nats per token, {tokens} tokens, {size} bytes"
        _named(slips_train.BITS_PER_BYTE, got, want, (loss, tokens, size), said)


@exercise
def check_whole_mean(whole_mean):
    for counts in ([100, 1], [5, 5], [3, 70, 2]):
        parts = [torch.rand(count) * 9 for count in counts]
        means = [part.mean().item() for part in parts]
        raised = slips_train.RAISED_BY_MEAN
        got = slips_train.ask_and_explain(raised, whole_mean, list(means), list(counts))
        want = torch.cat(parts).mean().item()
        said = f"parts of {counts} targets"
        _named(slips_train.WHOLE_MEAN, got, want, (means, counts), said)


def _named(slips: dict, got: float, want: float, given: tuple, said: str) -> None:
    """Expects a number; of a wrong one that a slip gives, what the slip is."""
    why = slips_train.named(slips, got, *given, same=_close)
    wrong = f"{said}: {got:.5g}, should be {want:.5g}"
    expect(_close(got, want), f"{wrong}: {why}" if why else wrong)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)


RUNS = (  # training loss, held-out loss, verdict, for a floor of 0.264 and ln V = 6.93
    (1.2, 1.2, "learning"),
    (0.6, 0.9, "learning"),
    (0.1, 0.1, "leak"),
    (0.5, 0.2, "leak"),
    (0.1, 2.5, "by heart"),
    (0.2, 6.5, "by heart"),
    (0.24, 0.3, "by heart"),
    (0.5, 6.5, "by heart"),
    (0.1, 7.5, "by heart"),
    (0.5, 7.0, "by heart"),
    (6.93, 6.94, "nothing"),
    (7.4, 7.4, "nothing"),
    (0.4, 1.0, "by heart"),
    (3.9, 6.5, "learning"),
    (5.0, 7.5, "nothing"),
    (6.93, 6.93, "nothing"),  # the limits themselves
    (0.264, 0.264, "learning"),
    (0.5, 1.0, "learning"),
)


@exercise
def check_verdict(verdict):
    floor, uniform = 0.264, 6.93
    got = [ask(kind.text, verdict, train, held, floor, uniform) for train, held, _ in RUNS]
    same = [
        why
        for why, slips in slips_train.VERDICT.items()
        for slip in slips_train.all_of(slips)
        if [slip(train, held, floor, uniform) for train, held, _ in RUNS] == got
    ]
    for answer, (train, held_out, want) in zip(got, RUNS, strict=True):
        said = f"training {train}, held out {held_out}, floor {floor}, uniform {uniform}"
        wrong = f"{said}: {answer!r}, should be {want!r}"
        expect(answer == want, f"{wrong}: {same[0]}" if same else wrong)
