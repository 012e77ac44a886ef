"""Can each cell be run twice in a row? `python -m smol.tests.twice [03 04 …]`.

A reader runs cells again all the time. A second run must not raise, and must print what the first
did; and the cells after it must print what is stored, though all before them ran twice. Of cells
tagged "nbval-ignore-output" only errors count. Those tagged "slow" run once without `--slow`.

The suite itself runs two cells so, with what they need (test_twice.py).
"""

import argparse
import copy
import os
import sys
import time

import nbformat

from smol.tests.processors import CELL_SECONDS, ROOT, printed


def raised(cell: nbformat.NotebookNode) -> str:
    """The error that a cell ended with, or nothing."""
    errors = [out for out in cell.outputs if out.output_type == "error"]
    return f"{errors[0].ename}: {errors[0].evalue}" if errors else ""


def complaint(stored, first, second) -> str:
    """What is wrong with a cell that was run twice, or nothing."""
    if error := raised(first):
        return f"raises {error}"
    if error := raised(second):
        return f"run again it raises {error}"
    if "nbval-ignore-output" in stored.metadata.get("tags", []):
        return ""
    was, now, again = (printed(cell).rstrip() for cell in (stored, first, second))
    if now != again:
        return f"prints\n{now}\nrun again\n{again}"
    return f"after cells run twice prints\n{now}\nstored is\n{was}" if now != was else ""


def twice(notebook: nbformat.NotebookNode, slow: bool = False) -> list[str]:
    """Runs each code cell of `notebook` twice in a row, those tagged "slow" only if `slow`; what
    is wrong, each with its cell's id."""
    from nbclient import NotebookClient

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    runs = [2 if slow or "slow" not in cell.metadata.get("tags", []) else 1 for cell in code]
    doubled = copy.deepcopy(notebook)
    doubled.cells = [copy.deepcopy(c) for c, n in zip(code, runs, strict=True) for _ in range(n)]
    NotebookClient(
        doubled,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    ).execute()
    done = iter(doubled.cells)
    found = []
    for cell, n in zip(code, runs, strict=True):
        ran = [next(done) for _ in range(n)]
        if said := complaint(cell, ran[0], ran[-1]):
            found.append(f"{cell.id}, {cell.source.splitlines()[0]!r}: {said}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.tests.twice", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", help="notebooks by the start of their name: 01 03 …")
    parser.add_argument("--slow", action="store_true", help='cells tagged "slow" twice as well')
    args = parser.parse_args()
    files = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if args.names:
        files = [file for file in files if file.name.startswith(tuple(args.names))]
    if not files:
        parser.error(f"no notebook starts with {' or '.join(args.names)}")
    sys.path.insert(0, str(ROOT))
    from conftest import OFFLINE_CPU

    os.environ.update(OFFLINE_CPU)  # as the stored outputs were made
    wrong = 0
    for file in files:
        start = time.perf_counter()
        found = twice(nbformat.read(file, as_version=4), args.slow)
        seconds = time.perf_counter() - start
        print(f"{file.stem:14} {seconds:5.0f} s  {len(found) or 'no'} cells", flush=True)
        for said in found:
            print("\n".join(f"      {line}" for line in said.splitlines()[:25]))
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
