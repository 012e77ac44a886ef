"""What is said beside the work, and how a command ends: nothing here may cost a run.

A bar, a remark and an error message are decoration. Where they cannot be written (a reader that
went away, a full disk, no stderr at all, an old console that has no ×) the work goes on.
"""

import contextlib
import functools
import os
import select
import sys
from collections.abc import Callable


class Aside:
    """A text stream for bars and remarks: stderr while that can be written, then nothing.

    What its encoding lacks becomes "?". What a full pipe has no room for within `patience` seconds
    is left out: its reader may be looking elsewhere for hours. After the first failure it is
    silent, and so is stderr: Python would try once more at the end and turn the exit status into
    120.
    """

    def __init__(self, patience: float = 0.0):
        self._stream, self._patience = sys.stderr, patience

    def write(self, text: str) -> int:
        """The number of characters, whatever became of them."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Writes out what was held back, where that is possible."""
        self._try("flush")

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return bool(self._try("isatty"))

    @property
    def encoding(self) -> str:
        """The stream's, by which tqdm chooses what to draw its bar with."""
        return getattr(self._stream, "encoding", None) or "ascii"

    def fileno(self) -> int:
        """The stream's number, by which tqdm asks how wide the terminal is. OSError for none."""
        if self._stream is None:
            raise OSError("there is no stderr")
        return self._stream.fileno()

    def _try(self, name: str, *text: str):
        if self._stream is None or (name != "isatty" and self._full()):
            return None
        try:
            return getattr(self._stream, name)(*text)
        except UnicodeEncodeError:
            plain = [part.encode(self.encoding, "replace").decode(self.encoding) for part in text]
            return self._try(name, *plain)
        except (OSError, ValueError, AttributeError):  # ValueError: it is closed
            _silence(self._stream)
            self._stream = None
            return None

    def _full(self) -> bool:
        """Whether a write would wait. Not known of a stream that has no number, nor on Windows."""
        try:
            return not select.select([], [self._stream.fileno()], [], self._patience)[1]
        except (OSError, ValueError, AttributeError):
            return False


def say(text: str) -> None:
    """One line to stderr, or nowhere."""
    aside = Aside(patience=5.0)
    aside.write(f"{text}\n")
    aside.flush()


def command(name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Makes of `main` a command that ends as one expects, whatever becomes of its streams.

    A user's mistake (ValueError, OSError) is one line, "name: what", and exit status 1, and so is
    too little memory; a reader that went away (`| head`) ends it in silence with 141, Ctrl-C with
    130, as the shell has them.
    """

    def wrap(main: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(*arguments) -> int:
            _open_standard_streams()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    stream.reconfigure(errors="replace")
            try:
                status = main(*arguments)
                if sys.stdout is not None:
                    sys.stdout.flush()  # what cannot be written shows here, and not after the end
                return status
            except BrokenPipeError:
                status = 141
            except (ValueError, OSError) as error:
                # str() of an OSError has its number first; the system's own need the file's name.
                bare = isinstance(error, OSError) and error.strerror and error.filename is None
                say(f"{name}: {error.strerror if bare else error}")
                status = 1
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                remedy = "take smaller batches, shorter texts or a smaller model"
                say(f"{name}: there is not enough memory ({reason(error)}): {remedy}")
                status = 1
            except KeyboardInterrupt:
                say("")
                status = 130
            try:
                if sys.stdout is not None:
                    sys.stdout.flush()
            except (OSError, ValueError):
                _silence(sys.stdout)
            return status

        return run

    return wrap


def out_of_memory(error: Exception) -> bool:
    """Whether that is what it says. PyTorch has a type of its own for it on GPUs only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


def reason(error: BaseException) -> str:
    """The first line of what an error says; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _open_standard_streams() -> None:
    """Gives a process that was started without stdin, stdout or stderr empty ones: else the next
    file that it opens gets that number, and a warning of a C library is written into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _silence(stream) -> None:
    """Leads a stream that cannot be written, with what it still holds, to nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
