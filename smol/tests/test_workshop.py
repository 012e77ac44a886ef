"""WORKSHOP.md quotes what the checks print, and skips nothing that is needed later."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from smol.lesson.checks.parity import check_diagnosis
from smol.lesson.checks.slips import MISTAKES
from smol.tests.test_build import PARTS, SIDE_QUESTS, as_answer, small_reference
from smol.tests.test_exercises import CHECKS, EXERCISES

ROOT = Path(__file__).resolve().parents[2]


def test_the_workshop_quotes_what_the_checks_print(capsys):
    page = (ROOT / "notebooks" / "WORKSHOP.md").read_text(encoding="utf-8")
    found = re.findall(r"^- Exercise \d\.\d+, (``?)(.+?)\1: ", page, re.MULTILINE)
    quotes = [quote.strip() for _, quote in found]
    printed = ""
    for name, (_, wrong) in EXERCISES.items():
        for answer in wrong:
            CHECKS[name](answer)
            said = capsys.readouterr().out
            printed += said
            if any(quote in said for quote in quotes):  # each exercise has one
                break
    theirs = small_reference()
    for name in PARTS:
        for slip in MISTAKES[name].values():
            CHECKS[name](as_answer(name, slip), theirs)
    for name in SIDE_QUESTS:
        for slip in MISTAKES[name].values():
            CHECKS[name](slip)
    check_diagnosis("no_mask", 5)
    printed += capsys.readouterr().out
    # all but 3.4, whose answers are all different
    assert len(quotes) == len(EXERCISES) + len(PARTS) + 1
    assert [quote for quote in quotes if quote not in printed] == []


def _sections(notebook) -> list[tuple[str, set[str], set[str]]]:
    """Of each code cell its section, the names it makes at its top level, the names it reads."""
    section, cells = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (\d\.\d+)", cell.source, re.MULTILINE)][-1]
            continue
        tree = ast.parse(cell.source)
        made, read = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                made.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {(a.asname or a.name).split(".")[0] for a in node.names}
        cells.append((section, made, read - made))
    return cells


@pytest.mark.parametrize("number", range(1, 10))
def test_what_the_workshop_skips_nothing_later_needs(number):
    page = (ROOT / "notebooks" / "WORKSHOP.md").read_text(encoding="utf-8")
    file = next((ROOT / "notebooks").glob(f"0{number}_*.ipynb"))
    cells = _sections(nbformat.read(file, as_version=4))
    lists = [re.findall(r"§(\d\.\d+)", s) for s in re.findall(r"skip ((?:§\d\.\d+,? ?)+)", page)]
    assert ["3.4"] in lists  # the page is read as it is meant
    for skipped in [{s for s in found if s.startswith(f"{number}.")} for found in lists]:
        have, missing = set(), set()
        for section, made, read in cells:
            if section in skipped:
                missing |= made - have
                continue
            assert not read & missing, (file.stem, section, "needs", read & missing)
            have |= made
            missing -= made
