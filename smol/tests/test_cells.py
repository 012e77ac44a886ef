"""A notebook's cells without Jupyter, and without IPython."""

import json
import subprocess
import sys

import pytest

from smol.tests import cells

WITHOUT_IPYTHON = "import sys; sys.modules['IPython'] = None; from smol.tests import cells; "


def notebook(folder, *sources: str):
    """A small notebook: the cells' code, one of them as a list of lines, and some Markdown."""
    made = [{"cell_type": "code", "source": source} for source in sources]
    made[0]["source"] = made[0]["source"].splitlines(True)
    file = folder / "01_small.ipynb"
    file.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "# A"}, *made]}))
    return file


SMALL = (
    "from smol.lesson import figures\nfigures.map_strip(5)",
    "from IPython.display import Markdown, display\ndisplay(Markdown('**bold**'))",
    "def wsd(step, config):\n    return 0\n\n\nn = 2",
    "from smol.lesson.code import same_code\n\nsame_code(wsd)",
    "n + 1",
    "from pathlib import Path\nprint(Path('here').read_text())",
)


def run_apart(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cells.ROOT, capture_output=True, text=True
    )


def test_a_notebook_runs_where_there_is_no_ipython(tmp_path):
    file = notebook(tmp_path, *SMALL)
    (tmp_path / "here").write_text("in its folder")
    done = run_apart(f"{WITHOUT_IPYTHON}print(repr(cells.run(cells.Path({str(file)!r}))))")
    said = done.stdout
    assert said.endswith("''\n"), said + done.stderr
    assert "-- cell 1: from smol.lesson import figures\nFigure: the series, " in said
    assert "**bold**" in said and "wsd: differs from smol.train.schedule" in said
    assert "-- cell 5: n + 1\n3\n" in said and "in its folder" in said


def test_the_cell_that_fails_is_named_and_no_other_runs(tmp_path, capsys):
    file = notebook(tmp_path, "n = 1", "n / 0", "print('not reached')")
    assert cells.run(file) == "01_small.ipynb: code cell 2 failed (see above)"
    out, err = capsys.readouterr()
    assert "not reached" not in out
    assert 'File "<code cell 2 of 01_small.ipynb>", line 1' in err and "ZeroDivisionError" in err


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks", "print('fine')", "None", "1;")
    monkeypatch.setattr(cells, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["cells", "01"])
    assert cells.main() == 0
    assert "fine" in (out := capsys.readouterr().out) and "01_small: every cell ran, " in out
    notebook(tmp_path / "notebooks", "raise KeyError")
    assert cells.main() == 1
    monkeypatch.setattr(sys, "argv", ["cells", "07"])
    with pytest.raises(SystemExit):
        cells.main()
    assert "no notebook starts with 07" in capsys.readouterr().err
