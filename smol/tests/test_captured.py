"""The whole step as one graph: the run that it would have been, by a graph that notes and repeats
operations on the CPU (`smol.lesson.graph`)."""

import copy
import shutil

import pytest
import torch

from smol import SmolLM2, stories, train
from smol.device import Precision
from smol.lesson.exercise import SMALL
from smol.lesson.graph import Graph, graphs_on_the_cpu
from smol.train import Ranks, TrainConfig, Validation
from smol.train import learner as learning
from smol.train.captured import captures
from smol.train.learner import Learner
from smol.train.optimizer import optimizers_of

CPU, FP32 = torch.device("cpu"), Precision(None, False, False)
MUON = pytest.param(
    "muon",
    marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon"),
)
RATES = torch.linspace(1e-3, 9e-3, 9).tolist()  # fp32's: a tensor holds no other


def settings(**changes) -> TrainConfig:
    return TrainConfig(**{"batch_size": 4, "seq_len": 16, "device": "cpu", **changes})


def new_learner(config, precision=FP32) -> Learner:
    torch.manual_seed(0)
    return Learner(SmolLM2(SMALL), config, CPU, precision, Ranks())


@pytest.fixture
def fused(monkeypatch):
    """AdamW as on a GPU: the other counts its steps in Python."""
    made = lambda model, config, fused: optimizers_of(model, config, fused=True)  # noqa: E731
    monkeypatch.setattr(learning, "optimizers_of", made)


@pytest.fixture
def said(monkeypatch, fused):
    monkeypatch.setattr(learning, "captures", lambda *about: True)
    Graph.replays = 0
    with graphs_on_the_cpu() as said:
        yield said


def batch(step: int, T: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(step)
    ids = torch.randint(SMALL.vocab_size, (4, T + 1), generator=drawn)
    labels = ids[:, 1:].clone()
    labels[0, : step + 1] = -100  # the number of targets is another in each step
    return ids[:, :-1], labels


def trained(learner: Learner, steps=range(9), odd: int | None = None) -> list[tuple]:
    """Loss, targets and norm of each step; the batch of one of them is shorter, and before it the
    model is evaluated and its state looked at."""
    rows = []
    for step in steps:
        if step == odd:
            learner.evaluate(Validation([batch(99, 7)], 100, None))
            learner.state_dict()
        nats, targets, norm = learner.step(*batch(step, 9 if step == odd else 16), RATES[step])
        rows.append((nats.item(), targets, norm.item()))
    return rows


def all_of(learner: Learner) -> list[torch.Tensor]:
    state = learner.state_dict()["optimizer"]["state"]
    parts = [part for name in sorted(state) for _, part in sorted(state[name].items())]
    return [p.detach() for p in learner.model.parameters()] + parts


@pytest.mark.parametrize("how", [{}, {"accumulate": 2}, {"odd": 6}, {"odd": 1}])
@pytest.mark.parametrize("precision", [FP32, Precision(torch.bfloat16, False, False)])
def test_captured_steps_are_the_steps_to_the_bit(monkeypatch, said, how, precision):
    odd, config = how.get("odd"), settings(accumulate=how.get("accumulate", 1))
    captured = new_learner(config, precision)
    got = trained(captured, odd=odd)
    monkeypatch.setattr(learning, "captures", lambda *about: False)
    plain = new_learner(config, precision)
    assert got == trained(plain, odd=odd)
    assert all(torch.equal(a, b) for a, b in zip(all_of(captured), all_of(plain), strict=True))
    assert said == [*["wait", "aside", "wait"] * 3, "capture"]
    assert Graph.replays == (6 if odd is None else 5)
    assert all(p.grad is None for p in captured.model.parameters())


@pytest.mark.parametrize("graph", [True, False])
def test_a_graph_keeps_no_casts_of_weights(monkeypatch, said, graph):
    """Autocast would make them once and drop them: a replay would read what is gone."""
    monkeypatch.setattr(learning, "captures", lambda *about: graph)
    learner, kept = new_learner(settings(), Precision(torch.bfloat16, False, False)), []
    learner.model.register_forward_hook(lambda *a: kept.append(torch.is_autocast_cache_enabled()))
    trained(learner, range(5))
    assert kept == [not graph] * (4 if graph else 5)  # three steps and the capture


@pytest.mark.parametrize("optimizer", ["adamw", MUON])
def test_a_run_goes_on_with_or_without_a_graph(monkeypatch, said, optimizer):
    """Five steps of one, four of the other; what is saved has the same form. With Muon they are
    equal up to the rounding of its bf16."""
    config, saved, learners = settings(optimizer=optimizer), {}, {}
    near = {"rel": 0, "abs": 0} if optimizer == "adamw" else {"rel": 1e-3}
    for graph in (True, False):
        monkeypatch.setattr(learning, "captures", lambda *about, graph=graph: graph)
        learners[graph] = learner = new_learner(config)
        trained(learner, range(5))
        saved[graph] = copy.deepcopy((learner.model.state_dict(), learner.state_dict()))
    forms = [state["optimizer"]["param_groups"] for _, state in saved.values()]
    assert forms[0] == forms[1] and type(forms[0][0]["lr"]) is float
    kinds = [[(t.dtype, t.shape) for t in all_of(learner)] for learner in learners.values()]
    assert kinds[0] == kinds[1]
    want = trained(learners[False], range(5, 9))
    for graph in (True, False):
        monkeypatch.setattr(learning, "captures", lambda *about, graph=graph: not graph)
        other = new_learner(config)
        other.model.load_state_dict(saved[graph][0])
        other.load_state_dict(saved[graph][1])
        for a, b in zip(trained(other, range(5, 9)), want, strict=True):
            assert a == pytest.approx(b, **near)


def test_a_run_of_captured_steps(monkeypatch, said, tmp_path):
    """The loop's: looked at, saved and resumed in between. A rate is rounded to fp32 here."""
    file = tmp_path / "some.jsonl"
    file.write_text("".join(f'{{"text": "{story}"}}\n' for story in plain_stories(60)), "utf-8")
    often = {"log_every": 1, "eval_every": 3, "save_every": 5, "learning_rate": 1e-3}
    config = settings(data=str(file), steps=10, **often)
    curves = []
    for graph in (False, True):
        monkeypatch.setattr(learning, "captures", lambda *about, graph=graph: graph)
        out = tmp_path / str(graph)
        train.train(config, out)
        shutil.rmtree(out / "step-000010")
        train.train(config, out, resume=True)
        curves.append([row["loss"] for row in train.read_log(out / "metrics.jsonl")])
    assert said.count("capture") == 2 and Graph.replays == 7 + 2
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def plain_stories(count: int) -> list[str]:
    return [story.replace('"', "'").replace("\n", " ") for story in stories.write(count, seed=11)]


def test_a_state_of_another_device_keeps_this_ones_way(fused):
    """Of a CPU's checkpoint a GPU would take the optimizer that is not fused, and its count of
    steps on the CPU."""
    config, state = settings(), None
    for learner in (new_learner(config), new_learner(config)):
        if state:
            learner.load_state_dict(state)
            assert learner.optimizers[0].param_groups[0]["fused"] is True
        trained(learner, range(2))
        state = learner.state_dict()
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = None


@MUON.marks[0]
def test_muons_rate_may_be_a_tensor():
    """And the step is PyTorch's."""
    after = []
    for rate in (0.02, torch.tensor(0.02)):
        torch.manual_seed(0)
        model = SmolLM2(SMALL)
        muon = optimizers_of(model, settings(optimizer="muon", weight_decay=0.5), fused=True)[0]
        for _ in range(3):
            for group in muon.param_groups:
                group["lr"] = rate
            for p in muon.param_groups[0]["params"]:
                p.grad = torch.randn(p.shape)
            muon.step()
        after.append([p.detach() for p in muon.param_groups[0]["params"]])
        assert muon.param_groups[0]["lr"] is rate and muon.param_groups[0]["weight_decay"] == 0.5
    for a, b in zip(*after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "device", "precision", "size", "captured"),
    [
        ({}, "cuda", Precision(torch.bfloat16, False, True), 1, True),
        ({}, "cuda", Precision(torch.float16, True, False), 1, False),
        ({}, "cuda", FP32, 2, False),
        ({}, "cpu", FP32, 1, False),
        ({}, "mps", FP32, 1, False),
        ({"batch_size": 32, "seq_len": 256}, "cuda", FP32, 1, True),
        ({"batch_size": 33, "seq_len": 256}, "cuda", FP32, 1, False),
        ({"batch_size": 64, "seq_len": 256, "accumulate": 2}, "cuda", FP32, 1, True),
    ],
)
def test_small_batches_of_one_process_on_cuda_are_captured(
    change, device, precision, size, captured
):
    assert (
        captures(settings(**change), torch.device(device), precision, Ranks(0, size)) == captured
    )
