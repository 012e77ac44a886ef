"""What a step does not do: ask the GPU for a number, look for garbage, wait for a copy."""

import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from smol import SmolLM2, train
from smol.device import Precision
from smol.lesson.exercise import SMALL
from smol.train import Log, Ranks, TrainConfig, read_log
from smol.train import learner as learning
from smol.train import loop as looping
from smol.train.learner import Learner
from smol.train.log import Progress


def settings(text, **changes) -> TrainConfig:
    small = {"data": str(text), "steps": 8, "batch_size": 4, "seq_len": 32, "device": "cpu"}
    often = {"log_every": 4, "eval_every": 4, "save_every": 4}
    return TrainConfig(**{**small, **often, **changes})


class Asked(TorchDispatchMode):
    """Notes when somebody asks a tensor for its number: on a GPU he would wait for all that is
    queued. (Ids, whole numbers, are looked at and counted before they go there.)"""

    def __init__(self):
        super().__init__()
        self.step, self.steps = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asks = ("_local_scalar_dense", "equal", "is_nonzero")
        if func._schema.name.removeprefix("aten::") in asks and args[0].dtype != torch.int64:
            self.steps.append(self.step)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_between_log_steps_nobody_asks_for_a_number(text, tmp_path, monkeypatch, optimizer):
    """With the fused AdamW, as on a GPU: the other asks the CPU for its count of steps."""
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    asked, step, made = Asked(), Progress.step, learning.optimizers_of

    def counting(progress, targets):
        asked.step += 1
        step(progress, targets)

    monkeypatch.setattr(Progress, "step", counting)
    monkeypatch.setattr(learning, "optimizers_of", lambda *a, fused: made(*a, fused=True))
    with asked:
        train.train(settings(text, optimizer=optimizer, accumulate=2), tmp_path)
    assert asked.step == 8 and set(asked.steps) <= {0, 4, 8} and {4, 8} <= set(asked.steps)


def test_processes_agree_by_way_of_the_cpu(monkeypatch):
    summed = []
    monkeypatch.setattr(torch.distributed, "all_reduce", summed.append)
    assert Ranks(0, 2).any(True) and not Ranks(0, 2).any(False)
    assert [t.device.type for t in summed] == ["cpu", "cpu"]


def test_a_gpu_fetches_its_batch_from_pinned_memory(monkeypatch):
    config, cpu = settings("stories"), torch.device("cpu")
    learner = Learner(SmolLM2(SMALL), config, cpu, Precision(None, False, False), Ranks())
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: calls.append("pinned") or t)
    to = torch.Tensor.to

    def noted(tensor, device, **how):  # the CPU gives the same tensor back
        calls.append((str(device), how))
        return to(tensor, "cpu")

    batch = torch.ones(2, 3, dtype=torch.int64)
    monkeypatch.setattr(torch.Tensor, "to", noted)
    assert learner._here(batch) is batch
    learner.device = torch.device("cuda", 0)
    assert learner._here(batch) is batch
    assert calls == [("cpu", {}), "pinned", ("cuda:0", {"non_blocking": True})]


# -- garbage --------------------------------------------------------------------------------------


@pytest.fixture
def thawed():
    """As in a process that is no test's: nothing is frozen (conftest.py)."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture
def collections(monkeypatch, thawed):
    """The steps after which garbage was looked for."""
    found, step, collect = [], Progress.step, gc.collect

    def counting(progress, targets):
        found.append("step")
        assert not gc.isenabled()
        step(progress, targets)

    monkeypatch.setattr(Progress, "step", counting)
    monkeypatch.setattr(looping.gc, "collect", lambda *a: found.append("collect") or collect(*a))
    return found


def test_garbage_is_looked_for_between_steps_only(text, tmp_path, collections):
    assert gc.isenabled() and gc.get_freeze_count() == 0
    train.train(settings(text, eval_every=8, save_every=8), tmp_path)
    steps = ["step", "collect", *["step"] * 3, "collect", *["step"] * 4, "collect"]
    assert collections == steps
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_what_is_there_after_the_first_step_is_not_looked_at_again(
    text, tmp_path, monkeypatch, thawed
):
    frozen, add = [], Log.add
    monkeypatch.setattr(
        Log, "add", lambda log, row: (frozen.append(gc.get_freeze_count()), add(log, row))
    )
    train.train(settings(text, log_every=1, steps=4), tmp_path)
    assert frozen[0] == 0 and frozen[1] > 10_000
    # What dies meanwhile leaves the count, a handful in two seconds; nothing is added to it.
    assert all(frozen[1] - 1000 < count <= frozen[1] for count in frozen[2:])


def test_the_collector_comes_back_after_an_error_as_it_was(text, tmp_path, monkeypatch, thawed):
    monkeypatch.setattr(Log, "add", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.train(settings(text), tmp_path / "a")
    assert gc.isenabled() and gc.get_freeze_count() == 0
    gc.disable()
    gc.freeze()
    try:
        with pytest.raises(ZeroDivisionError):
            train.train(settings(text), tmp_path / "b")
        assert not gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
    assert read_log(tmp_path / "a" / "metrics.jsonl") == []
