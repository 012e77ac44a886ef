"""`bench gpu` in small, on the CPU, with stand-ins for graphs and compiler: what it measures, and
that it says what is wrong and goes on."""

import json
import sys

import pytest
import torch

from smol.bench import cuda
from smol.bench.__main__ import main
from smol.bench.timing import Run
from smol.generate import fixed, generate
from smol.generate import steps as stepping
from smol.lesson.graph import graphs_on_the_cpu
from smol.train.optimizer import optimizers_of

CPU = torch.device("cpu")
SMALL = {"preset": "tiny", "greedy": 24, "large": (2, 64), "small": (2, 16), "cache": 40}
SIZES = cuda.Sizes(**SMALL, new=8, batches=(1, 2), rounds=1)
RUN = {"batch_size": 2, "seq_len": 16, "preset": "tiny", "device": "cpu", "compile": True}


@pytest.fixture
def here(monkeypatch):
    """1e15 of everything a second, and a compiler that leaves all as it is."""
    compile = lambda function, **settings: function  # noqa: E731
    fused = lambda model, config, fused: optimizers_of(model, config, fused=True)  # noqa: E731
    for name, stand_in in (
        ("smol.bench.timing.matmul_rate", lambda *about: 1e15),
        ("smol.bench.timing.read_rate", lambda *about: 1e15),
        ("smol.bench.train.matmul_rate", lambda *about: 1e15),
        ("smol.bench.decode.peak_memory", lambda *about: 10**6),
        ("smol.train.learner.optimizers_of", fused),
        ("smol.bench.cuda.check_compiler", lambda device: None),
        ("smol.bench.gpu.train_and_tell", lambda seconds, **changes: {**changes, "told": seconds}),
    ):
        monkeypatch.setattr(name, stand_in)
    monkeypatch.setattr(stepping, "check_compiler", lambda: None)
    monkeypatch.setattr(torch, "compile", compile)
    fixed.compiled.cache_clear()
    with graphs_on_the_cpu():
        yield monkeypatch
    fixed.compiled.cache_clear()


def parts(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(cuda, "PARTS", {name: cuda.PARTS[name] for name in names})


def test_the_whole_sequence(here, capsys):
    written = []
    run = Run(0.0, lambda figures: written.append(json.loads(json.dumps(figures))))
    result = cuda.measured(run, SIZES, CPU)
    assert list(result) == ["equal", "failed", "decode", "train", "small", "run"]
    assert result["failed"] == [] and result["run"] == {**RUN, "told": 0.0}
    ways = ["captured", "captured and compiled"]
    for name in ways:
        assert result["equal"]["float32"][name]["equal"] == SIZES.greedy
        assert 0.5 < result["equal"]["bfloat16"][name]["times"] < cuda.FAR
    assert len(result["equal"]["float32"]) == len(result["equal"]["bfloat16"]) == 2
    writers = [(row["name"], row["batch_size"]) for row in result["decode"]["writers"]]
    names = ["transformers", "ours, plain", "ours, captured", "ours, fastest"]
    assert writers == [(name, B) for B in SIZES.batches for name in names]
    rungs = {part: [row["name"] for row in result[part]["rungs"]] for part in ("train", "small")}
    assert rungs["train"] == ["transformers", "ours, plain", "ours, fastest"]
    assert rungs["small"] == ["eager", "captured", "captured, compiled"]
    best = result["train"]["best"]
    assert best["memory_ratio"] > 0 and best["mfu"]["measured_causal"] < best["mfu"]["measured"]
    assert best["mfu"]["data_sheet"] is None  # of this machine there is none
    assert list(written[0]["equal"]["float32"]) == ways[:1]  # as soon as it was measured
    said = capsys.readouterr().out
    assert "24 of 24 greedy ids are the plain path's" in said and "equal wherever" in said
    assert "5,000 steps would take" in said and "ms a token by ours, fastest on" in said


def test_another_id_is_told_and_the_rest_goes_on(here, capsys):
    def wrong(model, ids, new, compile=False, **settings):
        got = generate(model, ids, new, **settings)
        if compile:
            got[0, cuda.PROMPT + 5] += 1 - 2 * (got[0, cuda.PROMPT + 5] > 0)
        return got

    here.setattr(cuda, "generate", wrong)
    parts(here, "equal", "run")
    result = cuda.measured(Run(0.0), SIZES, CPU)
    row = result["equal"]["float32"]["captured and compiled"]
    assert row["equal"] == 5 and row["gap"] > 0
    why = "equal: fp32, captured and compiled: greedy id 6 of 24 is not the plain path's, whose"
    assert len(result["failed"]) == 1 and result["failed"][0].startswith(why)
    assert f"FAILED {why}" in capsys.readouterr().out
    assert len(result["equal"]["bfloat16"]) == 2 and "run" in result


@pytest.mark.parametrize("by", [lambda x: x + 0.2 * torch.randn_like(x), lambda x: x * torch.nan])
def test_logits_too_far_off_are_told_and_the_rest_goes_on(here, by):
    along = cuda._logits_along
    here.setattr(cuda, "_logits_along", lambda *given: by(along(*given)))
    parts(here, "equal", "run")
    result = cuda.measured(Run(0.0), SIZES, CPU)
    assert [why.split(": ")[1] for why in result["failed"]] == [
        "bf16, captured",
        "bf16, captured and compiled",
    ]
    assert result["equal"]["float32"]["captured"]["equal"] == SIZES.greedy and "run" in result


def test_a_part_or_a_row_that_fails_takes_no_other_with_it(here, capsys):
    def no_kernel(function, **settings):
        raise RuntimeError("no kernel for this\nand much more")

    here.setattr(torch, "compile", no_kernel)
    fixed.compiled.cache_clear()
    parts(here, "equal", "decode", "train", "small")
    result = cuda.measured(Run(0.0), SIZES, CPU)
    assert result["failed"] == [
        "equal: RuntimeError: no kernel for this",
        "decode: batch of 1, ours, fastest: no kernel for this",
        "decode: batch of 2, ours, fastest: no kernel for this",
        "train: ours, fastest: no kernel for this",
        "small: captured, compiled: no kernel for this",
    ]
    assert list(result["equal"]["float32"]) == ["captured"]
    assert len(result["decode"]["writers"]) == 6 and len(result["train"]["rungs"]) == 2
    assert result["train"]["best"]["name"] == "ours, plain"


def test_without_a_compiler_rows_are_skipped_and_nothing_has_failed(here, capsys):
    def without(device):
        raise ValueError("--compile needs Triton")

    here.setattr(cuda, "check_compiler", without)
    parts(here, "equal", "decode", "small", "run")
    result = cuda.measured(Run(0.0), SIZES, CPU)
    assert result["failed"] == [] and result["run"]["compile"] is False
    assert result["equal"]["skipped"] == {"captured and compiled": "--compile needs Triton"}
    assert result["decode"]["skipped"] == {"ours, fastest": "--compile needs Triton"}
    assert len(result["small"]["rungs"]) == 2
    assert (
        capsys.readouterr().out.count("skipped: --compile needs Triton") == 4
    )  # one for each batch


def test_a_smaller_gpu_takes_smaller_batches(monkeypatch):
    asked = []
    monkeypatch.setattr(cuda, "train", lambda preset, B, *about: asked.append(B) or {"rungs": []})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(cuda, "check_compiler", lambda device: None)
    for free in (141e9, 79e9, 39e9, 14e9, 1e9):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2 * free))
        with pytest.raises(ValueError, match="unpack"):  # nothing was measured
            cuda.large(Run(), cuda.Sizes(), torch.device("cuda"))
    assert asked == [32, 32, 8, 2, 1]


def test_the_exit_status_says_that_something_failed(monkeypatch, tmp_path):
    found = {"decode": {"rows": []}, "failed": []}
    monkeypatch.setattr("smol.bench.__main__.BENCHES", {"gpu": lambda run: found, "one": list})
    for failed, status in (([], 0), (["equal: an id"], 1)):
        found["failed"] = failed
        file = tmp_path / f"{status}.json"
        monkeypatch.setattr(sys, "argv", ["bench", "gpu", "--json", str(file)])
        assert main() == status and json.loads(file.read_text())["gpu"] == found


def test_a_machine_without_cuda_is_told_what_to_run(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench", "gpu"])
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("smol.bench: gpu needs a CUDA GPU") and "bench decode train" in said


def test_it_takes_its_own_time_unless_told(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "measured", lambda run, sizes, device: asked.append(run.left()))
    for run in (Run(), Run(60.0)):
        cuda.on_cuda(run)
    assert asked == [pytest.approx(cuda.SECONDS, abs=1), pytest.approx(60, abs=1)]
