"""The check of the training loop of notebook 5: the command's losses and weights, to the bit.

`LOOP` holds the ways to break it that everybody meets, as edits of its source: the check says the
sentence of the one that gives the reader's numbers, and the notebook runs some of them.
"""

import functools
import inspect
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from smol.data import Windows
from smol.device import Precision
from smol.lesson import kind
from smol.lesson.exercise import SMALL, Nearly, ask, exercise, expect, expect_equal
from smol.lesson.kind import NotYet, Raised
from smol.model import SmolLM2
from smol.train import TrainConfig
from smol.train.learner import Learner
from smol.train.optimizer import parameter_groups
from smol.train.ranks import Ranks
from smol.train.schedule import wsd

ROUNDING = 1e-4  # and no slip is as near: the nearest is 8e-3 away


def training_loop(model, windows, config):
    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=config.betas)
    losses = []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * wsd(step, config)
        inputs, labels = next(windows)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


_GROUPS = "    groups = parameter_groups(model, config.weight_decay)\n"
_MADE = "    optimizer = torch.optim.AdamW(groups, betas=config.betas)\n"
_FOR = "    for step in range(config.steps):\n"
_RATE = 'group["lr"] = config.learning_rate * wsd(step, config)'
_NEXT = "        inputs, labels = next(windows)\n"
_CLIP = "        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)\n"
_SET = f"        for group in optimizer.param_groups:\n            {_RATE}\n"
_AGAIN = "F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())"
_FULL = (", betas=config.betas", ", lr=config.learning_rate, betas=config.betas")
_STEP, _ZERO = "        optimizer.step()\n", "        optimizer.zero_grad()\n"
_SHRUNK = (
    'group["lr"] *= … shrinks what is already shrunk: write = config.learning_rate * '
    "wsd(step, config)"
)
_LATE = "the rate is set after step(), too late for it: set it before the step"
# What is broken: the sentence, and the edits of the loop above that break it so.
LOOP = {
    "zero_grad forgotten": (
        "the gradients of all steps add up: optimizer.zero_grad() once in each step",
        [(_ZERO, "")],
    ),
    "step forgotten": (
        "the weights never move: backward() makes the gradients, then step() uses them, then "
        "zero_grad() drops them",
        [(_STEP, "")],
    ),
    "rate not set": (
        "the learning rate stays at AdamW's own, 0.001: write it into each group in each step",
        [(_RATE, "pass")],
    ),
    "no schedule": (
        "the rate is the full one in each step: times wsd(step, config)",
        [(" * wsd(step, config)", "")],
    ),
    "schedule one on": (
        "the schedule is one step ahead: wsd(step, config), with step from 0",
        [("wsd(step,", "wsd(step + 1,")],
    ),
    "rate times itself": (
        _SHRUNK,
        [(_RATE, 'group["lr"] *= wsd(step, config)')],
    ),
    "full rate times itself": (
        _SHRUNK,
        [(_RATE, 'group["lr"] *= wsd(step, config)'), _FULL],
    ),
    "part for the rate": (
        "the rate is 1 at the plateau: wsd gives a part of it, times config.learning_rate",
        [("config.learning_rate * ", "")],
    ),
    "rate set late": (
        _LATE,
        [(_SET, ""), (_STEP, _STEP + _SET)],
    ),
    "rate set late, full at first": (
        _LATE,
        [(_SET, ""), (_STEP, _STEP + _SET), _FULL],
    ),
    "loss after the step": (
        "the loss is the one before the step: take loss.item(), and do not run the model again",
        [("append(loss.item())", f"append({_AGAIN}.item())")],
    ),
    "one batch": (
        "every step reads the same batch: next(windows) belongs inside the loop",
        [(_NEXT, ""), (_FOR, _NEXT.replace("        ", "    ", 1) + _FOR)],
    ),
    "labels not shifted": (
        "each token is predicted from itself: the labels are what next(windows) gives with the "
        "inputs",
        [("labels.flatten()", "inputs.flatten()")],
    ),
    "labels shifted twice": (
        "the labels were shifted once more: next(windows) has shifted them already",
        [
            ("model(inputs).flatten(0, 1)", "model(inputs)[:, :-1].flatten(0, 1)"),
            ("labels.flatten()", "labels[:, 1:].flatten()"),
        ],
    ),
    "no clip": (
        "the step takes the gradient unclipped: clip_grad_norm_ stands after backward() and "
        "before step()",
        [(_CLIP, "")],
    ),
    "norms decay": (
        "the norms decay too: give AdamW the two groups of parameter_groups",
        [
            (
                _GROUPS,
                '    groups = [{"params": [*model.parameters()], '
                '"weight_decay": config.weight_decay}]\n',
            )
        ],
    ),
    "decay of its own": (
        "the decay is AdamW's own, 0.01: give it parameter_groups(model, config.weight_decay)",
        [(_GROUPS, "    groups = [*model.parameters()]\n")],
    ),
    "betas of its own": (
        "β₁ and β₂ are AdamW's own, 0.9 and 0.999: betas=config.betas",
        [(", betas=config.betas", "")],
    ),
    "new optimizer": (
        "m and v begin at 0 in each step: make the optimizer once, before the loop",
        [(_MADE, ""), (_FOR, _FOR + "    " + _MADE)],
    ),
    "sum": (
        "these are sums over the batch: cross_entropy takes the mean unless told otherwise",
        [("labels.flatten()", 'labels.flatten(), reduction="sum"')],
    ),
}


def broken_loop(name: str) -> Callable:
    """The loop as `LOOP[name]` breaks it."""
    source = inspect.getsource(training_loop)
    for old, new in LOOP[name][1]:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} is in the loop {source.count(old)} times")
        source = source.replace(old, new)
    made = {}
    exec(source, globals(), made)
    return made["training_loop"]


@exercise(instead=training_loop)
def check_training_loop(loop):
    said = {"steps": 8, "batch_size": 4, "seq_len": 16, "device": "cpu"}
    strong = {"learning_rate": 0.03, "weight_decay": 2.0, "clip": 0.3, "betas": (0.7, 0.9)}
    largest = 0.0
    for config in (
        TrainConfig(warmup=0.3, decay=0.5, **strong, **said),
        TrainConfig(warmup=0.0, decay=0.0, clip=math.inf, weight_decay=0.0, **said),
    ):
        want, got = _of_the_command(config), _heard(loop, config)
        if (apart := _apart(got, want)) > ROUNDING:
            _name_the_slip(got, want, config)
        largest = max(largest, apart)
    if largest:
        raise Nearly(f"right, but rounded otherwise, by {largest:.0e}.")
    return "exact: the command's losses and weights, to the bit"


class _Counted(Windows):
    """Windows that end: a loop over all of them would never come back.

    One batch more than steps is no mistake: zip(windows, range(steps)) draws it.
    """

    left = math.inf

    def __next__(self) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no batch is left")
        return super().__next__()


def _start(config: TrainConfig) -> tuple[SmolLM2, Windows]:
    """A model and its batches, the same each time."""
    torch.manual_seed(1)
    model = SmolLM2(SMALL).train()
    tokens = (256 * np.random.default_rng(0).random(3000) ** 3).astype(np.uint16)
    return model, _Counted(tokens, config.batch_size, config.seq_len, config.seed)


@functools.cache
def _of_the_command(config: TrainConfig) -> tuple[list[float], Tensor]:
    """The losses of what `smol.train` calls in each step, and the weights after the last one."""
    model, windows = _start(config)
    learner = Learner(model, config, torch.device("cpu"), Precision(None, False, False), Ranks())
    losses = []
    for step in range(config.steps):
        nats, targets = learner.gradients(*next(windows))
        learner.update(config.learning_rate * wsd(step, config))
        losses.append(nats.item() / targets)
    return losses, _weights(model)


def _weights(model: SmolLM2) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _heard(loop: Callable, config: TrainConfig) -> tuple[list[float], Tensor]:
    model, windows = _start(config)
    n = config.steps
    windows.left = n + 1
    try:
        answer = ask(kind.items, loop, model, windows, config)
    except Raised:
        said = "more batches than config.steps were drawn: one next(windows) in each step"
        expect(windows.left >= 0, said)
        raise
    expect_equal(len(answer), n, f"{n} steps: the number of losses that come back")
    graph = any(torch.is_tensor(loss) and loss.requires_grad for loss in answer)
    expect(not graph, "the losses keep their graphs, and with them the memory: loss.item()")
    return [kind.number(loss, "one of the losses") for loss in answer], _weights(model)


@functools.cache
def _of_the_slip(name: str, config: TrainConfig) -> tuple[list[float], Tensor]:
    return _heard(broken_loop(name), config)


def _apart(one: tuple, other: tuple) -> float:
    """How far two runs are apart: in a loss, or in their weights' distance, as a part of both.

    Of all weights together, because rounding decides where a slope is nearly 0, and Adam's step
    is ±η there as well.
    """
    losses = max(abs(a - b) / b for a, b in zip(one[0], other[0], strict=True))
    weights = ((one[1] - other[1]).norm() / other[1].norm()).item()
    return math.inf if math.isnan(losses + weights) else max(losses, weights)


def _name_the_slip(got: tuple, want: tuple, config: TrainConfig) -> None:
    for name, (says, _) in LOOP.items():
        expect(_apart(got, _of_the_slip(name, config)) > ROUNDING, says)
    pairs = enumerate(zip(got[0], want[0], strict=True))
    for step, (mine, right) in pairs:
        far = abs(mine - right) / right > ROUNDING
        expect(not far, f"the loss of step {step} is {mine:.5g}, not {right:.5g}")
    raise NotYet("the losses are right, but not the weights after the last step")
