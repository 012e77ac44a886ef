"""same_code sees every difference that matters, wherever the package keeps its definition."""

import linecache
import re
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

import smol
from smol.lesson.code import definition_in_package, same_code, show
from smol.model import SmolLM2

RMSNORM = '''
class RMSNorm(nn.Module):
    """Another docstring."""

    def __init__(self, dim, eps):
        super().__init__()  # a comment
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)
'''


def define(source: str, name: str):
    """`source` run as a notebook cell runs, its lines known to linecache only."""
    file = f"<cell of {name} {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace = {"nn": nn, "torch": torch, "__name__": "__main__"}
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]


class TestSameCode:
    def test_docstrings_comments_and_hints_may_differ(self, capsys):
        same_code(define(RMSNORM, "RMSNorm"))
        assert capsys.readouterr().out == "RMSNorm: same code as smol.model\n"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("x.float()", "x"),
            ("mean(-1", "mean(-2"),
            ("self.eps)", "1e-6)"),
            ("    def forward", "    @torch.no_grad()\n    def forward"),
            ("dim, eps)", "dim, eps=1e-6)"),
        ],
    )
    def test_anything_else_is_shown(self, capsys, old, new):
        assert old in RMSNORM
        same_code(define(RMSNORM.replace(old, new), "RMSNorm"))
        out = capsys.readouterr().out
        assert out.startswith("RMSNorm: differs from smol.model\n")
        assert "\n+" in out

    def test_methods_left_out_are_named(self, capsys):
        partial = RMSNORM[: RMSNORM.index("    def forward")]
        same_code(define(partial, "RMSNorm"))
        assert "same code as smol.model (left out here: forward)" in capsys.readouterr().out

    def test_a_method_too_many_is_shown(self, capsys):
        same_code(define(RMSNORM + "    def extra(self):\n        pass\n", "RMSNorm"))
        assert "differs" in capsys.readouterr().out

    def test_unknown_names_are_refused(self):
        with pytest.raises(ValueError, match="the package has no Nothing"):
            same_code(define("def Nothing():\n    return 1\n", "Nothing"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a file of a package that stands in for smol."""

    def write(file: str, source: str) -> None:
        path = tmp_path / "smol" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")

    write("__init__.py", "")
    monkeypatch.setattr(smol, "__file__", str(tmp_path / "smol" / "__init__.py"))
    return write


class TestWhereThePackageIsSearched:
    SOURCE = "def f():\n    return 1\n"

    @pytest.mark.parametrize(
        ("file", "module"),
        [
            ("model.py", "smol.model"),
            ("train/loss.py", "smol.train.loss"),
            ("train/__init__.py", "smol.train"),
            ("train/more/deep.py", "smol.train.more.deep"),
            ("__init__.py", "smol"),
        ],
    )
    def test_in_every_folder(self, package, capsys, file, module):
        package(file, self.SOURCE)
        same_code(define(self.SOURCE, "f"))
        assert capsys.readouterr().out == f"f: same code as {module}\n"

    @pytest.mark.parametrize(
        "file", ["tests/answers.py", "lesson/code.py", "train/.ipynb_checkpoints/loss.py"]
    )
    def test_not_in_tests_lessons_and_copies(self, package, file):
        package(file, self.SOURCE)
        with pytest.raises(ValueError, match="the package has no f"):
            same_code(define(self.SOURCE, "f"))

    def test_a_method_or_an_inner_function_is_no_definition(self, package):
        package("model.py", "class A:\n    def f(self):\n        def g():\n            pass\n")
        for name in "fg":
            with pytest.raises(ValueError, match="the package has no"):
                definition_in_package(name)

    def test_two_definitions_are_refused(self, package):
        package("model.py", self.SOURCE)
        package("train/loss.py", self.SOURCE)
        with pytest.raises(ValueError, match=r"in smol\.model and in smol\.train\.loss"):
            same_code(define(self.SOURCE, "f"))


def test_what_notebooks_compare_is_defined_once():
    names = []
    for file in (Path(smol.__file__).parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        for cell in nbformat.read(file, as_version=4).cells:
            found = re.findall(r"^same_code\((.+)\)", cell.source, re.MULTILINE)
            names += [name for each in found for name in each.split(", ")]
    assert len(names) >= 15 and {"rope_cos_sin", "KVCache"} <= set(names)  # they are found
    for name in names:
        assert definition_in_package(name)[0].startswith("smol.")


def test_show_displays_the_source(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    show(SmolLM2)
    assert "self, input_ids: Tensor, cache=None, head=True" in shown[0].data
