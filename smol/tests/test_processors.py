"""Other processors' kernels: a notebook's numbers, and the command that runs all of it."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from smol.tests import processors
from smol.tests.processors import (
    PROCESSORS,
    ROOT,
    cells_for,
    differences,
    environment,
    prints_a_measured_number,
)

KERNELS = "import torch\nprint(torch.backends.cpu.get_cpu_capability())"


def cell(source: str, shown: str = "", tags=()):
    outputs = [new_output("stream", name="stdout", text=shown)] if shown else []
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def test_generic_kernels_print_the_same_numbers():
    """Of notebook 2, whose numbers come out of kernels (those of notebook 1 are a config's).
    Some half a minute; all cells under all kernels: `python -m smol.tests.processors`."""
    notebook = nbformat.read(ROOT / "notebooks" / "02_build.ipynb", as_version=4)
    part = cells_for(notebook, prints_a_measured_number)
    assert len(part.cells) > 20
    assert differences(part, "generic") == []


def test_a_cell_that_depends_on_the_processor_is_found():
    stored = new_notebook(
        cells=[cell("x = 1"), cell(KERNELS, "AVX512\n"), cell(KERNELS, "DEFAULT\n")]
    )
    (found,) = differences(stored, "generic")
    assert "AVX512" in found and "DEFAULT" in found


def test_measured_cells_come_with_what_they_need_and_without_slow_ones():
    cells = [
        cell("set_up = 1"),
        cell("a = 2"),
        cell("b = 3"),
        cell("def f(x):\n    c = x\n    return a + c"),
        cell("print(f(1) / 2)", "1.5\n"),
        cell("c = 4", tags=["slow"]),
        cell("print(c / 3)", "1.3\n"),
        cell("print(b / 2)", "1.5\n", tags=["nbval-ignore-output"]),
        cell("print(b)", "3\n"),
        cell("print(f'{b / 10:.0%}')", "30%\n"),
    ]
    part = cells_for(new_notebook(cells=cells), prints_a_measured_number)
    assert [c.source for c in part.cells] == [cells[k].source for k in (0, 1, 2, 3, 4, 9)]


def test_each_processor_is_played(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")  # of the shell: not what is asked for
    said = [
        subprocess.run(
            [sys.executable, "-c", KERNELS], env=environment(name), capture_output=True, text=True
        ).stdout.strip()
        for name in ("generic", "avx2")
    ]
    assert said[0] in ("DEFAULT", "NO AVX") and said[1] in ("AVX2", said[0])
    assert not any(key in environment("native") for key in PROCESSORS["generic"])


def test_the_command_says_which_cells_differ(monkeypatch, tmp_path, capsys):
    which = "import os\nprint(os.environ['ATEN_CPU_CAPABILITY'])"
    cells = [cell("print('same')", "same\n"), cell(which, "none at all\n")]
    for number, each in enumerate(cells, 1):
        each.execution_count = number
    file = tmp_path / "01_two.ipynb"
    nbformat.write(new_notebook(cells=cells), file)
    monkeypatch.setattr(sys, "argv", ["x", "generic", "--tests", str(file)])
    assert processors.main() == 1
    said = capsys.readouterr().out
    assert "1 failed, 1 passed" in said and "Cell 1" in said and "none at all" in said
    assert "default" in said
    assert "1 differ" in said and "Cell 0" not in said and "[0m" not in said


def test_the_command_names_unknown_processors(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "quantum"])
    with pytest.raises(SystemExit):
        processors.main()
    assert "no processor quantum: choose from generic, avx2, native" in capsys.readouterr().err
