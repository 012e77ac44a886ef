"""`import smol` needs torch and nothing heavier."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ["transformers", "datasets", "matplotlib", "huggingface_hub", "pandas", "IPython"]
HEAVY += ["smol.lesson"]  # what only notebooks use


def said_by(code: str) -> str:
    """What a process of its own prints, in the folder of the series."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """The modules that a bare `import smol` brings in."""
    said = said_by("import json, sys, smol; print(json.dumps([smol.__file__, *sys.modules]))")
    file, *modules = json.loads(said)
    assert file == str(ROOT / "smol" / "__init__.py")  # PyPI has another smol
    return {part for name in modules for part in (name, name.partition(".")[0])}


def test_import_brings_torch(imported):
    assert "torch" in imported


@pytest.mark.parametrize("name", HEAVY)
def test_import_brings_nothing_heavier(imported, name):
    assert name not in imported


def test_loading_brings_no_compiler():
    """Two seconds of every start: an initialisation on the meta device would import it."""
    code = (
        "import sys, smol; model = smol.load_pretrained('assets/smol-stories'); "
        "print(next(model.parameters()).device, 'torch._dynamo' in sys.modules)"
    )
    assert said_by(code) == "cpu False\n"
