"""WORKSHOP.md quotes what the checks print, and skips nothing that is needed later."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from smol.finetune import LoRALinear
from smol.lesson.checks.finetune import check_ids_and_mask
from smol.lesson.checks.lora import check_lora
from smol.lesson.checks.parity import check_diagnosis
from smol.lesson.checks.slips import MISTAKES
from smol.lesson.checks.slips_finetune import rendered
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
    check_ids_and_mask(_endless)
    check_lora(_Unscaled)
    printed += capsys.readouterr().out
    # all but 3.4, whose answers are all different; 2.5's and 9.4's are no functions
    assert len(quotes) == len(EXERCISES) + len(PARTS) + 2
    assert [quote for quote in quotes if quote not in printed] == []


def _endless(messages: list[dict], tokenizer) -> tuple[list[int], list[bool]]:
    """9.1, with the mark of the end outside the mask."""
    ids, mask = rendered(messages, tokenizer)
    end = tokenizer.special_tokens["<|im_end|>"]
    return ids, [here and i != end for i, here in zip(ids, mask, strict=True)]


class _Unscaled(LoRALinear):
    """9.4, without α/r."""

    def __init__(self, base, r, alpha):
        super().__init__(base.requires_grad_(False), r, alpha)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


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
