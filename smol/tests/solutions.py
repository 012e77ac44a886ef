"""The solutions that an exercise's card holds folded, as code in fences: found, and executed.

A card is a Markdown cell with "**Exercise 2.4**", its hints and its solution in <details>; the
cell after it is the stub, which calls the check. A solution is run in the stub's place, after the
cells that it needs, and the check must call it right (test_solutions.py).
"""

import ast
import contextlib
import io
import linecache
import re
from dataclasses import dataclass

import nbformat

from smol.tests.processors import names

CARD = re.compile(r"^\*\*Exercise (\d+\.\d+)\*\*", re.MULTILINE)
FENCE = re.compile(
    r"<details><summary>Solution</summary>\n\n```python\n((?:(?!```).)*)\n```\n", re.DOTALL
)


@dataclass(frozen=True)
class Solution:
    """Of one exercise its number, the folded code, and the code cell that holds the stub."""

    number: str
    code: str
    stub: nbformat.NotebookNode

    def in_place(self) -> str:
        """The stub's cell with the solution where the stub was: `...` makes no answer."""
        kept = [node for node in ast.parse(self.stub.source).body if not _is_stub(node)]
        return "\n".join((self.code, *map(ast.unparse, kept)))


def _is_stub(node: ast.AST) -> bool:
    """A definition, or `name = ...`."""
    assigned = isinstance(node, ast.Assign) and getattr(node.value, "value", None) is Ellipsis
    return assigned or isinstance(node, ast.FunctionDef | ast.ClassDef)


def cards(notebook: nbformat.NotebookNode) -> list[tuple[str, nbformat.NotebookNode, object]]:
    """The number of each exercise, its card, and the cell after it."""
    found = []
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "markdown":
            found += [(number, cell, after) for number in CARD.findall(cell.source)]
    return found


def solutions(notebook: nbformat.NotebookNode) -> list[Solution]:
    """One for each exercise; ValueError where a card has no solution, or no stub after it."""
    found = []
    for number, card, after in cards(notebook):
        code = FENCE.findall(card.source)
        if len(code) != 1 or after is None or after.cell_type != "code":
            raise ValueError(f"exercise {number}: {len(code)} solutions in the card, or no stub")
        found.append(Solution(number, code[0], after))
    return found


class Reader:
    """A notebook read with every exercise solved: cells are run when something needs them."""

    def __init__(self, notebook: nbformat.NotebookNode):
        solved = {id(s.stub): s.in_place() for s in solutions(notebook)}
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.sources = [solved.get(id(cell), cell.source) for cell in code]
        self.of = {s.number: code.index(s.stub) for s in solutions(notebook)}
        self.slow = ["slow" in cell.metadata.get("tags", []) for cell in code]
        self.names = [names(source) for source in self.sources]
        self.space = {"__name__": "__main__"}
        self.printed: dict[int, str] = {}  # the cells that were run

    def needed(self, target: int) -> list[int]:
        """The cell and those that it needs, in their order."""
        chosen, missing = {0, target}, set(self.names[target][1])
        for k in range(target - 1, -1, -1):
            made, read = self.names[k]
            if made & missing:
                chosen.add(k)
                missing |= read
        return sorted(chosen)

    def run(self, target: int) -> str:
        """What a cell prints, after the cells that it needs and that have not been run."""
        for k in self.needed(target):
            if k not in self.printed:
                source, name = self.sources[k], f"<cell {k} of {id(self)}>"
                linecache.cache[name] = len(source), None, source.splitlines(True), name
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(source, name, "exec"), self.space)
                self.printed[k] = out.getvalue()
        return self.printed[target]
