"""Files that are whole or not there: written beside and renamed, on the disk, checked by hash; and
the folder for what need not be made twice."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

CACHE = Path(__file__).parents[1] / "data" / "cache"


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
        for name in names:  # before the first one is in its place
            if (directory / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder there")
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


def cache_folders() -> list[Path]:
    """Where downloads and tokens may lie: the checkout's data/cache, then a folder of the user,
    for a checkout that cannot be written (a container's, a workshop's)."""
    folders = [CACHE]
    with suppress(RuntimeError):  # a user without a home, as in some containers
        own = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        folders.append(Path(own, "smol"))
    return folders


def cached(name: str) -> Path | None:
    """The file of that name in one of the `cache_folders`; None where there is none."""
    return next((f for folder in cache_folders() if (f := folder / name).is_file()), None)


def cache_folder() -> Path:
    """The first of the `cache_folders` that can be written. OSError, with the remedy, for none."""
    for folder in cache_folders():
        with suppress(OSError):
            writable(folder)
            return folder
    raise OSError(
        f"{' and '.join(map(str, cache_folders()))} cannot be written: set XDG_CACHE_HOME to a "
        "folder that can"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, no other process may do the same in this folder: OSError where one does by now.

    The system lets go of it with the process, however that ends. Where it has no such lock
    (Windows, some network disks) there is none.
    """
    try:
        import fcntl

        held = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(
                f"another run is writing into {folder}: end that one, or name another folder"
            ) from error
        except OSError:  # the disk knows no locks
            pass
        yield
    finally:
        os.close(held)


def writable(folder: Path) -> None:
    """Makes the folder where it is missing. OSError, with the remedy, where nothing can be
    written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise OSError(f"{folder} is a file, not a folder: name another") from error
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{folder} cannot be written ({why}): name another folder") from error
