"""The doctor's verdicts, on machines that are made up."""

import json

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
    assert "tried with <1" in new.seen and missing.seen.startswith("missing: `pip install")


def test_memory_and_disk():
    assert space("disk", 5e9, 2e9, "make room") == ("disk", "fit", "5 GB free")
    short = space("disk", 1.5e9, 2e9, "make room")
    assert short == ("disk", "unfit", "1.5 GB free, 2 wanted: make room")


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
