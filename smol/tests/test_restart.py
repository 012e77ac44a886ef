"""Runs that restart by themselves: workers killed, processes that fail, one command line."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from smol import train
from smol.data import Windows
from smol.files import locked
from smol.tests import kills
from smol.train import Log, Ranks, checkpoints, read_log
from smol.train import loop as looping
from smol.train.learner import Learner
from smol.train.log import Progress

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return kills.write_text(tmp_path_factory.mktemp("text"))


def settings(text, **changes) -> train.TrainConfig:
    small = {"data": str(text), "steps": 6, "batch_size": 4, "seq_len": 32, "device": "cpu"}
    often = {"log_every": 1, "eval_every": 6, "save_every": 3}
    return train.TrainConfig(**{**small, **often, **changes})


# -- torchrun -------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_worker_changes_no_loss(text, tmp_path, monkeypatch):
    """Four steps or more after a checkpoint: they are taken again, and have the same losses. More
    kills, each run beside one that nobody disturbed: `python -m smol.tests.kills`."""
    monkeypatch.setattr(kills, "STEPS", 24)
    out, how = tmp_path / "run", "fsdp"
    if torch.__version__.startswith("2.6."):  # whose FSDP2 is for GPUs only
        how = "ddp"
    process = kills.start(text, out, how, save_every=12, restarts=1)
    try:
        when = kills.kill_one(process, out, True, random.Random(10))  # after step 16
        before = kills.losses(out)
    finally:
        said = kills.finish(process, out)
    got = kills.losses(out)
    assert "exitcode: -9" in said, when  # somebody was killed
    assert said.count("the run begins") == 1, when  # the second time it went on
    assert len(before) >= 16 and got[: len(before)] == before, when
    assert [row[0] for row in got] == list(range(1, kills.STEPS + 1))


ONE_FAILS = """
import os, sys
if os.environ["RANK"] == "1":
    if sys.argv.pop(1) == "early":
        raise SystemExit("fails before the group is made")
    import smol.train.loop as loop
    def start_from(*args):
        raise ValueError("fails within it")
    loop.start_from = start_from
else:
    sys.argv.pop(1)
from smol.train.__main__ import main
sys.exit(main())
"""


def two_processes(tmp_path, text, moment: str, torchrun: bool) -> tuple[float, str, list[int]]:
    """Two processes of which the second fails: the seconds from its end to that of both, what was
    said, and the exit statuses."""
    program = tmp_path / "one_fails.py"
    program.write_text(ONE_FAILS)
    words = [str(program), moment, "--data", str(text), "--out", str(tmp_path / "out")]
    words += ["--steps", "5", "--batch-size", "4", "--seq-len", "32", "--device", "cpu"]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environments = [
        {**own, "RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": "2"} for n in (0, 1)
    ]
    start = [sys.executable]
    if torchrun:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environments = [{**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}]
    processes = [
        subprocess.Popen([*start, *words], cwd=ROOT, env=e, stderr=subprocess.PIPE)
        for e in environments
    ]
    began = time.monotonic()
    said = processes[-1].communicate(timeout=100)[1].decode()
    began = began if torchrun else time.monotonic()
    if not torchrun:
        said += processes[0].communicate(timeout=100)[1].decode()
    return time.monotonic() - began, said, [process.returncode for process in processes]


@pytest.mark.parametrize("torchrun", [True, False], ids=["torchrun", "by hand"])
def test_a_process_that_fails_at_the_start_ends_the_others(text, tmp_path, torchrun):
    """At once and with its reason: nobody waits half an hour for one that is gone."""
    seconds, said, statuses = two_processes(tmp_path, text, "late", torchrun)
    assert seconds < (30 if torchrun else 10) and all(statuses)  # torchrun: the start included
    assert "smol.train: fails within it" in said
    if not torchrun:
        assert statuses == [1, 1]
        assert "smol.train: process 1 failed: ValueError: fails within it" in said
    assert not (tmp_path / "out").exists()


def test_a_process_that_never_comes_ends_the_others_under_torchrun(text, tmp_path):
    seconds, said, (status,) = two_processes(tmp_path, text, "early", torchrun=True)
    assert seconds < 30 and status and "fails before the group is made" in said


def test_a_start_finds_its_own_and_not_those_that_died(monkeypatch):
    """torchrun's store outlives the processes: what the dead have left there is not answered."""
    import threading

    from torch import distributed as dist

    from smol.train import ranks

    store = dist.HashStore()
    for n in range(3):  # of an earlier start: a question, its answer, somebody's address
        store.set(f"question {n}", "old")
    store.set("answer old", "old name")
    found = {}

    def come(rank):
        own = dist.PrefixStore("", store)  # a handle for each thread
        monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(own, thread_rank(), 3)]))
        found[rank] = ranks._store_of_this_start(patience=20)

    def thread_rank() -> int:
        return int(threading.current_thread().name)

    threads = [threading.Thread(target=come, args=(n,), name=str(n)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found[0].set("address", "mine")
    assert all(found[n].get("address") == b"mine" for n in (1, 2))
    assert not store.check(["address", "old name/address"])


def test_one_that_does_not_come_is_missed(monkeypatch):
    from torch import distributed as dist

    from smol.train import ranks

    store = dist.HashStore()
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(store, 0, 2)]))
    with pytest.raises(ValueError, match="not all of 2 processes came within 0 s: start them"):
        ranks._store_of_this_start(patience=0.1)


# -- one process ----------------------------------------------------------------------------------


def test_the_same_call_starts_and_resumes_and_ends(text, tmp_path):
    """As a scheduler makes it, again and again, also when the run is at its end."""
    for _ in range(3):
        train.train(settings(text), tmp_path, resume=True)
        rows = read_log(tmp_path / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, 7))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_nohup_is_left_alone(text, tmp_path, monkeypatch):
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        add = Log.add
        monkeypatch.setattr(
            Log, "add", lambda log, row: (add(log, row), signal.raise_signal(signal.SIGHUP))
        )
        train.train(settings(text), tmp_path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)
    assert len(read_log(tmp_path / "metrics.jsonl")) == 6


def test_the_same_file_by_another_name_is_the_same(text, tmp_path, monkeypatch):
    """Identity is what a file holds, not how its name is spelled or where it lies today."""
    train.train(settings(text), tmp_path / "out")
    before = read_log(tmp_path / "out" / "metrics.jsonl")
    other = tmp_path / "moved.jsonl"
    other.write_bytes(text.read_bytes())
    monkeypatch.chdir(tmp_path)
    train.train(settings("moved.jsonl", steps=8), "out", resume=True)
    assert [r["step"] for r in read_log(tmp_path / "out" / "metrics.jsonl")] == list(range(1, 9))
    assert read_log(tmp_path / "out" / "metrics.jsonl")[:3] == before[:3]
    other.write_text(other.read_text(encoding="utf-8").replace("the", "a"), encoding="utf-8")
    with pytest.raises(ValueError, match="resume with the data and the settings"):
        train.train(settings("moved.jsonl", steps=9), "out", resume=True)
    with pytest.raises(ValueError, match=r"made with data .*, not 'fresh'"):
        train.train(settings("fresh", steps=9), "out", resume=True)


def test_a_log_that_cannot_be_written_ends_no_run(text, tmp_path, monkeypatch, capsys):
    """Its rows wait and are written later; what a full disk took of one is written over."""
    opened, failing = os.open, {3, 4}

    def full(file, *args):
        number = opened(file, *args)
        if str(file).endswith("metrics.jsonl") and args[0] & os.O_RDWR:
            full.calls += 1
            if full.calls in failing:
                os.lseek(number, 0, os.SEEK_END)
                os.write(number, b'{"step": 3, "lo')
                os.close(number)
                raise OSError(28, "No space left on device")
        return number

    full.calls = 0
    monkeypatch.setattr(os, "open", full)
    train.train(settings(text), tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "metrics.jsonl")] == list(range(1, 7))
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl cannot be written") == 1 and "its rows wait" in said


@pytest.mark.parametrize(
    ("learning_rate", "every"),
    [(100.0, {"save_every": 7}), (1e12, {}), (1e12, {"eval_every": 2}), (1e6, {"save_every": 1})],
)
def test_a_run_that_diverges_is_told_so(text, tmp_path, learning_rate, every):
    """Whatever comes first: a row, an evaluation with its sample, or a checkpoint. None of them
    gives another reason, and nothing that is not finite is saved."""
    config = settings(text, learning_rate=learning_rate, steps=60, log_every=50, eval_every=50)
    config = train.settings.dataclasses.replace(config, **every)
    with pytest.raises(
        ValueError, match=r"the .* is (nan|inf) at step \d+: take a lower learning"
    ):
        train.train(config, tmp_path)
    for folder in checkpoints(tmp_path):
        state = torch.load(folder / "training.pt", weights_only=True)
        assert state["step"] > 0


def test_the_time_of_a_save_is_not_of_the_steps(text, tmp_path, monkeypatch):
    """tokens_per_second of the row after a checkpoint."""
    calls, real = [], looping.save_checkpoint
    monkeypatch.setattr(looping, "save_checkpoint", lambda *a: (calls.append("save"), real(*a)))
    restart = Progress.restart_clock
    monkeypatch.setattr(
        Progress, "restart_clock", lambda self: (calls.append("clock"), restart(self))[1]
    )
    train.train(settings(text, save_every=1), tmp_path)
    assert calls == ["clock", *["save", "clock"] * 6]


def test_what_could_not_be_saved_is_known_before_the_first_step(text, tmp_path, monkeypatch):
    monkeypatch.setattr(Windows, "state_dict", lambda self: {"at": Path("x")})
    with pytest.raises(ValueError, match="what this run would save cannot be saved and loaded"):
        train.train(settings(text), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_said_before_any_work(
    text, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(looping, "reading_of", None)  # which would be the work
    (tmp_path / "file").write_text("x")
    out = {"file": "file", "below a file": "file/out", "read-only": "sealed/out"}[kind]
    if kind == "read-only":
        (tmp_path / "sealed").mkdir(mode=0o500)
        if os.access(tmp_path / "sealed", os.W_OK):
            monkeypatch.setattr(Path, "mkdir", sealed)
    with pytest.raises(
        OSError, match=r"(is a file, not a folder|cannot be written).*: name another"
    ):
        train.train(settings(text), tmp_path / out)


def sealed(self, *args, **kwargs):
    raise OSError(30, "Read-only file system", str(self))


# -- several, in one ------------------------------------------------------------------------------


def test_what_one_process_fails_at_all_fail_at_within_an_except_too(monkeypatch):
    """What is being handled outside is nobody's failure within."""
    said = []
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda into, own: said.append(own))
    try:
        raise FileNotFoundError("before")
    except FileNotFoundError:
        with Ranks(rank=1, size=2).agreed():
            pass
    assert said == [None]


def test_what_one_process_fails_at_all_fail_at(monkeypatch):
    """`agreed`, with the exchange replaced."""
    said = []

    def gather(into, own):
        said.append(own)
        into[:] = [own, "OSError: no room"] if gather.other_fails else [own, None]

    gather.other_fails = False
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    ranks = Ranks(rank=0, size=2)
    with ranks.agreed():
        pass
    with pytest.raises(KeyError), ranks.agreed():
        raise KeyError("x")
    gather.other_fails = True
    with pytest.raises(ValueError, match="process 1 failed: OSError: no room"), ranks.agreed():
        pass
    with pytest.raises(KeyboardInterrupt), ranks.agreed():  # which asks nobody
        raise KeyboardInterrupt
    assert said == [None, "KeyError: 'x'", None]


@pytest.mark.parametrize("more, pad", [({}, None), ({"<|im_end|>": 301, "<|x|>": 302}, 302)])
def test_a_new_model_ends_and_pads_as_its_tokenizer_says(text, tmp_path, more, pad):
    """For transformers, too; and where the end is the only special token, nothing pads."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from smol.tokenizer import BPETokenizer
    from smol.train.checkpoint import save_whole
    from smol.train.loop import new_model

    plain = BPETokenizer.train(["a text"], 256)
    other = BPETokenizer(plain.vocab, plain.merges, {"<|endoftext|>": 300, **more})
    model = new_model(settings(text), other)
    save_whole(model, other, tmp_path)
    theirs = [kind.from_pretrained(tmp_path) for kind in (AutoConfig, GenerationConfig)]
    for config in (model.config, *theirs):
        ends = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
        assert ends == (300, 300, pad)
    assert model.config.vocab_size == 301 + len(more)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (300, pad)
    assert loaded("a text")["input_ids"] == other.encode("a text")
    if pad is None:
        with pytest.raises(ValueError, match="does not have a padding token"):
            loaded(["a text", "a"], padding=True)


# -- a folder, and whose it is --------------------------------------------------------------------


def test_a_home_is_a_home_everywhere(text, tmp_path, monkeypatch):
    """No shell makes the "~" of --out=~/x a path: log, weights and state in the same place."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    train.train(settings(text, steps=2), "~/out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"metrics.jsonl", "step-000002"}
    assert len(read_log("~/out/metrics.jsonl")) == 2 and not Path("~").exists()


@pytest.mark.skipif(os.name != "posix", reason="there is no such lock")
def test_two_runs_do_not_write_into_one_folder(text, tmp_path):
    """A scheduler starts anew what it believes dead, and the workers live on without torchrun."""
    wanted = pytest.raises(OSError, match=r"another run is writing into .*: end that one, or name")
    with locked(tmp_path), wanted:
        train.train(settings(text), tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []
    train.train(settings(text), tmp_path, resume=True)
    train.train(settings(text), tmp_path, resume=True)  # and it lets go


def test_a_log_without_a_checkpoint_is_a_run_too(text, tmp_path):
    """Nobody's rows are dropped unless a run goes on from before them."""
    row = '{"step": 1, "loss": 9.0}\n'
    log = tmp_path / "metrics.jsonl"
    log.write_text(row)
    with pytest.raises(
        FileExistsError, match=r"holds a run before its first checkpoint: --resume"
    ):
        train.train(settings(text), tmp_path)
    with pytest.raises(FileNotFoundError, match="is no file or folder here"):
        train.train(settings("nowhere.txt"), tmp_path, resume=True)
    assert log.read_text() == row


def test_what_others_left_half_done_is_theirs(text, tmp_path):
    for name in (".thesis.part", "film.part", ".step-old"):
        (tmp_path / name).mkdir()
    train.train(settings(text, steps=1), tmp_path)
    assert all((tmp_path / name).is_dir() for name in (".thesis.part", "film.part", ".step-old"))


def test_an_old_checkpoint_that_cannot_be_deleted_ends_no_run(text, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    train.train(settings(text, save_every=1, steps=1), tmp_path / "out")
    (tmp_path / "out" / "step-000001").rename(elsewhere)
    (tmp_path / "out" / "step-000001").symlink_to(elsewhere)
    train.train(settings(text, save_every=1, keep=1), tmp_path / "out", resume=True)
    assert checkpoints(tmp_path / "out")[-1].name == "step-000006"
    assert (elsewhere / "training.pt").is_file()


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(5, "I/O"), MemoryError()])
def test_what_cannot_be_read_today_is_not_called_torn(text, tmp_path, monkeypatch, error):
    train.train(settings(text), tmp_path)

    def load(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)) as raised:
        train.load_checkpoint(checkpoints(tmp_path)[-1], settings(text))
    assert raised.value is error


def test_processes_that_find_different_checkpoints_stop(text, tmp_path, monkeypatch):
    """Two machines, each with a disk of its own, under the same name."""
    monkeypatch.setattr(
        Ranks, "gathered", lambda self, value: [value, 12 if value == 0 else value]
    )
    with pytest.raises(ValueError, match=r"find runs of \[0, 12\] steps .*that all of them share"):
        train.train(settings(text), tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()


def test_fsdp_alone_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="fsdp shares a model among processes: start them with"):
        train.train(settings(text, fsdp=True), tmp_path)


def test_a_damaged_log_is_put_aside(text, tmp_path, capsys):
    """Whole checkpoints are gone on from, whatever somebody did to the log beside them."""
    train.train(settings(text, save_every=1), tmp_path)
    log = tmp_path / "metrics.jsonl"
    for spoil in (lambda: log.write_text("junk\nmore\n"), lambda: (log.unlink(), log.mkdir())):
        spoil()
        train.train(settings(text, steps=8), tmp_path, resume=True)
        assert "it is put aside as metrics.jsonl." in capsys.readouterr().err
        assert log.is_file()
    assert [row["step"] for row in read_log(log)] == []  # the second time it was at its end
    assert {f.is_dir() for f in tmp_path.glob("metrics.jsonl.*")} == {True, False}


def test_what_is_no_checkpoint_is_neither_taken_nor_deleted(text, tmp_path):
    for name in ("step-1", "step-000001", "step-000099"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    train.train(settings(text, save_every=2, keep=1), tmp_path)
    assert [f.name for f in checkpoints(tmp_path)] == ["step-000006"]
    assert all((tmp_path / n / "mine").exists() for n in ("step-1", "step-000001", "step-000099"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training.pt"])
def test_a_checkpoint_with_a_file_missing_is_torn(text, tmp_path, name):
    train.train(settings(text), tmp_path)
    (tmp_path / "step-000006" / name).unlink()
    with pytest.raises(
        ValueError, match=r"step-000006 is torn .*move it away, and --resume takes"
    ):
        train.train(settings(text), tmp_path, resume=True)


def test_weights_that_a_step_has_spoilt_are_not_saved(text, tmp_path, monkeypatch):
    """Its loss and the norm of its gradients were finite."""
    update = Learner.update

    def spoils(learner, rate):
        norm = update(learner, rate)
        with torch.no_grad():
            learner.model.norm.weight[0] = torch.inf
        return norm

    monkeypatch.setattr(Learner, "update", spoils)
    with pytest.raises(ValueError, match=r"the weight norm.weight is inf at step 1: take a lower"):
        train.train(settings(text, save_every=1, eval_every=50), tmp_path)
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("config", [None, {"steps": 3}, "tiny"])
def test_a_run_wants_its_settings(config, tmp_path):
    with pytest.raises(ValueError, match="config must be a TrainConfig, got"):
        train.train(config, tmp_path)


def test_rows_that_wait_at_the_end_are_written_with_the_checkpoint(tmp_path, monkeypatch):
    log, opened = Log(tmp_path / "metrics.jsonl", after=0), os.open
    monkeypatch.setattr(os, "open", lambda *a: (_ for _ in ()).throw(OSError(28, "full")))
    log.add({"step": 1})
    monkeypatch.setattr(os, "open", opened)
    assert read_log(log.file) == []
    log.flush()
    assert read_log(log.file) == [{"step": 1}]
