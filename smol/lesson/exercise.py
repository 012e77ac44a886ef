"""What an exercise is: a check that never raises, and how it says what is wrong.

A check is a function of the reader's answer under `@exercise`. It calls the answer with `ask`,
and states with `expect` and `expect_close` what must hold and what to print where it does not.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch

from smol.config import SmolLM2Config
from smol.parity import compare


class NotAttempted(Exception):
    """The reader has not begun: the answer is `...`."""


class NotYet(Exception):
    """The answer is wrong; the text says how."""


def exercise(check: Callable) -> Callable:
    """Makes of `check` one that never raises but prints a verdict on the reader's answer.

    "not attempted yet" for a stub that returns `...`, "not yet: why" for a wrong answer or one
    that raises, "correct" for the rest.
    """

    @functools.wraps(check)
    def verdict(*answer):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                check(*answer)
        except NotAttempted:
            print("not attempted yet")
        except NotYet as reason:
            print(f"not yet: {reason}")
        except Exception as error:
            print(f"not yet: it raised {type(error).__name__}: {error}")
        else:
            print("correct")

    return verdict


def ask(function: Callable, *args):
    answer = function(*args)
    if answer is ...:
        raise NotAttempted
    return answer


def expect(ok: bool, otherwise: str) -> None:
    if not ok:
        raise NotYet(otherwise)


def expect_close(got, want: torch.Tensor, what: str) -> None:
    expect(isinstance(got, torch.Tensor), f"{what} is a {type(got).__name__}, not a tensor")
    expect(got.dtype == want.dtype, f"{what} is {got.dtype}, not {want.dtype}")
    expect(got.shape == want.shape, f"{what} is {list(got.shape)}, not {list(want.shape)}")
    right = torch.isclose(got, want, atol=1e-5, rtol=1e-4)
    close = right.all().item()
    if want.numel() <= 4:  # so few that both can be shown
        shown = [[float(f"{n:.5g}") for n in t.flatten().tolist()] for t in (got, want)]
        got_it, wanted = (numbers[0] if want.dim() == 0 else numbers for numbers in shown)
        expect(close, f"{what} is {got_it}, should be {wanted}")
    if not close:
        apart = compare(got, want)  # not how many bits are equal: that depends on the processor
        where = f"largest difference {apart.largest:.2g} at {list(apart.where)}"
        raise NotYet(f"{what} is off: {100 * right.float().mean():.0f} % right, {where}")


SMALL = SmolLM2Config(
    vocab_size=256,
    hidden_size=48,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=1200,
    initializer_range=48**-0.5,
)
UNTIED = dataclasses.replace(SMALL, tie_word_embeddings=False)
