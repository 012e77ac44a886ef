"""What an exercise is: a check that never raises, and how it says what is wrong.

A check is a function of the reader's answer under `@exercise`. `ask(kind.number, answer, …)` calls
the answer and gives back what it returns as the kind that is wanted: a plain value, which can be
compared and put into any message (smol/lesson/kind.py). `expect`, `expect_equal`, `expect_like`
and `expect_close` state what must hold and what to print where it does not.
"""

import _thread
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable

import torch

from smol.config import SmolLM2Config
from smol.lesson.kind import NotYet, Raised, described, expect, number, plain, readers_code, tensor
from smol.parity import compare

MINUTES = 1  # of a check: the longest takes a tenth of one on two cores


class NotAttempted(Exception):
    """The reader has not begun: the answer is `...`."""


class Nearly(NotYet):
    """The answer is right but for its rounding; the text says how far, and what rounds alike."""


def exercise(check: Callable | None = None, *, instead: object = None) -> Callable:
    """Makes of `check` one that never raises but prints a verdict on the reader's answer.

    "not attempted yet" for a stub that returns `...`, "not yet: why" for a wrong answer or one
    that raises, "nearly: why" for one that only rounds otherwise; for the rest what `check`
    returns, "correct" where that is nothing. What never ends is interrupted. With `instead` it
    gives back what the notebook goes on with: the answer if it is right, else `instead`.
    """
    if check is None:
        return functools.partial(exercise, instead=instead)

    @functools.wraps(check)
    def verdict(*answer):
        right = False
        try:
            with _ended_in(MINUTES), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                said = check(*answer) or "correct"
            right = True
        except NotAttempted:
            said = "not attempted yet"
        except Nearly as reason:
            said = f"nearly: {reason}"
            said += " The package's part goes on in its place." if instead is not None else ""
        except NotYet as reason:
            said = f"not yet: {reason}"
        except Raised as error:
            said = f"not yet: it raised {error}"
        except Exception as error:  # the check's own: its words would not help the reader
            said = f"not yet: the check cannot work with this answer ({type(error).__name__})"
        line = " ".join(said.splitlines())
        print(line if len(line) <= 600 else f"{line[:600]}…")
        return None if instead is None else answer[0] if right else instead

    return verdict


@contextlib.contextmanager
def _ended_in(minutes: float):
    """NotYet where what is within still runs then, as `while True` does. Only the main thread can
    be interrupted, and it is the one that runs a notebook's cells."""
    over = threading.Event()

    def interrupt() -> None:
        over.set()
        _thread.interrupt_main()

    timer = threading.Timer(60 * minutes, interrupt)
    timer.daemon = True
    if threading.current_thread() is threading.main_thread():
        timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not over.is_set():  # the reader's own
            raise
        raise NotYet(
            f"after {60 * minutes:.2g} seconds your code still runs: what should end its loop, "
            "and does each round come nearer to it?"
        ) from None
    finally:
        timer.cancel()


def ask(kind: Callable, function: Callable, *args):
    """What the reader's function answers, as the kind that is wanted."""
    if function is ...:
        raise NotAttempted
    expect(callable(function), f"your answer is {described(function)}, a function is wanted")
    with readers_code():
        answer = function(*args)
    if answer is ...:
        raise NotAttempted
    expect(answer is not None, "your function returns None: is a return missing?")
    return kind(answer)


def readers_module(made: type, *args, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module of the reader's class, with the tensors of `state` themselves, not copies."""
    if made is ...:
        raise NotAttempted
    is_module = isinstance(made, type) and issubclass(made, torch.nn.Module)
    expect(is_module, f"your answer is {described(made)}, a class of nn.Module is wanted")
    with readers_code():
        with torch.device("meta"):  # no memory, no time for random weights
            module = made(*args)
        module.load_state_dict(state, assign=True)
    return module.eval()


def expect_equal(got, want, what: str) -> None:
    expect(plain(got) == want, f"{what}: {plain(got)!r}, should be {want!r}")


def expect_like(got, want: torch.Tensor, what: str) -> torch.Tensor:
    """A tensor of the dtype and shape of `want`."""
    got = tensor(got, what)
    expect(got.dtype == want.dtype, f"{what} is {got.dtype}, not {want.dtype}")
    expect(got.shape == want.shape, f"{what} is {list(got.shape)}, not {list(want.shape)}")
    return got


def expect_close(got, want: torch.Tensor | float, what: str) -> None:
    """A tensor nearly equal to `want`; where that is a number, a number of whatever type."""
    want = torch.as_tensor(want)
    if want.dim() == 0:
        want = want.double()
        got = torch.tensor(float(number(got, what))).to(want)
    got = expect_like(got, want, what)
    right = torch.isclose(got, want, atol=1e-5, rtol=1e-4)
    close = right.all().item()
    if want.numel() <= 4:  # so few that both can be shown
        shown = [[float(f"{n:.5g}") for n in t.flatten().tolist()] for t in (got, want)]
        mine, right_one = (row[0] if want.dim() == 0 else row for row in shown)
        expect(close, f"{what} is {mine}, should be {right_one}")
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
