"""The run on a GPU, on machines that are made up; and of the same function a tiny one here."""

import json
import sys
from pathlib import Path

import pytest
import torch

from smol.bench import gpu
from smol.bench.__main__ import main as bench_main
from smol.bench.heads import main as heads_main
from smol.bench.heads import measured
from smol.data import Corpus, load_corpus
from smol.pretrained import SHIPPED
from smol.tokenizer import BPETokenizer
from smol.train import TrainConfig, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def offline(monkeypatch):
    """Neither Shakespeare nor SmolLM2's tokenizer is in reach."""

    def unreached(*args):
        raise FileNotFoundError("out of reach")

    def loaded(name):
        return unreached() if name == "shakespeare" else load_corpus(name)

    monkeypatch.setattr(gpu, "load_corpus", loaded)
    monkeypatch.setattr(gpu, "instruct_files", unreached)


def test_it_trains_and_says_what_came_of_it(tmp_path, offline, capsys):
    how = {"preset": "tiny", "device": "cpu", "batch_size": 4}
    run = gpu.train_on_gpu(tmp_path / "run", seconds=0.0, **how)
    assert run["data"] == "stories" and run["steps"] == gpu.FIRST_STEPS
    assert (run["batch_size"], run["seq_len"]) == (4, gpu.SEQ_LEN)
    assert (run["gpu"], run["memory"], run["precision"]) == (None, None, "float32")
    assert run["tokens_per_second"] > 0 and run["epochs"] < 1
    assert run["log"][-1]["step"] == run["steps"] and "sample" in run["log"][-1]
    said = gpu.told(run)
    assert "no GPU, products in float32" in said and "memory: not measured" in said
    assert json.loads(json.dumps(run)) == run
    file = tmp_path / "run.json"
    assert gpu.stored(file) is None and gpu.told(None).startswith("not measured")
    file.write_text(json.dumps({"gpu_train": run}))
    assert gpu.stored(file) == run


@pytest.mark.parametrize(
    ("name", "free", "capability", "windows"),
    [
        ("Tesla T4", 15.6e9, (7, 5), 16),
        ("a small one", 5.5e9, (8, 6), 4),
        ("H100", 80e9, (9, 0), 16),
    ],
)
def test_as_many_windows_as_there_is_room_for(name, free, capability, windows, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(free), int(2 * free)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    config = gpu.settings("135m", CUDA)
    assert (config.batch_size, config.seq_len, config.device) == (windows, 256, "cuda")
    assert gpu.choose_precision(CUDA).scaler == (capability < (8, 0))


def test_a_full_gpu_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"2\.0 GB of the GPU are free, \d\.\d are needed: "):
        gpu.batch_size_for("135m", 2e9)


def test_the_tokenizer_is_the_shipped_one_where_no_other_is_in_reach(offline):
    config = gpu.settings("135m", CPU)
    assert (config.tokenizer, config.data) == (str(SHIPPED), "stories")
    assert gpu.settings("tiny", CPU).tokenizer is None


def test_the_number_of_steps():
    assert gpu.steps_for(90, 8000, 4096, 300_000) == 175  # what the time allows
    assert gpu.steps_for(90, 200_000, 4096, 300_000) == 585  # eight times through
    assert gpu.steps_for(90, 10, 4096, 300_000) == gpu.FIRST_STEPS


def test_the_command_writes_a_file(tmp_path, monkeypatch, capsys):
    run = {"log": [{"step": 3, "val_loss": 1.5, "sample": "A\nb"}]}
    run |= {"gpu": "Tesla T4", "memory": 9e9}
    run |= dict.fromkeys(("parameters", "vocabulary", "steps", "batch_size", "seq_len"), 7)
    run |= {"precision": "float16", "data": "stories", "epochs": 1.25, "tokens_per_second": 9.0}
    run["memory_expected"] = 8e9
    given = []
    monkeypatch.setattr(gpu, "train_on_gpu", lambda folder, seconds: given.append(seconds) or run)
    file = tmp_path / "gpu_train.json"
    monkeypatch.setattr(sys, "argv", ["bench", "gpu_train", "--json", str(file)])
    assert bench_main() == 0
    assert (
        gpu.stored(file)["gpu"] == "Tesla T4" and "cpu" in json.loads(file.read_text())["machine"]
    )
    assert "memory: 9.0 GB at its peak; expected in fp32, 8.0 GB" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bench", "gpu_train", "--seconds", "200"])
    assert bench_main() == 0 and given == [gpu.SECONDS, pytest.approx(200, abs=1)]


def test_heads_are_measured_for_each_checkpoint(tmp_path, monkeypatch, capsys):
    stories = load_corpus("stories")
    small = Corpus("stories", stories.train[:40], stories.validation[:2])
    run = tmp_path / "run"
    often = {"save_every": 1, "eval_every": 2}
    train(TrainConfig(steps=2, seq_len=32, batch_size=2, device="cpu", **often), run)
    rows = measured(run, small)
    assert [row["step"] for row in rows] == [2]  # step 1 was saved, and not evaluated
    assert rows[0]["val_loss"] > 1
    assert all(len(row["scores"]) == 3 and 0 <= max(row["scores"]) <= 1 for row in rows)
    assert rows[0]["again"] > 0 and isinstance(rows[0]["sample"], str)
    assert BPETokenizer.load(run / "step-000002").eos_id == 0
    monkeypatch.setattr("smol.bench.heads.load_corpus", lambda name: small)
    file = tmp_path / "heads.json"
    monkeypatch.setattr(sys, "argv", ["heads", str(run), "--json", str(file)])
    assert heads_main() == 0
    assert json.loads(file.read_text())["heads"] == rows
    assert "step      2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds no checkpoint of an evaluated step"):
        (tmp_path / "empty").mkdir()
        Path(tmp_path / "empty" / "metrics.jsonl").write_text("")
        measured(tmp_path / "empty", small)
