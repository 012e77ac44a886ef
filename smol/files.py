"""Files that are whole or not there: written beside and renamed, on the disk, checked by hash."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def sha256_of(file: Path) -> str:
    """A file's sha256, in hexadecimal."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_hash(file: Path, expected: str) -> None:
    """Raises ValueError where a file's sha256, in hexadecimal, is not the one expected."""
    if (got := sha256_of(file)) != expected:
        raise ValueError(
            f"{file} has sha256 {got[:16]}…, published is {expected[:16]}…: delete it and fetch "
            "it again"
        )


def on_disk(*files: Path) -> None:
    """Comes back when the files' bytes are on the disk, and not only on their way there."""
    for file in files:
        with file.open("rb+") as f:  # Windows refuses it for a file opened to read
            os.fsync(f.fileno())


@contextmanager
def written_beside(directory: Path, *names: str) -> Iterator[list[Path]]:
    """Yields a path beside each file; they take the files' places only if the block succeeds.

    What was written is on the disk by then: a power cut leaves each file as it was, or whole. An
    OSError of the block, which is to do nothing but write, says that and names the directory.
    """
    files = [directory / f".{name}.{os.getpid()}.part" for name in names]
    try:
        yield files
        on_disk(*files)
        for file, name in zip(files, names, strict=True):
            os.replace(file, directory / name)
    except (OSError, SafetensorError) as error:  # the latter is how the Rust side says "disk full"
        code = getattr(error, "errno", None) or errno.EIO
        why = getattr(error, "strerror", None) or error
        what = f"{directory} could not be written ({why}); what stood there still stands"
        raise OSError(code, what) from error
    finally:
        for file in files:
            file.unlink(missing_ok=True)
