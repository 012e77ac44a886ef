"""The edits of `python -m smol.tests.mutate` are programs, and are where they say."""

import ast

import pytest

from smol.tests.mutate import ROOT, Edit, edits, files, judges_of

SOURCE = b'''"""1 < 2 in a docstring."""
def f(x: int = 3, *, loud=False) -> "1 + 1":
    if x <= 2 and not loud:
        raise ValueError(f"{x + 1} is too much")
    g(x, loud=True)
    return -x * 1000
'''


def edited(edit: Edit) -> str:
    return (SOURCE[: edit.start] + edit.new.encode() + SOURCE[edit.end :]).decode()


def test_every_kind_of_edit_and_no_other():
    found = {
        (e.line, SOURCE[e.start : e.end].decode().strip(), e.new.strip())
        for e in edits("f", SOURCE)
    }
    assert found == {
        (2, "3", "4"),
        (2, "False", "True"),
        (3, "x <= 2 and not loud", "not (x <= 2 and (not loud))"),
        (3, "and", "or"),
        (3, "<=", "<"),
        (3, "2", "3"),
        (3, "not loud", "(loud)"),
        (4, 'raise ValueError(f"{x + 1} is too much")', "pass"),
        (5, "g(x, loud=True)", "pass"),
        (5, "g(x, loud=True)", "g(x)"),
        (5, "True", "False"),
        (6, "return -x * 1000", "return None"),
        (6, "*", "/"),
        (6, "-x", "(x)"),
        (6, "1000", "2000"),
    }


def test_files_of_all_folders_are_edited():
    assert {"model.py", "lesson/code.py", "stories/__init__.py", "train/loop.py"} < set(files())
    assert not [f for f in files() if "figures" in f or "test" in f or "mutants" in f]


@pytest.mark.parametrize("file", files())
def test_an_edited_file_is_a_program(file):
    source = (ROOT / "smol" / file).read_bytes()
    every = list(edits(file, source))
    for edit in every[:: max(1, len(every) // 4)]:
        changed = source[: edit.start] + edit.new.encode() + source[edit.end :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


def test_the_quickest_judges_come_first():
    edit = Edit("model.py", 7, 0, 1, "x", "constant")
    lines, seconds = (
        {"model.py": {7: ["slow", "quick", "gone"], 8: ["other"]}},
        {"slow": 2, "quick": 1},
    )
    assert judges_of(edit, lines, seconds) == ["quick", "slow"]
    assert judges_of(edit._replace(line=9), lines, seconds) == ["smol/tests/test_model.py"]
    lines["lesson/code.py"] = lines["model.py"]  # there is no test_lesson.py
    at_import = edit._replace(file="lesson/code.py", line=9)
    assert judges_of(at_import, lines, seconds) == ["quick", "slow"]
    lines["model/cache.py"] = lines["model.py"]
    in_folder = edit._replace(file="model/cache.py", line=9)
    assert judges_of(in_folder, lines, seconds) == ["smol/tests/test_model.py"]
