"""A notebook without Jupyter: `python -m smol.tests.cells 05 [06 …]`.

Runs the code cells of a notebook in one Python, in order, and prints what they print: for a
machine with a GPU, say, that has PyTorch and the package's other needs but neither Jupyter nor
IPython. Where IPython is missing a small stand-in shows figures as their sentence. Ends at the
first cell that fails, says which, and leaves with exit status 1.
"""

import argparse
import ast
import importlib
import json
import linecache
import os
import sys
import time
import traceback
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_cells(file: Path) -> list[str]:
    """The source of each code cell (nbformat, too, may be missing)."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    sources = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [source if isinstance(source, str) else "".join(source) for source in sources]


def stand_in() -> bool:
    """Puts a small `IPython.display` where there is none; whether it did."""
    try:
        importlib.import_module("IPython.display")
    except ImportError:
        pass
    else:
        return False

    class Markdown:
        def __init__(self, data: str):
            self.data = data

        def __str__(self) -> str:
            return self.data

    def display(*objects, raw: bool = False, metadata: dict | None = None) -> None:
        for shown in objects:
            print(shown.get("text/plain", "") if raw else shown)

    module, part = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    part.display, part.Markdown, part.HTML = display, Markdown, Markdown
    module.display, module.get_ipython = part, lambda: None
    module.version_info = (9, 0)  # matplotlib asks
    sys.modules |= {"IPython": module, "IPython.display": part}
    return True


def run_cell(source: str, name: str, space: dict) -> None:
    """The cell, and what its last expression is worth, as Jupyter shows it."""
    linecache.cache[name] = len(source), None, source.splitlines(True), name  # for `same_code`
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), space)
        if value is not None and not source.rstrip().endswith(";"):
            print(repr(value))


def run(file: Path) -> str:
    """Runs a notebook's cells in its folder; which of them failed, or nothing."""
    stand_in()
    before, space = Path.cwd(), {"__name__": "__main__"}
    os.chdir(file.parent)
    try:
        for number, source in enumerate(code_cells(file), 1):
            print(f"\n-- cell {number}: {(source.splitlines() or [''])[0]}", flush=True)
            try:
                run_cell(source, f"<code cell {number} of {file.name}>", space)
            except Exception:
                traceback.print_exc()
                return f"{file.name}: code cell {number} failed (see above)"
    finally:
        os.chdir(before)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.tests.cells", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="+", help="notebooks by the start of their name: 05 …")
    args = parser.parse_args()
    folder = ROOT / "notebooks"
    files = [file for n in args.names for file in sorted(folder.glob(f"{n}*.ipynb"))]
    if not files:
        parser.error(f"no notebook starts with {' or '.join(args.names)}")
    failed = []
    for file in files:
        start = time.perf_counter()
        failed.append(run(file))
        print(f"\n{file.stem}: {failed[-1] or 'every cell ran'}", end=", ")
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
