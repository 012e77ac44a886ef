"""Training with compiled blocks: what is compiled, how often, when it pays, and the same run."""

import dataclasses
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from smol import SmolLM2, device, train
from smol.device import Precision
from smol.lesson.exercise import SMALL
from smol.train import Ranks, TrainConfig, read_log
from smol.train import compiled as compiling
from smol.train.compiled import compiled_blocks, uncompiled, will_compile
from smol.train.learner import Learner
from smol.train.loss import LossModel

CUDA = torch.device("cuda")


@pytest.fixture
def counter(monkeypatch):
    """Counts what is compiled, and compiles nothing."""
    counting = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    monkeypatch.setattr(device, "check_compiler", lambda device: None)
    monkeypatch.setattr("smol.train.loop.check_compiler", lambda device: None)
    yield counting
    torch.compiler.reset()


def settings(data, **changes) -> TrainConfig:
    small = {"data": str(data), "steps": 2, "batch_size": 4, "seq_len": 32, "device": "cpu"}
    often = {"log_every": 1, "eval_every": 1, "save_every": 2}
    return TrainConfig(**{**small, **often, **changes})


def losses(out) -> list[tuple]:
    rows = read_log(out / "metrics.jsonl")
    return [(row["step"], row["loss"], row["grad_norm"], row.get("val_loss")) for row in rows]


def batch(B: int = 2, T: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(SMALL.vocab_size, (B, T)), torch.randint(SMALL.vocab_size, (B, T))


def test_one_compilation_serves_all_layers_and_steps(counter):
    loss_model = LossModel(SmolLM2(SMALL), chunk=8)
    inputs, labels = batch()
    plain = loss_model(inputs, labels)[0]
    want = torch.autograd.grad(plain, list(loss_model.parameters()))
    with compiled_blocks(loss_model):
        for _ in range(3):
            loss = loss_model(inputs, labels)[0]
            got = torch.autograd.grad(loss, list(loss_model.parameters()))
            assert counter.frame_count == 2  # a block, and the loss' slope
        with torch.no_grad(), uncompiled():
            for T in range(1, 14):
                loss_model(*batch(T=T))
        assert counter.frame_count == 2
    assert torch.equal(loss, plain)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    loss_model(*batch(T=15))  # and it is as it was
    assert counter.frame_count == 2
    assert not any("forward" in vars(layer) for layer in loss_model.model.layers)
    assert loss_model.slope_of is train.loss.loss_and_slope


def test_a_ninth_run_compiles_as_the_first(counter):
    """PyTorch refuses a function's ninth shape, whoever had the eight others. (Here: a third.)"""
    shallow = dataclasses.replace(SMALL, num_hidden_layers=1)
    limits = ("recompile_limit", "cache_size_limit")  # the latter in older ones
    limit = next(name for name in limits if hasattr(torch._dynamo.config, name))
    with torch._dynamo.config.patch({limit: 2}):
        compile_for_three_lengths(shallow)
    assert counter.frame_count == 3


def compile_for_three_lengths(shallow):
    for T in (2, 3, 4):
        loss_model = LossModel(SmolLM2(shallow))
        with compiled_blocks(loss_model):
            loss_model(*batch(T=T))


def test_a_compiled_run_is_the_same_run(counter, text, tmp_path):
    """With the backend that compiles nothing, to the bit; evaluations and samples in between
    compile nothing, and what comes back is a plain model. It resumes uncompiled."""
    train.train(settings(text, accumulate=2), tmp_path / "plain")
    assert counter.frame_count == 0
    config = settings(text, accumulate=2, compile=True)
    model = train.train(config, tmp_path / "run")
    assert counter.frame_count == 1  # the loss is in one chunk here
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    model(torch.zeros(1, 5, dtype=torch.int64))
    assert counter.frame_count == 1
    longer = settings(text, accumulate=2, steps=3, compile=False)
    train.train(longer, tmp_path / "run", resume=True)
    assert counter.frame_count == 1 and len(losses(tmp_path / "run")) == 3


def test_a_batch_of_other_sizes_is_not_compiled(counter):
    """As stories that are shorter than the settings' seq_len make."""
    config, cpu = settings("fresh", seq_len=16), torch.device("cpu")
    model = SmolLM2(SMALL)
    learner = Learner(model, config, cpu, Precision(None, False, False), Ranks())
    with learner.compiling():
        for T in (3, 5, 16, 9):
            learner.gradients(*batch(4, T))
            assert counter.frame_count == (T in (16, 9))


@pytest.mark.parametrize("wanted", [True, False])
def test_who_says_whether_to_compile_is_heard(wanted):
    config = settings("stories", compile=wanted)
    assert will_compile(config, torch.device("cpu"), None, 0, Ranks()) is wanted


@pytest.mark.parametrize(
    ("kind", "preset", "begin", "pays"),
    [
        ("cuda", "135m", 0, True),  # 5,000 steps of 4 x 256: 5.1 million tokens
        ("cuda", "135m", 2000, False),  # 3.1 million of them are left
        ("cuda", "tiny", 0, False),
        ("cpu", "135m", 0, False),
        ("mps", "135m", 0, False),
    ],
)
def test_it_is_compiled_where_it_pays(monkeypatch, kind, preset, begin, pays):
    monkeypatch.setattr(compiling, "check_compiler", lambda device: None)
    config = settings("stories", preset=preset, steps=5000, seq_len=256)
    with torch.device("meta"):
        model = SmolLM2(train.PRESETS[preset].config)
    assert will_compile(config, torch.device(kind), model, begin, Ranks()) is pays


@pytest.mark.parametrize("rank", [0, 1])
def test_without_triton_it_is_said_once_and_goes_on(monkeypatch, capsys, rank):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    config = settings("stories", preset="135m", steps=50_000)
    with torch.device("meta"):
        model = SmolLM2(train.PRESETS["135m"].config)
    assert will_compile(config, CUDA, model, 0, Ranks(rank, 2)) is False
    said = capsys.readouterr().err
    assert said.count("\n") == (rank == 0)
    if rank == 0:
        assert "--compile needs Triton, which" in said and "the run goes on without" in said


def test_who_asks_for_what_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Triton, .* install it .*, or leave --compile"):
        device.check_compiler(CUDA)
    monkeypatch.setattr(device, "find_spec", lambda name: "there")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 1))
    with pytest.raises(ValueError, match=r"capability 7\.0, this one has 6\.1: leave --compile"):
        device.check_compiler(CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    monkeypatch.setenv("CXX", "no-such-compiler")  # which is for the CPU
    device.check_compiler(CUDA)
    device.check_compiler(torch.device("mps"))
    with pytest.raises(ValueError, match="is none"):
        device.check_compiler()
