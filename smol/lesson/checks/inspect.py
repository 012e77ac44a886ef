"""The checks of notebook 1: parameters and bytes counted by hand, the nearest token."""

import torch

from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.exercise import SMALL, UNTIED, ask, exercise, expect
from smol.pretrained import skeleton


@exercise
def check_count(count):
    for config in (SMALL, UNTIED, SmolLM2Config()):
        want = sum(p.numel() for p in skeleton(config).parameters())
        tied = "tied" if config.tie_word_embeddings else "untied"
        got = ask(kind.number, count, config)
        expect(got == want, f"D = {config.hidden_size}, {tied}: {got:,}, PyTorch has {want:,}")


@exercise
def check_nearest(nearest):
    # Rows of +1 and -1, all equally long: whichever way it measures, only the token itself and
    # the opposite direction can be taken for the nearest.
    signs = torch.randn(50, 16).sign()
    signs[31], signs[20] = signs[7], -signs[7]
    signs[31, 0] *= -1
    got = _answer(nearest, signs, 7)
    expect(got != 7, "the token nearest to 7 is 7 itself: leave it out")
    expect(got != 20, "row 20 is the opposite of row 7: the nearest has the largest cosine")
    expect(got == 31, f"nearest to 7 is 31, not {got:g}: compare directions: the largest cosine")

    table = torch.randn(50, 8)
    table[7] = 3 * table[31] + 0.01 * torch.randn(8)  # one direction, another length
    table[3] = 0.8 * table[7] + 0.5 * torch.randn(8)  # at less distance than row 31
    table[12] = 30 * (table[31] + 0.7 * torch.randn(8))  # long, and not in this direction
    for token, want in ((7, 31), (31, 7)):
        got = _answer(nearest, table, token)
        why = _measured_by(table, token, got)
        expect(got == want, f"nearest to {token} is {want}, not {got:g}: {why}")


def _answer(nearest, table: torch.Tensor, token: int) -> int | float:
    """What `nearest` answers on a parameter, as the notebook's table is one."""
    given = torch.nn.Parameter(table.clone())
    got = ask(kind.number, nearest, given, token)
    expect(torch.equal(given, table), "your function changes `table`: work on a copy")
    return got


def _measured_by(table: torch.Tensor, token: int, got: float) -> str:
    """What to say of a wrong answer: the measure whose nearest it is, without the token or as the
    second best with it."""
    for why, scores in (
        ("length must not count: divide each row by its own", table @ table[token]),
        ("compare directions, not distances", -(table - table[token]).norm(dim=-1)),
    ):
        order = scores.argsort(descending=True).tolist()
        if got in (order[1], next(i for i in order if i != token)):
            return why
    return "compare directions: the largest cosine"
