"""The series itself: how long its notebooks take, and the parity that notebook 3 establishes."""

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

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


def parity() -> dict:
    """Parity of SmolLM2-135M, and the bug table: notebook 3's own cells, up to that table."""
    import nbformat

    space, start = {}, time.perf_counter()
    notebook = nbformat.read(ROOT / "notebooks/03_parity.ipynb", as_version=4)
    # The cells switch gradients off; the next benchmark needs them as they were.
    with contextlib.redirect_stdout(io.StringIO()), torch.enable_grad():
        for cell in (c for c in notebook.cells if c.cell_type == "code"):
            exec(cell.source, space)
            if "caught" in space:
                break
    caught, report = space["caught"], space["report"]
    totals = {name: sum(row[name] for row in caught.values()) for name in caught["no_mask"]}
    print(report)
    print(f"of {len(caught)} bugs: {totals}, in {time.perf_counter() - start:.0f} s")
    if not report.ok:
        raise AssertionError(f"not the same model: {report.first}")
    rungs = {rung.name: rung.seen for rung in report.rungs}
    return {"rungs": rungs, "bugs": len(caught), "caught": totals, "by_bug": caught}
