"""The doctor's verdicts, on machines that are made up."""

import builtins
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace as Namespace

import pytest
import torch

from smol import doctor
from smol.doctor import expected_times, gpu, hub, packages, python_version, space


def test_python_versions():
    for found, verdict in (((3, 10), "unfit"), ((3, 11), "fit"), ((3, 13), "fit")):
        assert python_version(found).verdict == verdict
    assert python_version((3, 14)).verdict == "note"
    assert "install 3.11, 3.12 or 3.13" in python_version((3, 9)).seen


def test_packages_are_held_against_their_bounds():
    text = "# a comment\ntorch>=2.0,<99\ntorch<1  # too new\nno-such-package>=1\n"
    right, new, missing = packages(text)
    assert (right.verdict, new.verdict, missing.verdict) == ("fit", "unfit", "unfit")
    assert right.seen.startswith(torch.__version__.split("+")[0])
    assert "tried with <1:" in new.seen and missing.seen.startswith("missing: `pip install")


def test_memory_and_disk():
    assert space("disk", 5e9, 2e9, "make room") == ("disk", "fit", "5 GB free")
    short = space("disk", 1.5e9, 2e9, "make room")
    assert short == ("disk", "unfit", "1.5 GB free, 2 wanted: make room")


def test_notebooks_to_leave_out_are_those_that_say_three_gb(monkeypatch):
    """Where memory is short. What each takes stands in its first cell."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: Namespace(available=1e9))
    large = []
    for file in sorted((doctor.ROOT / "notebooks").glob("[0-9]*.ipynb")):
        first = "".join(json.loads(file.read_text(encoding="utf-8"))["cells"][0]["source"])
        large += [file.name[1]] if "**Memory** 3 GB" in first else []
    *most, last = large
    want = f"1.0 GB free, 4 wanted: close .*, or leave out notebooks {', '.join(most)} and {last}$"
    assert doctor.memory().verdict == "unfit" and re.match(want, doctor.memory().seen)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_a_gpu_and_its_precision(monkeypatch, capability, dtype):
    class Properties:
        total_memory = 16e9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla X")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert gpu() == ("GPU", "fit", f"Tesla X, 16 GB, trains in {dtype}")


def test_no_gpu_and_no_hub_are_no_obstacle(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert gpu().verdict == "note" and "none is needed" in gpu().seen
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    assert hub().verdict == "note"
    monkeypatch.setenv("SMOL_OFFLINE", "0")

    class Api:
        def model_info(self, *args, **kwargs):
            raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub().seen == "not in reach (no route): random weights, which is enough"


def test_without_any_package_it_says_what_is_missing():
    """-S leaves the standard library alone to be imported, -E no other place to look in."""
    command = [sys.executable, "-S", "-E", "-m", "smol.doctor"]
    online = {key: value for key, value in os.environ.items() if key != "SMOL_OFFLINE"}
    run = subprocess.run(command, cwd=doctor.ROOT, env=online, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, "")
    said = {line[4:].split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    for name in ("torch", "regex", "safetensors", "tqdm"):
        assert said[name].startswith("!!") and "missing: `pip install -r" in said[name]
    for what, module in (("memory", "psutil"), ("GPU", "torch"), ("speed", "torch")):
        assert f"not looked at (No module named '{module}'): `pip install -r" in said[what]
    assert "things to put right: see !! above" in run.stdout.splitlines()[-1]
    wanted = subprocess.run(
        [*command[:3], "-c", "from smol import SmolLM2"],
        cwd=doctor.ROOT,
        capture_output=True,
        text=True,
    )
    assert wanted.stderr.endswith("ModuleNotFoundError: No module named 'torch'\n")


def test_a_package_that_is_broken_is_named(monkeypatch):
    """A torch without its libraries is an OSError; versions are read by `packaging`."""
    imports = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torch":
            raise OSError("libcudart.so: cannot open\nshared object file")
        if name.startswith("packaging"):
            raise ModuleNotFoundError("No module named 'packaging'")
        return imports(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    (found,) = doctor.tried("GPU", gpu)
    assert found.verdict == "unfit" and "not looked at (libcudart.so: cannot open)" in found.seen
    (found,) = packages("torch>=2.0")
    assert found.verdict == "unfit" and "(No module named 'packaging'): `pip" in found.seen


def test_times_are_scaled_by_the_probe():
    stored = {"probe_seconds": 0.1, "seconds": {"01_inspect": 8.0, "05_train": 80.0}}
    speed, first, second = expected_times(stored, 0.2)
    assert speed.verdict == "fit" and "2.0 × as long" in speed.seen
    assert first.seen == "runs in about 16 s" and second.seen == "runs in about 160 s"
    assert expected_times(stored, 0.5)[0].verdict == "note"
    assert 0 < doctor.probe(rounds=1) < 60


@pytest.mark.parametrize("verdict", ["fit", "unfit"])
def test_the_exit_status_says_whether_something_stands_in_the_way(monkeypatch, capsys, verdict):
    finding = doctor.Finding("disk", verdict, "seen")
    monkeypatch.setattr(doctor, "examine", lambda: iter([finding]))
    assert doctor.main() == (verdict == "unfit")
    out = capsys.readouterr().out
    assert ("1 thing to put right" in out) == (verdict == "unfit")


def test_this_environment_has_what_requirements_txt_asks_for():
    text = (doctor.ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert [finding for finding in packages(text) if finding.verdict != "fit"] == []


def test_the_stored_times_are_of_all_notebooks():
    stored = json.loads(doctor.TIMES.read_text(encoding="utf-8"))["notebooks"]
    names = sorted(file.stem for file in (doctor.ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert sorted(stored["seconds"]) == names
    assert max(stored["seconds"].values()) <= 90
    readme = (doctor.ROOT / "README.md").read_text(encoding="utf-8")
    assert f"they take {sum(stored['seconds'].values()):.0f} s, one after another" in readme
