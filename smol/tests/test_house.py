"""The rules of the house: imports point one way, files fit a sitting, every package is named."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted(
    file for file in (ROOT / "smol").rglob("*.py") if "tests" not in file.parts[len(ROOT.parts) :]
)
# What only notebooks and maintainers use: nothing that a user imports may bring it.
ROOMS = ("smol.lesson", "smol.bench", "smol.doctor", "smol.tests")
TABLES = {"smol/parity/mutants.py"}  # data: as long as what they list


def module_of(file: Path) -> str:
    """smol/train/loop.py is smol.train.loop, smol/train/__init__.py is smol.train."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_by(tree: ast.AST) -> set[tuple[str, str]]:
    """Each import anywhere in it, as (module, name): ("smol", "stories"), ("json", ""). One that
    is for readers of types alone is never run, and does not count."""
    found = set()
    typing = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or ".", alias.name) for alias in node.names}
    return found


def arrows(files: dict[str, ast.AST]) -> dict[str, set[str]]:
    """For each module of these the others that it imports, be it within a function."""
    found = {}
    for module, tree in files.items():
        names = {
            name if (name := f"{package}.{part}") in files else package
            for package, part in imported_by(tree)
        }
        found[module] = (names & files.keys()) - {module}
    return found


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Ways from a module back to itself, one for each module that has one."""

    def way(start: str) -> list[str] | None:
        paths, seen = [[start]], set()
        while paths:
            path = paths.pop(0)
            for after in sorted(arrows[path[-1]]):
                if after == start:
                    return [*path, start]
                if after not in seen:
                    seen.add(after)
                    paths.append([*path, after])
        return None

    return [found for module in sorted(arrows) if (found := way(module))]


@cache
def package_arrows() -> dict[str, set[str]]:
    return arrows({module_of(file): ast.parse(file.read_text("utf-8")) for file in PACKAGE})


def test_imports_make_no_circle():
    assert circles(package_arrows()) == []


def test_a_circle_would_be_found():
    a, b, c = "from smol import b", "def f():\n    from smol.c import g", "import smol.a"
    files = {f"smol.{name}": ast.parse(code) for name, code in zip("abc", (a, b, c), strict=True)}
    assert circles(arrows(files))[0] == ["smol.a", "smol.b", "smol.c", "smol.a"]
    del files["smol.c"]
    assert circles(arrows(files)) == []


def test_what_a_user_imports_brings_no_lessons_or_benchmarks():
    for module, names in package_arrows().items():
        room = next((room for room in ROOMS if module.startswith(room)), None)
        for name in names:
            for other in ROOMS:
                assert not name.startswith(other) or room, f"{module} imports {name}"


@pytest.mark.parametrize("file", PACKAGE, ids=module_of)
def test_a_file_is_read_in_one_sitting(file):
    text = file.read_text(encoding="utf-8")
    if str(file.relative_to(ROOT).as_posix()) not in TABLES:
        assert len(text.splitlines()) <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 66, node.name


def test_a_folder_holds_three_files_or_more():
    for folder in {file.parent for file in PACKAGE}:
        inside = [path for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()]
        assert len([path for path in inside if not path.name.startswith("__")]) >= 3, folder
    assert not [file for file in PACKAGE if file.stem in ("utils", "helpers", "common")]


def test_every_command_ends_well_whatever_becomes_of_its_streams():
    """`smol.terminal.command` sees to that: | head, a full disk, an old console."""
    files = [*PACKAGE, *(ROOT / "notebooks").glob("*.py")]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    commands = [file for file, text in texts.items() if '__name__ == "__main__"' in text]
    assert len(commands) >= 8
    for file in commands:
        assert re.search(r'(?m)^@command\("[\w.]+"\)\ndef main\(', texts[file]), file


def everything_imported() -> set[str]:
    """The top-level modules that package, tests, commands and notebooks import."""
    sources = [file.read_text(encoding="utf-8") for file in ROOT.glob("*.py")]
    for folder in ("smol", "notebooks"):
        sources += [file.read_text(encoding="utf-8") for file in (ROOT / folder).rglob("*.py")]
    for file in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        cells = nbformat.read(file, as_version=4).cells
        sources += [cell.source for cell in cells if cell.cell_type == "code"]
    names = {name for source in sources for name, _ in imported_by(ast.parse(source))}
    ours = {"smol", *(file.stem for file in [*ROOT.glob("*.py"), *ROOT.glob("notebooks/*.py")])}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - ours


def test_requirements_name_every_package_that_is_imported():
    """What comes only through others goes when they no longer need it."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = "\n".join((text, *project["optional-dependencies"]["dev"]))  # asked for where they are
    named = {name.lower().replace("_", "-") for name in re.findall(r"(?m)^([\w-]+)[<>=]", text)}
    distributions = packages_distributions()
    for module in everything_imported():
        names = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        assert names & named, f"{module} is imported, and {' or '.join(names)} is not required"
