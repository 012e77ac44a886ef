"""Cells that are run twice in a row: one that was once broken by it, and the command."""

import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from smol.tests import twice
from smol.tests.processors import ROOT, cells_for


def test_a_second_run_gives_the_same():
    """Of a cell that was once broken by it; all cells: `python -m smol.tests.twice`."""
    begins = "made = sorted(set("
    notebook = nbformat.read(ROOT / "notebooks" / "04_tokenizer.ipynb", as_version=4)
    part = cells_for(notebook, lambda cell: cell.source.startswith(begins))
    assert part.cells[-1].source.startswith(begins)
    assert twice.twice(part) == []


def cell(source: str, shown: str, *tags: str):
    outputs = [new_output("stream", name="stdout", text=shown)]
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


CELLS = [
    cell("n, m = [], []\nprint('fine')", "fine\n"),
    cell("n.append(1)\nprint(len(n))", "1\n"),
    cell("print(len(n))", "1\n"),
    cell("m.append(1)\nprint(1 / (2 - len(m)))", "1.0\n", "nbval-ignore-output"),
    cell("m.append(1)\nprint(len(n))", "9\n", "nbval-ignore-output"),
    cell("n.append(1)\nprint(len(n))", "3\n", "slow"),
]


def test_the_command_says_which_cells_cannot_be_run_twice(monkeypatch, tmp_path, capsys):
    notebook = new_notebook(cells=CELLS)
    for number, each in enumerate(notebook.cells):
        each.id = f"cell-{number}"
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "01_some.ipynb")
    monkeypatch.setattr(twice, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "01"])
    assert twice.main() == 1
    said = capsys.readouterr().out
    assert "3 cells" in said and "cell-0" not in said and "cell-4" not in said
    assert "cell-1, 'n.append(1)': prints\n      1\n      run again\n      2" in said
    assert "cell-2, 'print(len(n))': after cells run twice prints\n      2\n" in said
    assert "cell-3, 'm.append(1)': run again it raises ZeroDivisionError" in said
    assert "cell-5" not in said  # tagged "slow": run once
    assert len(twice.twice(notebook, slow=True)) == 4


def test_the_command_names_what_is_no_notebook(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "99"])
    with pytest.raises(SystemExit):
        twice.main()
    assert "no notebook starts with 99" in capsys.readouterr().err
