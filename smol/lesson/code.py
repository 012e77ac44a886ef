"""One source of code: is what a notebook builds the package's (`same_code`), and `show`."""

import ast
import difflib
import inspect
import linecache
from collections.abc import Callable
from pathlib import Path

import smol

# No notebook builds what is in the first two; the third holds copies that JupyterLab makes.
NOT_SEARCHED = {"tests", "lesson", ".ipynb_checkpoints"}


def same_code(*objects: type | Callable) -> None:
    """Prints, for each class or function of the notebook, whether it is the package's.

    Syntax trees are compared: docstrings, comments, layout and the type hints of functions may
    differ, nothing else may. A class may leave methods out, which is said. Where the code differs
    the difference is printed, "-" the package's lines and "+" the notebook's.
    """
    for obj in objects:
        name = obj.__name__
        mine = _definition(_source_file_of(obj), name)
        module, theirs = definition_in_package(name)
        left_out = []
        if isinstance(mine, ast.ClassDef):
            have = {node.name for node in mine.body if isinstance(node, ast.FunctionDef)}
            left_out = [
                node.name
                for node in theirs.body
                if isinstance(node, ast.FunctionDef) and node.name not in have
            ]
            theirs.body = [
                node for node in theirs.body if getattr(node, "name", "") not in left_out
            ]
        mine, theirs = (_essence(node) for node in (mine, theirs))
        if mine == theirs:
            rest = f" (left out here: {', '.join(left_out)})" if left_out else ""
            print(f"{name}: same code as {module}{rest}")
        else:
            print(f"{name}: differs from {module}")
            lines = difflib.unified_diff(theirs.splitlines(), mine.splitlines(), lineterm="", n=0)
            print("\n".join(line for line in lines if line[:2] not in ("--", "++", "@@")))


def _source_file_of(obj) -> str:
    """The cell or file that defines `obj` (inspect.getsource fails for a class of a cell)."""
    functions = [obj] if inspect.isfunction(obj) else vars(obj).values()
    for function in functions:
        own = getattr(function, "__qualname__", "").split(".")[0] == obj.__name__
        code = getattr(function, "__code__", None) if own else None
        if code is not None and (lines := linecache.getlines(code.co_filename)):
            return "".join(lines)
    raise ValueError(f"the source of {obj.__name__} is not to be found: run its cell again")


def _definition(source: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    found = [node for node in ast.parse(source).body if getattr(node, "name", None) == name]
    if not found:
        raise ValueError(f"{name} is not defined at the top level of its cell")
    return found[-1]


def definition_in_package(name: str) -> tuple[str, ast.AST]:
    """The dotted module that defines `name` at its top level, and the definition."""
    package, found = Path(smol.__file__).parent, {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        if NOT_SEARCHED.intersection(parts):
            continue
        module = ".".join((package.name, *parts)).removesuffix(".__init__")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if getattr(node, "name", None) == name:
                found.setdefault(module, node)
    if not found:
        raise ValueError(f"the package has no {name}")
    if len(found) > 1:
        raise ValueError(f"the package has more than one {name}, in {' and in '.join(found)}")
    return found.popitem()


def _essence(node: ast.AST) -> str:
    """The code as text, without docstrings and the hints of functions."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            part.returns = None
            for arg in (*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs):
                arg.annotation = None
        if (
            isinstance(part, ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(part) is not None
        ):
            part.body = part.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def show(obj: type | Callable) -> None:
    """Displays the package's source of a class or function, to be read rather than written."""
    from IPython.display import Markdown, display

    display(Markdown(f"```python\n# {obj.__module__}\n{inspect.getsource(obj).rstrip()}\n```"))
