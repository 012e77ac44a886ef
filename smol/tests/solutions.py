"""The solutions that an exercise's card holds folded, as code in fences: found, and executed.

A card is a Markdown cell with "**Exercise 2.4**", its hints and its solution in <details>; the
cell after it is the stub, which calls the check. A solution is run in the stub's place, after the
cells that it needs, and the check must call it right: `python -m smol.tests.solutions`, and with
a shorter training test_solutions.py. `faults` says what else is wrong with a card and its stub.
"""

import ast
import contextlib
import io
import linecache
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

from smol.tests.processors import names, needed_by

CARD = re.compile(r"^\*\*Exercise (\d+\.\d+)\*\*", re.MULTILINE)
FENCE = re.compile(
    r"<details><summary>Solution</summary>\n\n```python\n((?:(?!```).)*)\n```\n", re.DOTALL
)
FOLDED = re.compile(r"<details><summary>([^<]*)</summary>(.*?)</details>", re.DOTALL)
ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
RIGHT = ("correct", "exact", "within")  # how a check's line on a right answer begins


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


def faults(card: str, solution: str, stub: str) -> list[str]:
    """What is wrong with an exercise: its card's source, its solution's, its stub's cell."""
    found, task = [], card.split("<details>")[0]
    folded = FOLDED.findall(card)
    hints = [title for title, _ in folded if title.startswith("Hint")]
    wanted = ["Hint"] if len(hints) == 1 else [f"Hint {k + 1}" for k in range(len(hints))]
    if len(CARD.findall(card)) != 1 or not card.startswith("**Exercise "):
        found.append("the card holds another exercise, or text before its own")
    if card.count("<details>") != len(folded) or card.count("</details>") != len(folded):
        found.append("a <details> or its <summary> is not closed")
    elif FOLDED.sub("", card).strip() != task.strip():
        found.append("text stands between or below what is folded")
    label = task.splitlines()[0].split(" · ")
    if len(label) < 4 or label[1] not in ("easy", "medium", "hard"):
        found.append("it does not say first whether it is easy, medium or hard")
    if not any(re.fullmatch(r"\d+ minutes", part) for part in label[2:]):
        found.append("it does not say how many minutes it takes")
    if hints != wanted or not hints:
        found.append(f"hints are {hints}, not {wanted or ['Hint']}")
    if [title for title, _ in folded][-1:] != ["Solution"]:
        found.append("the solution is not the last that is folded")
    for title, text in folded:
        if title != "Solution" and re.search(r"`|\*\*", title + text):
            found.append(f"{title}: inside HTML it is <code> and <b>, not ` and **")
    return found + _faults_of_stub(solution, ast.parse(stub).body) + _faults_of_code(solution)


def _faults_of_stub(solution: str, body: list[ast.stmt]) -> list[str]:
    """The stub must end in its check, ask for what the solution defines, and give nothing away."""
    found, asked = [], [node for node in body if _is_stub(node)]
    last = getattr(body[-1], "value", None)
    name = getattr(getattr(last, "func", None), "id", "")
    answer = getattr(last.args[0], "id", "") if name.startswith("check_") and last.args else ""
    if not any(answer in _signatures(node) for node in asked):
        found.append("the stub's cell does not end in a check of what it defines")
    given = {k: v for node in ast.parse(solution).body for k, v in _signatures(node).items()}
    for node in asked:
        for what, args in _signatures(node).items():
            if given.get(what) != args:
                found.append(f"{what}({args}) is asked for, the solution has {given.get(what)}")
    return found


def _signatures(node: ast.AST) -> dict[str, str]:
    """What a statement defines, with the arguments of functions and methods."""
    if isinstance(node, ast.FunctionDef):
        return {node.name: ast.unparse(node.args)}
    if isinstance(node, ast.ClassDef):
        methods = [f"{node.name}.{k}" for n in node.body for k in _signatures(n)]
        args = [v for n in node.body for v in _signatures(n).values()]
        return {node.name: "", **dict(zip(methods, args, strict=True))}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {name.id: "" for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)}


def _faults_of_code(solution: str) -> list[str]:
    """What ruff says of a solution by itself, but for the names that its notebook has."""
    found = []
    for command in (
        ["format", "--diff"],
        ["check", "--ignore=F821,F704", "--output-format=concise"],
    ):
        file = ["--no-cache", "--stdin-filename", str(ROOT / "solution.py"), "-"]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *file],
            input=solution + "\n",
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if done.returncode:
            found.append(f"ruff {command[0]}: {done.stdout.strip() or done.stderr.strip()}")
    return found


def read_below(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What a stub's cell defines and a later cell reads, with the exercise's number. What the
    check gives back (`f = check_f(f)`) may be read."""
    stubs = {solution.stub.id: solution.number for solution in solutions(notebook)}
    found, still = [], {}  # name -> the exercise whose answer it is
    for cell in notebook.cells:
        if cell.cell_type == "code":
            made, read = names(cell.source)
            found += [(still[name], name) for name in sorted(read & still.keys())]
            still = {name: number for name, number in still.items() if name not in made}
            if cell.id in stubs:
                answers = (name for name in made if f"{name} = check_" not in cell.source)
                still |= dict.fromkeys(answers, stubs[cell.id])
    return found


class Reader:
    """A notebook read with every exercise solved: cells are run when something needs them."""

    def __init__(self, notebook: nbformat.NotebookNode):
        solved = {id(s.stub): s.in_place() for s in solutions(notebook)}
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.sources = [solved.get(id(cell), cell.source) for cell in code]
        self.of = {s.number: code.index(s.stub) for s in solutions(notebook)}
        self.made, self.read = zip(*map(names, self.sources), strict=True)
        self.space = {"__name__": "__main__"}
        self.printed: dict[int, str] = {}  # the cells that were run

    def run(self, target: int) -> str:
        """What a cell prints, after the cells that it needs and that have not been run."""
        for k in sorted({0} | needed_by(target, self.made, self.read)):  # 0 is the set-up
            if k not in self.printed:
                source, name = self.sources[k], f"<cell {k} of {id(self)}>"
                linecache.cache[name] = len(source), None, source.splitlines(True), name
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(source, name, "exec"), self.space)
                self.printed[k] = out.getvalue()
        return self.printed[target]


def verdicts(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What its check says of each exercise's solution, by the exercise's number."""
    reader = Reader(notebook)
    return {number: reader.run(cell).splitlines()[-1] for number, cell in reader.of.items()}


def main() -> int:
    wrong = 0
    for file in FILES:
        for number, said in verdicts(nbformat.read(file, as_version=4)).items():
            print(f"{number:5}{said}", flush=True)
            wrong += not said.startswith(RIGHT)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
