"""The kinds of answers that checks ask for, and what is said of an answer of another kind.

A kind is a function of what the reader's code returned. It gives back a plain value of Python (or
a tensor), which can be compared and put into any message; or it raises NotYet, which names what
came instead. "Your answer" in that sentence can be another `what`: a part of it.
"""

import contextlib
import dataclasses
import numbers
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

MOST = 10_000  # items of an answer: what yields more will not end
TOO_LARGE = 2**1000  # for a whole number: floats end at 2**1024


class NotYet(Exception):
    """The answer is wrong; the text says how."""


class Raised(Exception):
    """The reader's own code raised; the text is its error."""


@contextlib.contextmanager
def readers_code():
    """An error within is the reader's and told as such; one elsewhere would be the check's."""
    try:
        yield
    except Exception as error:
        raise Raised(f"{type(error).__name__}: {error}") from error


def expect(ok: bool, otherwise: str) -> None:
    if not ok:
        raise NotYet(otherwise)


def number(answer, what: str = "your answer") -> int | float:
    """A number of Python, of NumPy, or a tensor's only one."""
    value = _only(answer)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    expect(is_number, f"{what} is {described(answer)}, a number is wanted")
    if not isinstance(value, numbers.Integral):
        return float(value)
    expect(abs(value) < TOO_LARGE, f"{what} is a number of more than 300 digits")
    return int(value)


def index(answer, end: int, what: str) -> int:
    """A whole number from 0 up to `end`, which is not one of them."""
    value = number(answer, what)
    expect(value in range(end), f"{what} is {value}, not one of 0 to {end - 1}")
    return int(value)


def truth(answer, what: str = "your answer") -> bool:
    """True or False: `(a == b).all()` is a tensor that holds one of them, and as good."""
    value = _only(answer)
    either = isinstance(value, int | float) and value in (0, 1)
    expect(either, f"{what} is {described(answer)}, True or False is wanted")
    return bool(value)


def text(answer, what: str = "your answer") -> str:
    expect(isinstance(answer, str), f"{what} is {described(answer)}, a str is wanted")
    return answer


def tensor(answer, what: str = "your answer") -> torch.Tensor:
    expect(isinstance(answer, torch.Tensor), f"{what} is {described(answer)}, not a tensor")
    return answer.detach()


def each(answer, what: str = "your answer", wanted: str = "a list") -> Iterator:
    """The items of a list, a tuple, a tensor, a generator, one by one as they are made."""
    listing = isinstance(answer, Iterable) and not isinstance(answer, str | bytes | dict | set)
    if isinstance(answer, torch.Tensor | np.ndarray):
        listing = answer.ndim > 0
    expect(listing, f"{what} is {described(answer)}, {wanted} is wanted")
    end = object()
    with readers_code():
        iterator = iter(answer)
    for _ in range(MOST):
        with readers_code():
            item = next(iterator, end)
        if item is end:
            return
        yield item
    raise NotYet(f"{what} does not end: {MOST:,} items so far")


def items(answer, what: str = "your answer", wanted: str = "a list") -> list:
    """The items as they are: the check says what each must be."""
    return [*each(answer, what, wanted)]


def parts(count: int, wanted: str) -> Callable:
    """The kind of a tuple of `count` parts, or of a list of as many; `wanted` says of which."""

    def kind(answer, what: str = "your answer") -> list:
        found = items(answer, what, wanted)
        expect(len(found) == count, f"{what} has {len(found)} parts, {wanted} is wanted")
        return found

    return kind


def listed(answer, what: str = "your answer") -> list:
    """The items as plain values, to be compared with those of a list."""
    return [plain(item) for item in each(answer, what)]


def table(answer, what: str = "your answer") -> dict:
    """A dict or a Counter of plain values."""
    expect(isinstance(answer, dict), f"{what} is {described(answer)}, a dict is wanted")
    return {plain(key): plain(value) for key, value in answer.items()}


# -- values ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Other:
    """Stands for a value that no check asks for, and whose own code had better not be called."""

    kind: str

    def __repr__(self) -> str:
        return self.kind


def plain(value):
    """The value with Python's numbers, strings, lists and tuples only: `==` and repr are safe."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        same = list if isinstance(value, list) else tuple
        return same(plain(part) for part in value)
    known = value is None or isinstance(value, str | bytes | float)
    known = known or (isinstance(value, int) and abs(value) < TOO_LARGE)
    return value if known else Other(described(value))


def _only(answer):
    """Of a tensor or an array of one number that number: what is drawn often has shape (1,)."""
    held = isinstance(answer, torch.Tensor | np.ndarray | np.generic)
    return answer.reshape(()).tolist() if held and answer.shape in ((), (1,)) else answer


def described(value) -> str:
    """A value in the middle of a sentence: itself where that is short, else what it is."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{name} of shape {list(value.shape)}"
    short = type(value) in (bool, float) or (type(value) is int and abs(value) < TOO_LARGE)
    if short or value is None or value is ...:
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
