"""The notebooks as files: normalised, executed, of one template, and the code in them clean."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import refresh
import stamp

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def code_cells(file):
    cells = nbformat.read(file, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert len(FILES) >= 9


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
class TestNotebook:
    def test_is_as_the_refresh_command_leaves_it(self, file):
        assert refresh.complaints(file) == []

    def test_size_and_cells(self, file):
        lengths = sorted(len(cell.source.splitlines()) for cell in code_cells(file))
        assert file.stat().st_size <= 500_000
        assert len(nbformat.read(file, as_version=4).cells) <= 120
        assert lengths[-1] <= 40
        assert lengths[len(lengths) // 2] <= 8

    def test_set_up_cell_is_the_same_everywhere(self, file):
        assert code_cells(file)[0].source == code_cells(FILES[0])[0].source

    def test_ignored_outputs_are_followed_by_a_compared_cell(self, file):
        ignored = [
            "nbval-ignore-output" in cell.metadata.get("tags", []) for cell in code_cells(file)
        ]
        assert not any(a and b for a, b in itertools.pairwise(ignored))

    def test_what_is_no_content_is_folded(self, file):
        for cell in code_cells(file)[:2]:  # the set-up, and the imports with the map
            assert cell.source.startswith("# @title ")
            assert cell.metadata["jupyter"] == {"source_hidden": True}
            assert cell.metadata["cellView"] == "form"

    def test_no_error_is_stored(self, file):
        outputs = [out for cell in code_cells(file) for out in cell.outputs]
        assert not [out for out in outputs if out.output_type == "error"]


def test_complaints_are_made(tmp_path):
    """The check above can fail: on a null count, on a stray timing, on another layout."""
    for spoil in (
        lambda nb: nb["cells"][1].update(execution_count=None),
        lambda nb: nb["cells"][1]["metadata"].update(execution={"iopub.status.busy": "now"}),
        lambda nb: nb["metadata"]["language_info"].update(version="3.11.7"),
    ):
        notebook = json.loads(FILES[0].read_text(encoding="utf-8"))
        spoil(notebook)
        file = tmp_path / "01_spoilt.ipynb"
        file.write_text(
            json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        assert refresh.complaints(file)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_set_up_cell(folder: Path, source: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", source + "\nprint(smol.__file__)"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_set_up_finds_the_series_from_its_notebooks():
    done = run_set_up_cell(ROOT / "notebooks", code_cells(FILES[0])[0].source)
    assert done.stdout.strip() == str(ROOT / "smol" / "__init__.py"), done.stderr


def test_set_up_fetches_the_series_where_there_is_only_a_notebook(tmp_path):
    """As in Colab: an empty folder and an address. A local repository stands in for the hub."""
    served = tmp_path / "served"
    shutil.copytree(ROOT / "smol", served / "smol", ignore=shutil.ignore_patterns("__pycache__"))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *command], cwd=served, check=True)
    empty = tmp_path / "colab"
    empty.mkdir()
    source = code_cells(FILES[0])[0].source
    addressed = source.replace('REPOSITORY = ""', f'REPOSITORY = "file://{served}"')
    assert addressed != source
    done = run_set_up_cell(empty, addressed)
    assert done.stdout.strip() == str(empty / "smol-series" / "smol" / "__init__.py"), done.stderr


def test_set_up_without_series_and_address_says_what_to_do(tmp_path):
    done = run_set_up_cell(tmp_path, code_cells(FILES[0])[0].source)
    assert "write its repository's address into REPOSITORY" in done.stderr


def test_set_up_refuses_another_package_named_smol(tmp_path):
    other = tmp_path / "smol"
    other.mkdir()
    (other / "__init__.py").write_text("")
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import smol\n"
    done = run_set_up_cell(ROOT / "notebooks", source + code_cells(FILES[0])[0].source)
    assert "Another package named smol came first" in done.stderr


# -- the address of the repository ----------------------------------------------------------------


def copy_of_the_series(folder: Path) -> Path:
    """What git would serve: everything that it does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    files = [*folder.glob("notebooks/*.ipynb"), folder / "README.md", folder / "pyproject.toml"]
    return {file: file.read_bytes() for file in files}


def test_the_stored_stamp_is_that_of_pyproject(tmp_path):
    copy = copy_of_the_series(tmp_path)
    before = contents(copy)
    stamp.stamp(stamp.address_of(copy), copy)
    assert contents(copy) == before


@pytest.mark.parametrize("ending", ["", ".git", "/"])
def test_an_address_is_stamped_everywhere_and_taken_out_again(tmp_path, ending):
    copy = copy_of_the_series(tmp_path)
    stamp.stamp("", copy)
    plain, address = contents(copy), f"https://github.com/me/it{ending}"
    stamp.stamp(address, copy)
    assert stamp.address_of(copy) == address
    once = contents(copy)
    stamp.stamp(address, copy)
    assert contents(copy) == once
    readme = (copy / "README.md").read_text(encoding="utf-8")
    for file in sorted(copy.glob("notebooks/*.ipynb")):
        link = f"https://colab.research.google.com/github/me/it/blob/main/notebooks/{file.name}"
        title, set_up = nbformat.read(file, as_version=4).cells[:2]
        assert title.source.count(f"]({link})") == 1 and title.source.startswith("# ")
        assert f'REPOSITORY = "{address}"' in set_up.source
        assert readme.count(f"[Colab]({link})") == 1
        assert refresh.complaints(file) == []
    stamp.stamp("https://example.org/it.git", copy)
    assert b"colab.research" not in b"".join(contents(copy).values())
    stamp.stamp("", copy)
    assert contents(copy) == plain


def test_what_is_no_address_is_refused(tmp_path):
    for address in ("me", 'https://github.com/"me"/it', "https://github.com/me it"):
        with pytest.raises(ValueError, match="is no address"):
            stamp.stamp(address, tmp_path)


def test_a_notebook_alone_fetches_the_rest_and_runs(tmp_path):
    """As in Colab: an empty folder but for one notebook that is stamped with an address, here
    that of a repository on this disk. Nothing is installed; no git, no series above it."""
    from nbclient import NotebookClient

    served = copy_of_the_series(tmp_path / "served")
    stamp.stamp(f"file://{served}", served)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *command], cwd=served, check=True)
    content = tmp_path / "content"
    content.mkdir()
    notebook = nbformat.read(served / "notebooks" / FILES[0].name, as_version=4)
    del notebook.cells[5:]  # by then the reference is loaded
    client = NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(content)}}
    )
    own = {"COLAB_RELEASE_TAG": "x", "PYTHONPATH": "", "SMOL_WEIGHTS": "random"}  # no cache there
    client.execute(env={**os.environ, **own})
    assert (content / "smol-series" / "smol" / "model.py").is_file()
    assert "reference" in notebook.cells[4].source and notebook.cells[4].execution_count == 3
