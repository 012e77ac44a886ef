"""What notebook 7 shows of the KV cache can fail: bugs are planted, and its lines change."""

from pathlib import Path

import nbformat
import pytest

from smol.tests.solutions import Reader

FILE = Path(__file__).resolve().parents[2] / "notebooks" / "07_generate.ipynb"
LOADED = 'model = load_pretrained(root / "assets" / "smol-stories")\n'
# the cell by a piece of it; what is exchanged in the notebook; a line that the cell then prints
PLANTED = {
    "a token sees later ones": (
        "old_keys = ",
        (LOADED, LOADED + 'MUTANTS["no_mask"](model)\n'),
        "The trumpet was gone   keys that have changed: 3 of 3",
    ),
    "no token sees another": (
        "old_keys = ",
        (LOADED, LOADED + "for a in model.layers: a.self_attn.attend = lambda q, k, v, m: q\n"),
        "A trumpet was          keys that have changed: 1 of 3",
    ),
    "the mask is aligned top left": (
        "def causal_mask",
        (".tril(S - T)\n", ".tril()\n"),
        "[1, 2, 3]",
    ),
    "so is that which attention gets": (
        "F.scaled_dot_product",
        (".tril(S - T)\n", ".tril()\n"),
        "causal_mask(3, 8) keys with a weight: [1, 2, 3]",
    ),
    "a call writes over the oldest": (
        "class LayerCache",
        ("start, end = self.start, self.start + k", "start, end = 0, k"),
        "room [6, 2, 3, 4, 5, 0, 0, 0] given [6]",
    ),
    "the length stands still": (
        "class KVCache",
        ("    cache.length += T\n", ""),
        "length 0 · each layer gets keys of [1, 3, 1, 64]",
    ),
    "the model's own mask is aligned top left": (
        "def in_pieces",
        (LOADED, LOADED + 'MUTANTS["cache_mask_top_left"](model)\n'),
        "our mask [11, 3, 1, 1]        OTHER LOGITS",
    ),
    "each call counts its positions from 0": (
        "def token_passes",
        (LOADED, LOADED + 'MUTANTS["cache_position_restarts"](model)\n'),
        "our greedy story, with a cache: False",
    ),
}


def opened() -> nbformat.NotebookNode:
    """The notebook, its greedy story ended early: all of it is long, and written by `refresh.py`
    and `pytest --nbval`."""
    notebook = nbformat.read(FILE, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    assert sum(source.count("empty, 241)") for source in sources) == 3
    for cell, source in zip(notebook.cells, sources, strict=True):
        cell.source = source.replace("empty, 241)", "empty, 41)")
    return notebook


def place(notebook: nbformat.NotebookNode, piece: str) -> int:
    """The number of the one code cell with this piece."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (k,) = (k for k, cell in enumerate(code) if piece in cell.source)
    return k


@pytest.fixture(scope="module")
def sound():
    return Reader(opened())


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_changes_what_is_printed(bug, sound):
    piece, (right, wrong), line = PLANTED[bug]
    notebook = opened()
    k = place(notebook, piece)
    assert line not in sound.run(k)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (planted_in,) = (cell for cell in code if right in cell.source)
    planted_in.source = planted_in.source.replace(right, wrong)
    assert line in Reader(notebook).run(k)


def test_without_a_bug_what_is_stored_is_printed(sound):
    notebook = opened()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for piece in {piece for piece, *_ in PLANTED.values()}:
        k = place(notebook, piece)
        stored = [out.text for out in code[k].outputs if out.output_type == "stream"]
        said = sound.run(k)
        assert stored and all(line in said for line in "".join(stored).splitlines()), piece
