"""The series itself: how long its notebooks take."""

import os
import subprocess
import sys
import time
from pathlib import Path

from smol.doctor import probe

ROOT = Path(__file__).resolve().parents[2]


def notebooks() -> dict:
    """Seconds of `pytest --nbval` for each notebook, with which weights (SMOL_WEIGHTS), and of the
    doctor's probe beside them."""
    (rate, busy), seconds = probe(), {}
    if busy:
        print(f"the machine is busy ({busy}): these times are no measure for others")
    for file in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        command = [sys.executable, "-m", "pytest", "--nbval", "-n0", "--quiet", str(file)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds[file.stem] = round(time.perf_counter() - start, 1)
        if done.returncode:
            raise AssertionError(f"{file.name} fails, no use in timing: {done.stdout[-500:]}")
        print(f"{file.stem:16} {seconds[file.stem]:5.1f} s")
    print(f"{'all':16} {sum(seconds.values()):5.1f} s; a training step {rate:.3f} s")
    weights = os.environ.get("SMOL_WEIGHTS") or "random"
    return {"probe_seconds": rate, "weights": weights, "seconds": seconds}
