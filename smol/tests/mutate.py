"""Are the tests any good? `python -m smol.tests.mutate --edits 300 --json FILE`.

Small seeded edits of the package, one at a time in a copy: `<` becomes `<=`, `+` becomes `-`, a
number one more (a large one twice), a condition its opposite, a keyword argument or a statement
is dropped. The tests that run the edited line, quickest first, must fail (or hang: 60 s). Those
that only compare sources or stored outputs are left out, and so are the notebooks, which would
catch most edits for nothing. What is missed is printed: it lacks a test, or it changes nothing.

Needs `pip install coverage`, and fork (Linux, macOS).
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
# Left out, files and folders: figures and benchmarks, which are looked at, and the bugs that are
# planted on purpose; and the tests.
LEFT_OUT = {"bench", "figures", "mutants.py", "tests"}
LEFT_OUT |= {".ipynb_checkpoints"}  # JupyterLab's copies
# These execute notebooks, read sources or start the whole suite again.
NOT_JUDGES = ("test_notebooks.py", "test_offline_import.py", "test_bench.py")
SECONDS = 60

OPERATORS = {
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"},
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*"},
    **{ast.Mod: "+", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.MatMult: "+"},
    **{ast.And: "or", ast.Or: "and"},
}


class Edit(NamedTuple):
    file: str  # below smol/, such as model.py or lesson/code.py
    line: int
    start: int  # bytes of the file
    end: int
    new: str
    kind: str


def files() -> list[str]:
    """The files below smol/ that are edited."""
    every = (path.relative_to(ROOT / "smol") for path in (ROOT / "smol").rglob("*.py"))
    return sorted(path.as_posix() for path in every if not LEFT_OUT.intersection(path.parts))


def edits(file: str, source: bytes) -> Iterator[Edit]:
    """Every edit of one file. Docstrings, annotations, messages and imports stay as they are."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def span(node) -> tuple[int, int]:
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def edit(node, new: str, kind: str) -> Edit:
        return Edit(file, node.lineno, *span(node), new, kind)

    def between(left, right, op, kind: str) -> Edit:
        """Only the operator: what stands between two operands, without brackets."""
        start, end = span(left)[1], span(right)[0]
        old = source[start:end].decode()
        word = {ast.And: "and", ast.Or: "or"}.get(type(op)) or ast.unparse(
            ast.BinOp(ast.Name("a"), op, ast.Name("b"))
            if isinstance(op, ast.operator)
            else ast.Compare(ast.Name("a"), [op], [ast.Name("b")])
        )[2:-2]
        new = old.replace(word, OPERATORS[type(op)], 1)
        return Edit(file, left.end_lineno, start, end, new, kind)

    def walk(node) -> Iterator[Edit]:
        if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Raise):
            if isinstance(node, ast.Raise):
                yield edit(node, "pass", "statement dropped")
            return
        if isinstance(node, ast.Compare):
            for left, op, right in zip(
                [node.left, *node.comparators], node.ops, node.comparators, strict=False
            ):
                yield between(left, right, op, "comparison")
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield between(node.left, node.right, node.op, "arithmetic")
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield between(left, right, node.op, "and/or")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield edit(node, f"({ast.unparse(node.operand)})", "sign or not dropped")
        elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
            new = f"{ast.unparse(node.target)} {OPERATORS[type(node.op)]}= "
            yield edit(node, new + ast.unparse(node.value), "arithmetic")
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            value = node.value
            new = value * 2 if abs(value) > 100 else value + 1
            yield edit(node, repr(not value if isinstance(value, bool) else new), "constant")
        elif isinstance(node, ast.Return) and node.value is not None:
            yield edit(node, "return None", "result dropped")
        elif isinstance(node, ast.Break | ast.Continue):
            yield edit(node, "pass", "statement dropped")
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield edit(node.test, f"not ({ast.unparse(node.test)})", "condition")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield edit(node, "pass", "statement dropped")
        elif isinstance(node, ast.Call):
            for at, keyword in enumerate(node.keywords):
                less = ast.Call(node.func, node.args, node.keywords[:at] + node.keywords[at + 1 :])
                if keyword.arg and keyword.arg not in ("help", "desc"):
                    yield edit(node, ast.unparse(less), "argument dropped")
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)

    seen = set()
    for made in walk(ast.parse(source)):
        if made[2:5] in seen or source[made.start : made.end].decode() == made.new:
            continue
        seen.add(made[2:5])
        yield made


class Watch:
    """A pytest plugin: which test runs which lines, and how long each test takes."""

    def __init__(self, cover):
        self.cover, self.seconds = cover, {}

    def pytest_runtest_logstart(self, nodeid, location):
        self.cover.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration


def pytest_in(tree: Path, arguments: list[str], plugins=()) -> int:
    """Pytest's exit status in the copy. To be called in a fork: it imports the copy's smol."""
    import pytest

    os.chdir(tree)
    for name in [n for n in sys.modules if n == "smol" or n.startswith("smol.")]:
        del sys.modules[name]  # this very file was imported from the original
    sys.path[:] = [str(tree), str(tree / "notebooks"), *[p for p in sys.path if p != str(ROOT)]]
    options = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


def in_fork(work, seconds: float, log: str = os.devnull) -> int | None:
    """The status `work` returns in a fork of this process; None where it took too long."""
    child = os.fork()
    if child == 0:
        said = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        try:
            os._exit(work())
        except BaseException:
            os._exit(99)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    import psutil

    for process in [*psutil.Process(child).children(recursive=True), psutil.Process(child)]:
        process.kill()  # torchrun's workers are no longer of the child's group
    os.waitpid(child, 0)
    return None


def measured(tree: Path, judges: list[str]) -> tuple[dict, dict]:
    """file of smol/ -> line -> the tests that run it; and each test's seconds."""
    import coverage

    def work() -> int:
        cover = coverage.Coverage(data_file=None, source=[f"{tree}/smol"], config_file=False)
        watch = Watch(cover)
        cover.start()
        status = pytest_in(tree, judges, [watch])
        cover.stop()
        data = cover.get_data()
        lines = {
            Path(name).relative_to(tree / "smol").as_posix(): data.contexts_by_lineno(name)
            for name in data.measured_files()
        }
        (tree / "measured.json").write_text(json.dumps([lines, watch.seconds]))
        return status

    if in_fork(work, 3600, log := f"{tree}/log") != 0:
        print(Path(log).read_text()[-3000:])
        raise SystemExit("the tests fail as they are: nothing to learn from edits")
    lines, seconds = json.loads((tree / "measured.json").read_text())
    return {f: {int(n): v for n, v in by.items()} for f, by in lines.items()}, seconds


def judges_of(edit: Edit, lines: dict, seconds: dict) -> list[str]:
    """The tests that run the line, quickest first. A line that runs at import: those named after
    its file or folder; where there are none, those that run another line of the file."""
    run = lines.get(edit.file, {})
    found = [t for t in run.get(edit.line, []) if t in seconds]
    named = f"smol/tests/test_{edit.file.split('/')[0].removesuffix('.py')}.py"
    if not found and (ROOT / named).exists():
        return [named]
    found = found or {t for tests in run.values() for t in tests if t in seconds}
    return sorted(found, key=seconds.get)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="*", help="such as model.py lesson/code.py; else all")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", SMOL_OFFLINE="1", HF_HUB_OFFLINE="1")
    import pytest  # noqa: F401  imported once, here, for all the forks
    import tokenizers  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from tqdm import tqdm
    from transformers import LlamaForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    edited = [f for f in files() if not args.files or f in args.files]
    every = [e for f in edited for e in edits(f, (ROOT / "smol" / f).read_bytes())]
    chosen = sorted(random.Random(args.seed).sample(every, min(args.edits, len(every))))
    verdicts, missed = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "copy"
        tracked = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        for name in filter(None, tracked.split("\0")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        judges = sorted(
            f"smol/tests/{p.name}"
            for p in (tree / "smol/tests").glob("test_*.py")
            if p.name not in NOT_JUDGES
        )
        lines, seconds = measured(tree, judges)
        print(f"{len(seconds)} tests; {len(chosen)} of {len(every)} edits, seed {args.seed}")
        for edit in tqdm(chosen, disable=None):
            path = tree / "smol" / edit.file
            source = path.read_bytes()
            path.write_bytes(source[: edit.start] + edit.new.encode() + source[edit.end :])
            judged = judges_of(edit, lines, seconds)
            status = in_fork(lambda j=judged: pytest_in(tree, j), SECONDS) if judged else 0
            path.write_bytes(source)
            verdict = {0: "missed", None: "caught: it hangs"}.get(status, "caught")
            verdicts[verdict] += 1
            if verdict == "missed":
                old = source[edit.start : edit.end].decode()
                missed.append({"at": f"{edit.file}:{edit.line}", "old": old, "new": edit.new})
                tqdm.write(f"{edit.file}:{edit.line} ({edit.kind})\n- {old}\n+ {edit.new}")
    print(dict(verdicts))
    if args.json:
        from smol.bench.__main__ import machine

        result = {
            "command": f"python -m smol.tests.mutate --edits {args.edits} --seed {args.seed}",
            "date": str(date.today()),
            "machine": machine(),
            **{"of": len(every), "verdicts": dict(verdicts), "missed": missed},
        }
        args.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
