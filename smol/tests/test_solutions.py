"""Each exercise has a card; its folded solution is executed, and the check calls it right.

With all that a notebook computes, and no training cut short: `python -m smol.tests.solutions`.
"""

import nbformat
import pytest

from smol.tests.solutions import (
    FILES,
    RIGHT,
    Reader,
    cards,
    faults,
    read_below,
    solutions,
    verdicts,
)

# Notebook 3's bugs are found in any weights: how long its model learns decides no solution.
SHORTER = {"03_parity": ("range(301)", "range(21)")}


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

    def test_cards_stubs_and_solutions_are_sound(self, file):
        notebook = opened(file)
        for (number, card, stub), solution in zip(
            cards(notebook), solutions(notebook), strict=True
        ):
            assert faults(card.source, solution.code, stub.source) == [], number

    def test_the_solutions_are_right(self, file):
        notebook = opened(file)
        if file.stem in SHORTER:
            long, short = SHORTER[file.stem]
            (cell,) = (cell for cell in notebook.cells if long in cell.source)
            cell.source = cell.source.replace(long, short)
        for number, said in verdicts(notebook).items():
            assert said.startswith(RIGHT), (number, said)

    def test_nothing_below_depends_on_an_answer(self, file):
        assert read_below(opened(file)) == []


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


CARD = """**Exercise 9.1** · easy · 5 minutes · Write `f(x)`.
<details><summary>Hint 1</summary>Add <code>1</code>.</details>
<details><summary>Hint 2</summary>To x.</details>
<details><summary>Solution</summary>

```python
def f(x):
    return x + 1
```

</details>"""
SOLUTION = "def f(x):\n    return x + 1"
STUB = "def f(x):\n    return ...\n\n\ncheck_f(f)"
LONG = "x  # " + 100 * "x"


def test_a_sound_exercise_has_no_faults():
    assert faults(CARD, SOLUTION, STUB) == []
    assert faults(CARD, SOLUTION, STUB.replace("check_f(f)", "f = check_f(f)  # yours")) == []
    assert faults(CARD, "f = 1", "f = ...  # a number\ncheck_f(f, 5)") == []
    block = "class B(nn.Module):\n    def forward(self, x):\n        return {}"
    assert faults(CARD, block.format("x + 1"), block.format("...") + "\n\n\ncheck_b(B)") == []


@pytest.mark.parametrize(
    ("what", "right", "wrong", "said"),
    [
        ("card", "<code>1</code>", "`1`", "Hint 1: inside HTML it is <code>"),
        ("card", "To x.", "To **x**.", "Hint 2: inside HTML it is <code>"),
        ("card", "Hint 2", "Hint 3", "hints are ['Hint 1', 'Hint 3'], not ['Hint 1', 'Hint 2']"),
        ("card", "Hint", "Help", "hints are [], not ['Hint']"),
        ("card", "1</code>.</details>", "1</code>.", "a <details> or its <summary> is not closed"),
        ("card", "To x.</details>\n", "To x.</details>\nSee?\n", "text stands between"),
        ("card", "```\n\n</details>", "```\n\n</details>\nNow?", "text stands between or below"),
        ("card", "**Exercise", "Now: **Exercise", "the card holds another exercise, or text"),
        ("card", "Write `f(x)`.", "Go.\n**Exercise 9.2** · easy", "the card holds another"),
        ("card", "<summary>Solution", "<summary>More", "the solution is not the last"),
        ("card", "easy", "simple", "it does not say first whether it is easy"),
        ("card", "easy · ", "", "it does not say first whether it is easy"),
        ("card", "5 minutes", "soon", "it does not say how many minutes"),
        ("solution", "x + 1", "x+1", "ruff format"),
        ("solution", "x + 1", LONG, "ruff check"),
        ("solution", "def f(x):", "def f(x):\n    import os", "ruff check"),
        ("solution", "f(x)", "f(y)", "f(x) is asked for, the solution has y"),
        ("solution", "f(x)", "g(x)", "f(x) is asked for, the solution has None"),
        ("stub", "check_f(f)", "print(f)", "the stub's cell does not end in a check"),
        ("stub", "check_f(f)", "check_f(g)", "the stub's cell does not end in a check"),
        ("stub", "check_f(f)", "check_f(f)\nprint(1)", "the stub's cell does not end in a check"),
    ],
)
def test_a_planted_fault_is_named(what, right, wrong, said):
    parts = {"card": CARD, "solution": SOLUTION, "stub": STUB}
    assert right in parts[what]
    parts[what] = parts[what].replace(right, wrong)
    assert [fault for fault in faults(**parts) if fault.startswith(said)], faults(**parts)


@pytest.mark.parametrize(
    ("check", "below", "found"),
    [
        ("check_f(f)", "print(f(1))", [("9.1", "f")]),
        ("check_f(f)", "def g():\n    return f(1)", [("9.1", "f")]),
        ("f = check_f(f)", "print(f(1))", []),
        ("check_f(f)", "from m import f\n\nprint(f(1))", []),
        ("check_f(f)", "f = 1", []),
    ],
)
def test_what_is_read_below_a_stub_is_found(check, below, found):
    code = nbformat.v4.new_code_cell
    cells = [nbformat.v4.new_markdown_cell(CARD), code(STUB.replace("check_f(f)", check))]
    notebook = nbformat.v4.new_notebook(cells=[*cells, code(below), code("print(2)")])
    assert read_below(notebook) == found
