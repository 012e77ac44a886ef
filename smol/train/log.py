"""What a run says: metrics.jsonl, and the bar in the terminal.

A row of metrics.jsonl has `step` (how many were taken) and, of that step's batch, `loss` (nats a
target, before its update), `lr` and `grad_norm` (before clipping); `tokens` and `unique_tokens`
seen since the run began; `tokens_per_second` since the last row. Where the model was evaluated:
`val_loss` (nats a token), `val_bits_per_byte`, `val_over_floor` (0.05 is 5 %) and a `sample`.
"""

import contextlib
import json
import os
import time
from pathlib import Path

from smol.checks import path
from smol.files import on_disk, written_beside
from smol.terminal import Aside, say
from smol.train.settings import TrainConfig


class Log:
    """metrics.jsonl: an object a line, written at once. A resumed run drops what it repeats.

    A row that cannot be written ends no run: it waits, and goes before the next one. Nor does a
    file that somebody has damaged: it is put aside.
    """

    def __init__(self, file: Path, after: int):
        try:
            kept = [row for row in read_log(file) if row["step"] <= after] if file.exists() else []
        except (ValueError, OSError) as error:
            aside = file.with_name(f"{file.name}.{time.time_ns()}")
            os.replace(file, aside)
            say(f"{error}: it is put aside as {aside.name}, and the log begins here")
            kept = []
        with written_beside(file.parent, file.name) as (part,):
            part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.file, self._size = file, file.stat().st_size
        self._waiting, self._failed = b"", False

    def add(self, row: dict) -> None:
        """Appends one row, as a line."""
        self._waiting += _line(row)
        self._write()

    def flush(self) -> None:
        """Appends what still waits and brings all rows to the disk: a checkpoint is there soon,
        and a run that goes on from it does not write them again."""
        self._write()
        with contextlib.suppress(OSError):
            on_disk(self.file)

    def _write(self) -> None:
        try:
            with open(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as f:
                # What a full disk took of a row is written over.
                f.seek(min(self._size, f.seek(0, os.SEEK_END)))
                f.truncate()
                f.write(self._waiting)
                f.flush()
                self._size = f.tell()
            self._waiting, self._failed = b"", False
        except OSError as error:
            if not self._failed:
                say(f"{self.file} cannot be written ({error}): the run goes on, its rows wait")
            self._failed = True


def _line(row: dict) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read_log(file: str | Path) -> list[dict]:
    """The rows of a metrics.jsonl. A last line that a kill cut short is left out.

    Raises ValueError, with its number, for any other line that is no row.
    """
    rows = []
    file = path("the log", file)
    *lines, last = file.read_bytes().split(b"\n")  # empty, or cut short
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except ValueError as error:
            raise ValueError(
                f"{file}: line {number} is no row of a run ({error}): delete that line"
            ) from error
    with contextlib.suppress(ValueError):  # what lacks its line end only is still a row
        rows.append(_row(last))
    return rows


def _row(line: bytes) -> dict:
    row = json.loads(line)
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise ValueError("it has no step")
    return row


class Progress:
    """The bar, the words beside it, and the clock: in the terminal of one process only."""

    def __init__(self, config: TrainConfig, step: int, shown: bool):
        from tqdm import tqdm

        about = {"desc": config.title, "unit": " steps", "disable": not shown}
        self._aside = Aside()
        self._bar = tqdm(total=config.steps, initial=step, file=self._aside, **about)
        self._shown = shown
        self.restart_clock()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def step(self, targets: int) -> None:
        """One step more, of so many targets."""
        self._tokens += targets
        self._bar.update()

    def restart_clock(self) -> None:
        """What `tokens_per_second` counts begins here."""
        self._since, self._tokens = time.perf_counter(), 0

    def tokens_per_second(self) -> float:
        """Targets a second since the clock was restarted."""
        return self._tokens / (time.perf_counter() - self._since)

    def show_loss(self, loss: float) -> None:
        """Writes it behind the bar."""
        self._bar.set_postfix(loss=f"{loss:.3f}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._shown:
            self._bar.write(text, file=self._aside)
