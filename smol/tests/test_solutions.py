"""Each exercise has a card; its folded solution is executed, and the check calls it right."""

from pathlib import Path

import nbformat
import pytest

from smol.tests.processors import names
from smol.tests.solutions import Reader, cards, solutions

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def opened(file):
    return nbformat.read(file, as_version=4)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestExercises:
    def test_each_has_a_card_with_a_solution_and_a_stub(self, file):
        notebook = opened(file)
        own = f"{int(file.stem[:2])}."
        numbers = [number for number, *_ in cards(notebook)]
        assert numbers == [f"{own}{k}" for k in range(1, len(numbers) + 1)]
        assert len(numbers) >= 3
        for solution in solutions(notebook):
            assert solution.stub.outputs[-1].text.splitlines()[-1] == "not attempted yet"

    def test_a_card_says_how_hard_and_how_long_and_gives_a_hint(self, file):
        for number, card, _ in cards(opened(file)):
            first = card.source.splitlines()[0].split(" · ")
            assert first[1] in ("easy", "medium", "hard"), (number, first)
            assert any(part.strip().endswith("minutes") for part in first), number
            assert "<details><summary>Hint" in card.source, number
            assert card.source.startswith("**Exercise "), number

    def test_the_solutions_are_right(self, file):
        reader = Reader(opened(file))
        for number, cell in reader.of.items():
            said = reader.run(cell).splitlines()[-1]
            assert said.startswith(("correct", "exact", "within")), (number, said)

    def test_nothing_below_depends_on_an_answer(self, file):
        """What a stub's cell defines, no later cell reads; what its check gives back, it may."""
        code = [cell for cell in opened(file).cells if cell.cell_type == "code"]
        stubs = {id(s.stub): s for s in solutions(nbformat.from_dict({"cells": _all(file)}))}
        assert len(stubs) >= 3
        for k, cell in enumerate(code):
            number = next((s.number for s in stubs.values() if s.stub.id == cell.id), None)
            if number is None:
                continue
            open_names = {n for n in names(cell.source)[0] if f"{n} = check_" not in cell.source}
            for later in code[k + 1 :]:
                made, read = names(later.source)
                assert not read & open_names, (number, later.id, read & open_names)
                open_names -= made


def _all(file):
    return opened(file).cells


def test_the_reader_can_tell_a_wrong_solution():
    """A solution spoilt by one sign does not pass."""
    notebook = opened(FILES[0])
    card = next(card for number, card, _ in cards(notebook) if number == "1.2")
    assert "normalize(table" in card.source
    card.source = card.source.replace("normalize(table", "normalize(-table.abs()")
    reader = Reader(notebook)
    assert not reader.run(reader.of["1.2"]).splitlines()[-1].startswith(("correct", "exact"))


def test_a_card_without_a_solution_is_refused():
    notebook = opened(FILES[0])
    number, card, _ = cards(notebook)[0]
    card.source = card.source.replace("Solution</summary>", "Answer</summary>")
    with pytest.raises(ValueError, match=f"exercise {number}: 0 solutions"):
        solutions(notebook)
