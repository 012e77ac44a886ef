"""Compiled and captured at once: blocks and decode steps that a compiler made, in a graph that
notes and repeats operations on the CPU (`smol.lesson.graph`).

The compilers here make a function's graph and run it as it is, forward and backward apart where
"aot" is in their name. To whoever notes operations what they run is visible, if their guards are
not asked: a guard sees that somebody is noting, and would compile once more. That nothing is
compiled during a capture is another test, with guards, in which nothing is noted.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from smol import train
from smol.device import Precision
from smol.generate import fixed, generate
from smol.generate import steps as stepping
from smol.lesson.graph import Graph, graphs_on_the_cpu
from smol.tests.test_captured import FP32, all_of, new_learner, settings, trained
from smol.tests.test_fixed import model_of, plain
from smol.train import captured as capturing
from smol.train import learner as learning
from smol.train.optimizer import optimizers_of

BF16 = Precision(torch.bfloat16, False, False)


@pytest.fixture
def made(monkeypatch):
    """What was compiled, by kind: "frame" by the plain backend, "forward" and "backward" by the
    one that separates them, which is taken where `made["aot"]` is set."""
    counts, compile = Counter(), torch.compile

    def as_it_is(kind: str):
        def compiler(graph, inputs, **settings):
            counts[kind] += 1
            return graph.forward if kind == "frame" else make_boxed_func(graph.forward)

        return compiler

    apart = aot_autograd(fw_compiler=as_it_is("forward"), bw_compiler=as_it_is("backward"))
    whole = as_it_is("frame")

    def compiling(function, **how):
        how["options"] = None
        return compile(function, backend=apart if counts["aot"] else whole, **how)

    monkeypatch.setattr(torch, "compile", compiling)
    monkeypatch.setattr(stepping, "check_compiler", lambda: None)
    monkeypatch.setattr("smol.train.loop.check_compiler", lambda device: None)
    fixed.compiled.cache_clear()
    torch.compiler.reset()
    yield counts
    fixed.compiled.cache_clear()
    torch.compiler.reset()


@pytest.fixture
def noted(monkeypatch):
    """Steps are captured; what a compiler made is noted too."""
    fused = lambda model, config, fused: optimizers_of(model, config, fused=True)  # noqa: E731
    monkeypatch.setattr(learning, "optimizers_of", fused)
    for module in (learning, fixed, stepping):
        monkeypatch.setattr(module, "captures", lambda *about: True)
    Graph.replays = 0
    with graphs_on_the_cpu() as said:
        noting = torch.cuda.graph

        @contextmanager
        def graph(*arguments, **how):
            with torch.compiler.set_stance(skip_guard_eval_unsafe=True), noting(*arguments, **how):
                yield

        # Not by monkeypatch, which would put the stand-in back after it has been taken away.
        with mock.patch.object(torch.cuda, "graph", graph):
            yield said


@pytest.fixture
def asked(monkeypatch, made, noted):
    """At a capture nothing is noted, and what is not compiled yet is refused."""

    @contextmanager
    def graph(graph, capture_error_mode):
        before = made.copy()
        with torch.compiler.set_stance("fail_on_recompile"):
            yield
        assert made == before

    monkeypatch.setattr(Graph, "replay", lambda graph: None)
    with mock.patch.object(torch.cuda, "graph", graph):
        yield


@pytest.mark.parametrize(
    ("how", "precision", "aot"),
    [({}, FP32, 0), ({}, BF16, 1), ({"accumulate": 2}, BF16, 1), ({"odd": 6}, FP32, 1)],
)
def test_steps_are_the_plain_ones(monkeypatch, made, noted, how, precision, aot):
    """Losses, norms, weights, moments: those of compiled steps to the bit, and of plain ones as
    near as the compiler's rounding. With the loss' own gradient, parts of a batch, a batch of
    other sizes and an evaluation between replays."""
    odd, config = how.get("odd"), settings(accumulate=how.get("accumulate", 1))
    made["aot"], learners, rows = aot, [], []
    for graph, fast in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(learning, "captures", lambda *about, graph=graph: graph)
        learners.append(learner := new_learner(config, precision))
        learner.loss_model.chunk = 16
        with learner.compiling() if fast else nullcontext():
            rows.append(trained(learner, odd=odd))
        if graph:
            first = made.copy()
    captured, compiled, plain = rows
    assert captured == compiled
    assert all(torch.equal(a, b) for a, b in zip(*map(all_of, learners[:2]), strict=True))
    near = 0 if not aot else 1e-4 if precision == FP32 else 1e-2
    for got, want in zip(captured, plain, strict=True):
        assert got == pytest.approx(want, rel=near)
    assert noted == [*["wait", "aside", "wait"] * 3, "capture"]
    assert Graph.replays == (6 if odd is None else 5)
    want = {"forward": 2, "backward": 1} if aot else {"frame": 2}
    assert first == {"aot": aot, **want}  # a block and the loss' slope, which has no way back


def test_nothing_is_compiled_during_a_capture(monkeypatch, made, asked):
    """All of it, backward passes too, is made in the steps before: guards ask, and nothing else is
    between."""
    made["aot"] = 1
    learner = new_learner(settings(), BF16)
    learner.loss_model.chunk = 16
    with learner.compiling():
        trained(learner)
    assert made["forward"] == 2 and learner.captured.taken == 9
    # Without steps before it there would be something to compile.
    monkeypatch.setattr(capturing, "WARM", 0)
    learner = new_learner(settings(), BF16)
    with learner.compiling(), pytest.raises(RuntimeError, match="fail_on_recompile"):
        trained(learner)


def test_a_run_is_the_same_run(monkeypatch, made, noted, text, tmp_path):
    """The loop's: with evaluations, samples and checkpoints between replays."""
    often = {"log_every": 1, "eval_every": 5, "save_every": 4, "learning_rate": 1e-3}
    for module in (fixed, stepping):  # the samples are no matter of this test
        monkeypatch.setattr(module, "captures", lambda device: False)
    curves = []
    for fast in (False, True):
        monkeypatch.setattr(learning, "captures", lambda *about, fast=fast: fast)
        config = settings(data=str(text), steps=6, compile=fast, **often)
        train.train(config, tmp_path / str(fast))
        rows = train.read_log(tmp_path / str(fast) / "metrics.jsonl")
        curves.append([(row["loss"], row.get("val_loss", 0.0)) for row in rows])
    assert made["frame"] == noted.count("capture") == 1  # the loss is in one chunk here
    for fast, slow in zip(*curves, strict=True):
        assert fast == pytest.approx(slow, rel=1e-5)  # a rate is rounded to fp32 in a graph


@pytest.mark.parametrize("rows", [1, 3])
def test_decode_steps_give_the_ids_of_growing_ones(made, noted, rows):
    """Compiled in the rounds before the capture; a second prompt, another length and another model
    compile nothing, and replay."""
    torch.manual_seed(0)
    ids, other = torch.randint(97, (rows, 9)), torch.randint(97, (rows, 5))
    model = model_of()
    for prompt, new in ((ids, 30), (other, 44)):
        assert torch.equal(generate(model, prompt, new, compile=True), plain(model, prompt, new))
        assert made["frame"] == 4  # before a block, the block, after it, the token
        assert noted.count("capture") == 2  # of one token, and of several at once
    drawn = {"temperature": 1.0, "top_k": 20, "repetition_penalty": 1.1}
    texts = [
        write(model, ids, 20, generator=torch.Generator().manual_seed(1), **drawn)
        for write in (plain, generate)
    ]
    assert torch.equal(*texts)
    assert torch.equal(generate(model_of(), ids, 30, compile=True), plain(model, ids, 30))
    assert made["frame"] == 4


def test_no_decode_step_is_compiled_during_a_capture(made, noted, asked):
    generate(model_of(), torch.tensor([[1, 2, 3]]), 30, compile=True)
    assert made["frame"] == 4 and noted.count("aside") == 2


def test_what_stands_in_for_cuda_is_gone_afterwards():
    assert torch.cuda.graph.__module__ == "torch.cuda.graphs"
    assert torch.cuda.CUDAGraph.__module__ == "torch.cuda.graphs"
