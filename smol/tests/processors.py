"""Would another processor print the same? `python -m smol.tests.processors [generic avx2 native]`.

The libraries beneath PyTorch choose their kernels by what a processor can do, and each kernel adds
in an order of its own. Environment variables make them choose as on an older machine: "generic" is
any x86-64, "avx2" most laptops, "native" what is here (an ARM processor has one kind only). Run
before a release: the whole suite under each, and for each test that fails what it said. Generic
kernels take four times as long, and bf16 thirty times, so the limits of time are this command's.

The suite itself runs, with generic kernels, the cells of notebook 2 that print a measured
number: `cells_for` and `differences` (test_processors.py).
"""

import argparse
import copy
import os
import re
import subprocess
import symtable
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import nbformat

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS = {
    "generic": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "native": {},
}
CELL_SECONDS = 3000  # of a notebook's cell
NUMBER = re.compile(r"\d\.\d|\d ?%|\de[+-]?\d")  # as a measurement is printed


def environment(processor: str) -> dict[str, str]:
    """This process' environment with the kernels of `processor`, a key of PROCESSORS."""
    every = {key for settings in PROCESSORS.values() for key in settings}
    own = {key: value for key, value in os.environ.items() if key not in every}
    return {**own, **PROCESSORS[processor]}


def failures(report: Path) -> list[tuple[str, str]]:
    """Of pytest's JUnit report, each test or cell that did not pass, and what it said."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        for part in case:
            if part.tag in ("failure", "error"):
                said = part.get("message") or ""
                text = said if len(said) > 20 else f"{said}\n{part.text or ''}"
                text = re.sub(r"(\x1b|#x1B)\[\d+m", "", text)  # nbval's colours
                found.append((f"{case.get('classname')} {case.get('name')}", text.strip()))
    return found


def run(processor: str, tests: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The last line of `pytest --nbval` under these kernels, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "--nbval", "--quiet", f"--junitxml={report}"]
        command += [f"--nbval-cell-timeout={CELL_SECONDS}", *tests]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(processor), capture_output=True, text=True
        )
        last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
        if not report.is_file():  # pytest itself did not come so far
            return last, [("pytest", done.stderr.strip() or last)]
        found = failures(report)
    if done.returncode and not found:
        found = [("pytest", f"exit status {done.returncode}")]
    return last, found


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell shows in words: what nbval compares, without stderr."""
    shown = []
    for output in cell.outputs:
        if output.output_type == "stream":
            shown.append(output.text if output.name == "stdout" else "")
        elif output.output_type == "error":
            shown.append(f"{output.ename}: {output.evalue}")
        else:
            shown += [str(v) for k, v in sorted(output.data.items()) if k.startswith("text/")]
    return "".join(shown)


def names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell makes at its top level, and those that it needs of cells before."""
    tables = [symtable.symtable(source, "cell", "exec")]
    top = tables[0].get_symbols()
    made = {s.get_name() for s in top if s.is_assigned() or s.is_imported()}
    read = {s.get_name() for s in top if s.is_referenced()}
    while tables:
        table = tables.pop()
        tables += table.get_children()
        read |= {s.get_name() for s in table.get_symbols() if s.is_global()}
    return made, read - made


def needed_by(target: int, made: Sequence[set[str]], read: Sequence[set[str]]) -> set[int]:
    """The cell and those before it that make a name which it, or one of them, reads."""
    needed, missing = {target}, set(read[target])
    for k in range(target - 1, -1, -1):
        if made[k] & missing:
            needed.add(k)
            missing |= read[k]
    return needed


def cells_for(
    notebook: nbformat.NotebookNode, wanted: Callable[[nbformat.NotebookNode], bool]
) -> nbformat.NotebookNode:
    """The code cells that are `wanted`, with the set-up cell and the cells that they need.

    What needs a cell that is tagged "slow" is left to the commands. A cell too few would end in
    a NameError.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    made, read = zip(*(names(cell.source) for cell in code), strict=True)
    chosen = {0}  # the set-up cell
    for target, cell in enumerate(code):
        if not wanted(cell):
            continue
        needed = needed_by(target, made, read)
        if not any("slow" in code[k].metadata.get("tags", []) for k in needed):
            chosen |= needed
    part = copy.deepcopy(notebook)
    part.cells = [copy.deepcopy(code[k]) for k in sorted(chosen)]
    return part


def prints_a_measured_number(cell: nbformat.NotebookNode) -> bool:
    """It does, and its output is compared."""
    ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
    return not ignored and bool(NUMBER.search(printed(cell)))


def differences(notebook: nbformat.NotebookNode, processor: str) -> list[str]:
    """Runs a notebook's cells under these kernels; for each compared one that prints something
    else than is stored, both texts."""
    from nbclient import NotebookClient

    fresh = copy.deepcopy(notebook)
    folder = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(
        fresh, timeout=CELL_SECONDS, kernel_name="python3", allow_errors=True, resources=folder
    ).execute(env=environment(processor))
    found = []
    for old, new in zip(notebook.cells, fresh.cells, strict=True):
        compared = "nbval-ignore-output" not in old.metadata.get("tags", [])
        if compared and printed(old) != printed(new):
            found.append(f"{old.id}: stored\n{printed(old)}now\n{printed(new)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.tests.processors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("processors", nargs="*", help=f"{', '.join(PROCESSORS)}; all without it")
    parser.add_argument("--tests", nargs="*", default=[], help="files to run; all without it")
    args = parser.parse_args()
    names = args.processors or list(PROCESSORS)
    if unknown := [name for name in names if name not in PROCESSORS]:
        parser.error(f"no processor {', '.join(unknown)}: choose from {', '.join(PROCESSORS)}")
    failed = 0
    for name in names:
        start = time.perf_counter()
        last, found = run(name, args.tests)
        print(f"{name:8} {time.perf_counter() - start:6.0f} s  {last}", flush=True)
        for test, said in found:
            print(f"  {test}\n" + "\n".join(f"      {line}" for line in said.splitlines()[:25]))
        failed += len(found)
    print("every processor gives the same" if not failed else f"{failed} differ: see above")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
