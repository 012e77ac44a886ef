"""`import smol` needs torch and nothing heavier."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["transformers", "datasets", "matplotlib", "huggingface_hub", "pandas", "IPython"]


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """The top-level modules that a bare `import smol` brings in."""
    code = "import json, sys, smol; print(json.dumps([smol.__file__, *sys.modules]))"
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    file, *modules = json.loads(run.stdout)
    assert file == str(Path(root, "smol", "__init__.py"))  # PyPI has another smol
    return {name.partition(".")[0] for name in modules}


def test_import_brings_torch(imported):
    assert "torch" in imported


@pytest.mark.parametrize("name", HEAVY)
def test_import_brings_nothing_heavier(imported, name):
    assert name not in imported


def test_loading_brings_no_compiler():
    """Two seconds of every start: an initialisation on the meta device would import it."""
    root = str(Path(__file__).parents[2])
    code = (
        "import sys, smol; model = smol.load_pretrained('assets/smol-stories'); "
        "print(next(model.parameters()).device, 'torch._dynamo' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "cpu False\n"
