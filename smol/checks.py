"""What a setting may be: its type and its range, looked at in one place, before any work.

Each function gives the value back as a plain one of Python (of NumPy's 3 the int, of a Path the
str), so that what is good enough to work with can be saved as well. Or it raises ValueError, which
names the setting, what was wanted and what was given.
"""

import math
import numbers
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from pathlib import Path


def whole(name: str, value, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`. True and 2.0 are none."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {shown(value)}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be {most} or less, got {shown(value)}")
    return int(value)


def number(name: str, value, wanted: str, fits: Callable[[float], bool]) -> float:
    """A number that `fits`, as a float; `wanted` says in words which do."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    try:
        plain = float(value)
    except OverflowError:  # a whole number larger than any float
        plain = math.inf
    if not fits(plain):  # NaN fits no comparison
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    return plain


def flag(name: str, value) -> bool:
    """True or False, and nothing that could be taken for one of them."""
    if type(value).__name__ not in ("bool", "bool_"):  # the latter is NumPy's
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def one_of(name: str, value, known: Iterable[str]) -> str:
    """One of the names that are `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} {shown(value)} is none of {', '.join(known)}")
    return value


def named(name: str, value) -> str:
    """A name or a path, as a str that is not empty: "" would be the folder one happens to be in,
    which is what an unset variable of a shell script leaves."""
    if not isinstance(value, str | PathLike) or not isinstance(fspath(value), str):
        raise ValueError(f"{name} must be a name or a path, got {shown(value)}")
    if not fspath(value).strip():
        raise ValueError(f"{name} is empty: give a name or a path ('.' is the folder you are in)")
    return fspath(value)


def path(name: str, value) -> Path:
    """A path that is not empty, with a "~" at its beginning made the home of the user, which a
    shell does not do after an "="."""
    given = named(name, value)
    if "\0" in given:
        raise ValueError(f"{name} {given!r:.60} holds a NUL, which no path can: name another")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:  # a user that there is not
        raise ValueError(f"{name} {shown(given)} names no home: write the whole path") from error


def seed(name: str, value) -> int:
    """A seed that PyTorch takes and random, NumPy and JSON do too: 0 to 2⁶³ - 1."""
    return whole(name, value, least=0, most=2**63 - 1)


def token_ids(name: str, value) -> list[int]:
    """The ids of one text as a list: of a list, an array, a tensor (T,) or (1, T)."""
    ids = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(ids, str | bytes | dict) or not isinstance(ids, Iterable):
        raise ValueError(f"{name} must be a list of token ids, got {shown(value)}")
    ids = list(ids)
    if len(ids) == 1 and isinstance(ids[0], list):  # a batch of one
        ids = ids[0]
    return [whole(f"each of {name}", token, least=0, most=2**63 - 1) for token in ids]


def texts_of(name: str, value) -> Iterable:
    """Something that gives texts, one after another. A table gives the names of its columns."""
    if isinstance(value, dict) or hasattr(value, "columns") or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list of texts, got {shown(value)}")
    return value


def shown(value) -> str:
    """A value as a message shows it: itself where that is short, else what it is."""
    if isinstance(value, int) and value.bit_length() > 2000:  # Python writes out no such numbers
        return f"a number of {value.bit_length():,} bits"
    if value is None or isinstance(value, str | bytes | int | float | PathLike):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}…"
    return f"a {type(value).__name__}"
