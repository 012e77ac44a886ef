"""The doctor's verdicts, on machines that are made up."""

import builtins
import importlib.util
import itertools
import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace as Namespace

import pytest
import torch

from smol import doctor, files, limits
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
    monkeypatch.setattr(limits, "memory_left", lambda: math.inf)
    large = []
    for file in sorted((doctor.ROOT / "notebooks").glob("[0-9]*.ipynb")):
        first = "".join(json.loads(file.read_text(encoding="utf-8"))["cells"][0]["source"])
        large += [file.name[1]] if "**Memory** 3 GB" in first else []
    *most, last = large
    want = f"1.0 GB free, 4 wanted: close .*, or leave out notebooks {', '.join(most)} and {last}$"
    assert doctor.memory().verdict == "unfit" and re.match(want, doctor.memory().seen)


def test_memory_is_the_smaller_of_the_machines_and_the_containers(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: Namespace(available=16e9))
    monkeypatch.setattr(limits, "memory_left", lambda: 1e9)
    assert doctor.memory().verdict == "unfit"
    assert doctor.memory().seen.startswith("1.0 GB free by the container's limit, 4 wanted: close")
    monkeypatch.setattr(limits, "memory_left", lambda: 8e9)
    assert doctor.memory() == ("memory", "fit", "8 GB free by the container's limit")
    monkeypatch.setattr(limits, "memory_left", lambda: math.inf)
    assert doctor.memory() == ("memory", "fit", "16 GB free")


@pytest.mark.parametrize(
    ("there", "cores", "quota", "verdict", "seen"),
    [
        (8, 8, math.inf, "fit", "8 cores"),
        (8, 2, math.inf, "fit", "2 of 8 cores (what this process may run on)"),
        (8, 1, math.inf, "note", "1 of 8 cores .*; the notebooks were timed on 2, .* 2 times as"),
        (8, 8, 0.5, "note", r"0.5 of 8 cores \(the container's quota\): .*=1; .* 4 times as long"),
        (8, 8, 3.5, "fit", r"3.5 of 8 cores \(the container's quota\): set OMP_NUM_THREADS=3"),
        (1, 1, math.inf, "note", "1 core; .* about 2 times as long here"),
        (2, 2, 4, "fit", "2 cores"),
    ],
)
def test_cores(monkeypatch, there, cores, quota, verdict, seen):
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    monkeypatch.setattr(limits, "allowed_cores", lambda: cores)
    monkeypatch.setattr(limits, "cpu_quota", lambda: quota)
    found = doctor.processor()
    assert found.verdict == verdict and (found.seen == seen or re.match(seen, found.seen))


def test_where_the_checkout_cannot_be_written_the_users_folder_is_looked_at(monkeypatch, tmp_path):
    """Below a file no folder can be made, whoever asks."""
    (tmp_path / "file").touch()
    looked = []

    def usage(folder):
        looked.append(folder)
        return Namespace(free=9e9)

    monkeypatch.setattr(doctor.shutil, "disk_usage", usage)
    monkeypatch.setattr(files, "CACHE", tmp_path / "data" / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert doctor.cache() == ("cache", "fit", f"in {files.CACHE}")
    monkeypatch.setattr(files, "CACHE", tmp_path / "file" / "cache")
    found, where = doctor.cache(), tmp_path / "user" / "smol"
    assert found.verdict == "note"
    assert found.seen.endswith(f"cannot be written: downloads and tokens go to {where}")
    assert doctor.disk() == ("disk", "fit", f"9 GB free in {where}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert doctor.cache().verdict == "unfit" and "set XDG_CACHE_HOME to" in doctor.cache().seen
    assert doctor.disk().verdict == "fit" and looked == [where, doctor.ROOT]


def test_no_compiler_is_no_obstacle(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = doctor.compiler()
    assert found.verdict == "note" and found.seen.endswith("out; nothing else needs it")
    monkeypatch.setattr("smol.device.check_compiler", lambda: None)
    monkeypatch.setattr("smol.device.find_compiler", lambda: "/bin/c++")
    assert doctor.compiler() == ("compiler", "fit", "/bin/c++, for --compile")


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
    assert hub().seen == "not in reach (no route)"


def test_a_hub_that_hangs_holds_nobody_and_its_address_is_not_printed(monkeypatch):
    monkeypatch.setenv("SMOL_OFFLINE", "0")
    monkeypatch.setattr(doctor, "WAIT", 0.1)
    over = threading.Event()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: over.wait(60))
    try:
        assert hub().seen == "not in reach (no answer in 0.1 s)"
    finally:
        over.set()

    def refuses(*args, **kwargs):
        raise OSError("401 for https://me:secret@mirror/api: no")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuses)
    assert hub().seen.startswith("not in reach (401 for <address> no)")


def test_pip_is_asked_and_needed_by_nobody(monkeypatch):
    asked, answers = [], []

    def run(command, **options):
        asked.append(command)
        if isinstance(answers[-1], Exception):
            raise answers[-1]
        return Namespace(returncode=answers[-1])

    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    assert doctor.pip().verdict == "note" and "not asked" in doctor.pip().seen and not asked
    monkeypatch.setenv("SMOL_OFFLINE", "0")
    for answer, verdict, seen in (
        (0, "fit", "a package index is in reach"),
        (
            1,
            "note",
            "no package index in reach; needed where a package is missing, and for the real",
        ),
        (subprocess.TimeoutExpired("pip", 1), "note", "no answer in 15 s; needed where"),
        (OSError("no room"), "note", "not asked (no room)"),
    ):
        answers.append(answer)
        found = doctor.pip()
        assert found.verdict == verdict and found.seen.startswith(seen)
    assert len(asked) == 4
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.pip().verdict == "note" and "`uv pip install`" in doctor.pip().seen
    assert len(asked) == 4


def test_the_weights_there_will_be(monkeypatch, tmp_path):
    """The same order as load_reference's: hub, packaged, random; one of them may be forced."""
    in_cache = {"hub": None, "packaged": None}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: in_cache["hub"])
    module = importlib.import_module("smol.pretrained.wheel")
    monkeypatch.setattr(module, "in_cache", lambda: in_cache["packaged"])

    def found(forced: str, **answers) -> tuple[str, str]:
        monkeypatch.setenv("SMOL_WEIGHTS", forced)
        what, verdict, seen = doctor.weights(answers.get("pip", False), answers.get("hub", False))
        assert what == "weights"
        return verdict, seen

    assert found("", hub=True, pip=True)[1].startswith("published: HuggingFaceTB/SmolLM2-135M-I")
    assert found("", pip=True)[1].startswith("packaged: the real model in four bits, 93 MB throu")
    assert found("")[0] == "note" and found("")[1].startswith("random: neither hub nor pip")
    assert found("random", hub=True) == (
        "note",
        "SMOL_WEIGHTS=random is set: random ones, to compare",
    )
    assert found("packaged", hub=True)[0] == "unfit" and found("published", pip=True)[0] == "unfit"
    assert found("packaged", pip=True)[0] == found("published", hub=True)[0] == "fit"
    assert found("real") == (
        "unfit",
        "SMOL_WEIGHTS='real' is set: take one of published, packaged, random, or unset it",
    )
    in_cache["packaged"] = tmp_path / "model.gguf"
    assert found("") == ("fit", f"packaged: the real model in four bits, {in_cache['packaged']}")
    in_cache["hub"] = str(tmp_path)
    assert found("") == (
        "fit",
        "published: HuggingFaceTB/SmolLM2-135M-Instruct, in the hub's cache",
    )
    assert found("packaged")[1].startswith("packaged: the real model in four bits")


@pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="made without pip")
def test_an_index_that_never_answers_is_left_in_seconds(monkeypatch, tmp_path):
    """pip itself, and a server that takes the connection and is silent."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SMOL_OFFLINE", "0")
    monkeypatch.setattr(doctor, "ANSWER", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@127.0.0.1:{port}/simple")
        start = time.perf_counter()
        found = doctor.pip()
    assert time.perf_counter() - start < 30
    assert found.verdict == "note" and "in reach" in found.seen and "secret" not in found.seen


def test_without_any_package_it_says_what_is_missing():
    """-S leaves the standard library alone to be imported, -E no other place to look in."""
    command = [sys.executable, "-S", "-E", "-m", "smol.doctor"]
    online = {key: value for key, value in os.environ.items() if key != "SMOL_OFFLINE"}
    run = subprocess.run(command, cwd=doctor.ROOT, env=online, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, "")
    said = {line[4:].split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    for name in ("torch", "regex", "safetensors", "tqdm"):
        assert said[name].startswith("!!") and "missing: `pip install -r" in said[name]
    for what in ("CPU", "disk", "compiler", "pip"):  # these need none
        assert not said[what].startswith("!!")
    for what, module in (("memory", "psutil"), ("GPU", "torch"), ("speed", "psutil")):
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
    assert speed.verdict == "fit" and "2.0 times as long" in speed.seen
    assert first.seen == "runs in about 16 s" and second.seen == "runs in about 160 s"
    assert expected_times(stored, 0.5)[0].verdict == "note"
    assert 0 < doctor.probe().seconds < 60


def test_the_machine_being_busy_is_said():
    stored = {"probe_seconds": 0.1, "seconds": {"01_inspect": 8.0}}
    speed, first = expected_times(stored, 0.2, "others use 2.0 of 2 cores")
    assert speed.verdict == "note" and first.seen == "runs in at most 16 s"
    assert speed.seen.startswith(
        "the machine is busy (others use 2.0 of 2 cores): times are from the fastest step; a "
        "training step takes at most 2.0 times as long"
    )


class Clock:
    """A clock of this thread that goes on only while a step runs, by what the steps take."""

    def __init__(self, *seconds: float):
        self.seconds, self.now, self.calls = itertools.cycle(seconds), 0.0, 0

    def __call__(self) -> float:
        return self.now

    def step(self):
        self.now += next(self.seconds)
        self.calls += 1


def test_the_fastest_step_counts_and_a_stable_one_ends_the_probe():
    clock = Clock(0.1)
    assert doctor.fastest(clock.step, clock, lambda: clock() / 2) == pytest.approx((0.1, 0.5))
    assert clock.calls == 6  # the first is not counted
    clock = Clock(0.9, 0.2, 0.16, 0.4, 0.15, 0.3, 0.25)
    assert doctor.fastest(clock.step, clock, clock)[0] == pytest.approx(0.15)
    assert 6 < clock.calls <= 21
    clock = Clock(3.0)  # as slow as on a machine that has other things to do
    assert doctor.fastest(clock.step, clock, clock)[0] == pytest.approx(3.0)
    assert clock.calls == 3


@pytest.mark.parametrize(
    ("share", "before", "meanwhile", "quota", "want"),
    [
        (0.99, 0, 0, math.inf, 1.6),
        (0.5, 95, 0, math.inf, 0.15),  # busy: a thread alone, by the time that it computed
        (0.5, 0, 200, math.inf, 0.15),  # others that begin with the first step
        (0.5, 95, 95, 0.5, 1.6),  # the container's quota: the notebooks will wait as well
        (0.5, 3, 0, math.inf, 1.6),  # threads that sleep while they wait
    ],
)
def test_on_a_busy_machine_the_step_is_not_multiplied(
    monkeypatch, share, before, meanwhile, quota, want
):
    def taken(seconds, percpu):
        return [before if seconds else meanwhile] * 2

    def fastest(step, clock=time.perf_counter):
        if clock is time.perf_counter:
            return 1.6, share
        assert torch.get_num_threads() == 1
        return 0.15, 1.0

    monkeypatch.setattr(doctor, "fastest", fastest)
    monkeypatch.setattr(limits, "cpu_quota", lambda: quota)
    monkeypatch.setattr("psutil.cpu_percent", taken)
    monkeypatch.setattr(doctor, "training_step", lambda: None)
    threads = torch.get_num_threads()
    found = doctor.probe()
    assert found.seconds == want and torch.get_num_threads() == threads
    said = re.match(r"others use \d\.\d of 2 cores", found.busy)
    assert bool(said) == (want == 0.15) and bool(found.busy) == bool(said)


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp437"])
def test_an_old_console_stops_nothing(encoding):
    """-S: without the packages, which it need not load for this."""
    lines = (
        "import sys",
        "from smol import doctor",
        "doctor.examine = lambda: iter([doctor.Finding('speed', 'note', '2 × as long…')])",
        "sys.exit(doctor.main())",
    )
    for asked in (["-c", "; ".join(lines)], ["-m", "smol.doctor"]):
        run = subprocess.run(
            [sys.executable, "-S", *asked],
            cwd=doctor.ROOT,
            env=os.environ | {"PYTHONIOENCODING": encoding, "SMOL_OFFLINE": "1"},
            capture_output=True,
        )
        assert (run.returncode, run.stderr) == (int("-m" in asked), b"")
    assert b"missing: `pip install" in run.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there a pipe that is closed says EINVAL")
def test_it_says_what_it_is_and_takes_no_names(capsys):
    """Without looking at anything first."""
    for word, status in (("--help", 0), ("junk", 2)):
        with pytest.raises(SystemExit) as ended:
            doctor.main([word])
        assert ended.value.code == status
    said = capsys.readouterr()
    assert "Is this machine fit" in said.out and "unrecognized arguments: junk" in said.err


def test_a_reader_that_went_away_ends_it_in_silence():
    """As `python -m smol.doctor | head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-S", "-m", "smol.doctor"],
        cwd=doctor.ROOT,
        env=os.environ | {"SMOL_OFFLINE": "1"},
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, b"")


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
    page = (doctor.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"they take {sum(stored['seconds'].values()):.0f} s, one after another" in page
