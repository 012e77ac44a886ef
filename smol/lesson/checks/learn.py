"""The checks of notebook 5's first half: loss, AdamW, schedule, clipping. The loop: loop.py.

Each exercise has a table of classic wrong answers, each with the sentence that names it. A check
computes them beside the reader's answer; the tests hand each of them in, and read the sentence.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.lesson import kind
from smol.lesson.checks import slips_train
from smol.lesson.checks.parity import LOSS_MISTAKES, said_of_loss
from smol.lesson.checks.slips_train import ask_and_explain
from smol.lesson.exercise import ask, exercise, expect, expect_close, expect_like
from smol.lesson.kind import NotYet
from smol.train import TrainConfig
from smol.train.schedule import warmup_and_decay, wsd

# -- 5.1: the loss --------------------------------------------------------------------------------

BATCHES = {
    "only the first label of each text was read: the mean is over all of them": (
        lambda z, ids: -_log_p(z).gather(-1, ids[:, 1:, None])[:, 0].mean()
    ),
    "every label was looked up in the first row of its text: a row has one label, so gather(-1, "
    "labels[..., None])": lambda z, ids: -_log_p(z).gather(-1, ids[:, None, 1:]).mean(),
}
LOSS = LOSS_MISTAKES | BATCHES  # those of notebook 3, and what goes wrong with B texts


def _log_p(logits: Tensor) -> Tensor:
    return logits[:, :-1].log_softmax(-1)


@exercise
def check_next_token_loss(loss):
    for scale in (1.0, 300.0):  # of the second one softmax rounds most probabilities to 0
        ids, logits = torch.randint(20, (3, 7)), torch.randn(3, 7, 20) * scale
        want = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        got = ask_and_explain(slips_train.RAISED_BY_LOSS, loss, logits.clone(), ids.clone())
        try:
            expect_close(got, want, f"the loss of logits of size {scale:.0f}")
        except NotYet as off:
            said = slips_train.named(BATCHES, got, logits, ids, same=_close)
            said = f": {said}" if said else said_of_loss(got, logits, ids)
            raise NotYet(f"{off}{said}") from None


def _close(one: Tensor, other: float) -> bool:
    return math.isclose(one.item(), other, rel_tol=1e-4)


# -- 5.2: AdamW -----------------------------------------------------------------------------------


def _adamw(w, g, m, v, t, lr, betas, eps, decay, /, **slip) -> tuple[Tensor, Tensor, Tensor]:
    """The step, or a step with one slip."""
    first, second = slip.get("betas", lambda b: b)(betas)
    g = slip.get("gradient", lambda g, w, decay: g)(g, w, decay)
    m = slip.get("m", lambda m, g, b: b * m + (1 - b) * g)(m, g, first)
    v = slip.get("v", lambda v, g, b: b * v + (1 - b) * g**2)(v, g, second)
    by = slip.get("by", lambda b, t: 1 - b**t)
    m_hat, v_hat = m / by(first, t), v / by(second, t)
    step = slip.get("step", lambda m, v, eps: m / (v.sqrt() + eps))(m_hat, v_hat, eps)
    w = slip.get("w", lambda w, step, lr, decay: w - lr * (step + decay * w))(w, step, lr, decay)
    return slip.get("back", lambda w, m, v, m_hat, v_hat: (w, m, v))(w, m, v, m_hat, v_hat)


def _slip(**slip) -> Callable:
    return lambda *args: _adamw(*args, **slip)


ADAMW = {
    "m̂ and v̂ are stored as m and v: the division by 1 − βᵗ is for this step only": (
        _slip(back=lambda w, m, v, m_hat, v_hat: (w, m_hat, v_hat))
    ),
    "the factor 1 − β is missing: m ← β₁m + (1 − β₁)g, and so v": (
        _slip(m=lambda m, g, b: b * m + g, v=lambda v, g, b: b * v + g**2)
    ),
    "the factor 1 − β₁ is missing: m ← β₁m + (1 − β₁)g": _slip(m=lambda m, g, b: b * m + g),
    "the factor 1 − β₂ is missing: v ← β₂v + (1 − β₂)g²": _slip(v=lambda v, g, b: b * v + g**2),
    "β and 1 − β are exchanged: most of m is the old m": _slip(
        betas=lambda b: (1 - b[0], 1 - b[1])
    ),
    "the two β's are exchanged: the first is m's, the second v's": _slip(betas=lambda b: b[::-1]),
    "v is a mean of g, not of g²": _slip(v=lambda v, g, b: b * v + (1 - b) * g),
    "m and v are not corrected for their start at 0: divide them by 1 − βᵗ": (
        _slip(by=lambda b, t: 1)
    ),
    "corrected by 1 − β, without the power t": _slip(by=lambda b, t: 1 - b),
    "corrected with β times t: βᵗ is β to the power t, **": _slip(by=lambda b, t: 1 - b * t),
    "corrected with t − 1, which begins at 0: t counts from 1 already": (
        _slip(by=lambda b, t: torch.tensor(1 - b ** (t - 1)))
    ),
    "corrected with t + 1: t counts from 1 already": _slip(by=lambda b, t: 1 - b ** (t + 1)),
    "ε stands inside the root: √v̂ + ε": _slip(step=lambda m, v, eps: m / (v + eps).sqrt()),
    "the root is missing: √v̂ + ε": _slip(step=lambda m, v, eps: m / (v + eps)),
    "ε is missing: √v̂ + ε": _slip(step=lambda m, v, eps: m / v.sqrt()),
    "the decay went into the gradient, and so through m and v: that is Adam with L2, AdamW takes "
    "it off w apart": (
        _slip(
            gradient=lambda g, w, decay: g + decay * w, w=lambda w, step, lr, decay: w - lr * step
        )
    ),
    "the learning rate is missing at the decay: η multiplies both": (
        _slip(w=lambda w, step, lr, decay: w - lr * step - decay * w)
    ),
    "the decay takes the new w, it should take the old one": (
        _slip(w=lambda w, step, lr, decay: (w - lr * step) * (1 - lr * decay))
    ),
    "the decay is missing": _slip(w=lambda w, step, lr, decay: w - lr * step),
    "uphill: the step is taken off w": (
        _slip(w=lambda w, step, lr, decay: w + lr * (step - decay * w))
    ),
    "the order is w, m, v": _slip(back=lambda w, m, v, m_hat, v_hat: (m, v, w)),
}


@exercise
def check_adamw(adamw):
    settings = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.5}
    parameter = torch.nn.Parameter(torch.randn(6))
    optimizer = torch.optim.AdamW([parameter], **settings)
    w, m, v = parameter.detach().clone(), torch.zeros(6), torch.zeros(6)
    for t in range(1, 5):
        parameter.grad = g = torch.randn(6)
        given = (w, g, m, v, t, *settings.values())
        optimizer.step()
        state = optimizer.state[parameter]
        want = {"m": state["exp_avg"], "v": state["exp_avg_sq"], "w": parameter.detach()}
        answer = ask(_three, adamw, *(x.clone() if torch.is_tensor(x) else x for x in given))
        got = [expect_like(*pair, "w, m or v") for pair in zip(answer, (w, m, v), strict=True)]
        _hear_adamw(dict(zip("wmv", got, strict=True)), want, given)
        w, m, v = (want[name].clone() for name in "wmv")


def _three(answer) -> list:
    alone = torch.is_tensor(answer) and answer.shape[:1] != (3,)
    expect(not alone, "a tensor came back: return w, m, v")
    return kind.parts(3, "a tuple of w, m and v")(answer)


def _hear_adamw(got: dict, want: dict, given: tuple) -> None:
    """m first, for v and w are wrong after it; then v, then w."""
    for name, right in want.items():
        if not _alike(got[name], right):
            what = f"{name} after step {given[4]}"
            for says, wrong in ADAMW.items():
                made = dict(zip("wmv", wrong(*given), strict=True))
                same = all(_alike(got[k], made[k]) for k in got)
                expect(not same, f"{what} is off: {says}")
            expect_close(got[name], right, what)


def _alike(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b.to(a), rtol=1e-4, atol=1e-6, equal_nan=True)


# -- 5.3: the schedule ----------------------------------------------------------------------------


def _parts(part: Callable) -> Callable:
    return lambda step, config: part(step, config.steps, *warmup_and_decay(config))


WSD = {
    "the first rate is 0, a step for nothing: (step + 1) / up": (
        _parts(lambda step, n, up, down: min(1.0, step / up, (n - step) / down))
    ),
    "it is at 0 one step too early: (steps − step) / down, so that the last step still counts": (
        _parts(lambda step, n, up, down: min(1.0, (step + 1) / up, (n - step - 1) / down))
    ),
    "the first rate is 0, and so is the last: (step + 1) / up, (steps − step) / down": (
        _parts(lambda step, n, up, down: min(1.0, step / up, (n - step - 1) / down))
    ),
    "it comes down one step too late: (steps − step) / down": (
        _parts(lambda step, n, up, down: min(1.0, (step + 1) / up, (n - step + 1) / down))
    ),
    "down the wrong way: (steps − step) / down, which shrinks to 1 / down": (
        _parts(lambda step, n, up, down: min(1.0, (step + 1) / up, (step - n) / down))
    ),
    "the largest of the three: take the smallest, min": (
        _parts(lambda step, n, up, down: max(1.0, (step + 1) / up, (n - step) / down))
    ),
    "without a plateau: 1 is the third of the three": (
        _parts(lambda step, n, up, down: min((step + 1) / up, (n - step) / down))
    ),
    "it never comes down: (steps − step) / down": (
        _parts(lambda step, n, up, down: min(1.0, (step + 1) / up))
    ),
    "it does not warm up: (step + 1) / up": (
        _parts(lambda step, n, up, down: min(1.0, (n - step) / down))
    ),
    "up and down are exchanged: warmup_and_decay gives the warm-up first": (
        _parts(lambda step, n, up, down: min(1.0, (step + 1) / down, (n - step) / up))
    ),
    "that is the rate itself: return its part, 0 to 1": (
        lambda step, config: config.learning_rate * wsd(step, config)
    ),
}


@exercise(instead=wsd)
def check_wsd(schedule):
    for config in (
        TrainConfig(steps=300),
        TrainConfig(steps=40, warmup=0.25, decay=0.5),
        TrainConfig(steps=5, warmup=0, decay=0),
    ):
        n, want = config.steps, [wsd(step, config) for step in range(config.steps)]
        raised = slips_train.RAISED_BY_WSD
        got = [ask_and_explain(raised, schedule, step, config) for step in range(n)]
        off = [k for k in range(n) if not math.isclose(got[k], want[k], rel_tol=1e-6)]
        if not off:
            continue
        for says, wrong in WSD.items():
            made = [wrong(step, config) for step in range(n)]
            same = all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-6), got, made))
            expect(not same, f"{n} steps: {says}")
        said = f"{n} steps, {' and '.join(map(str, warmup_and_decay(config)))} up and down: "
        expect_close(got[off[0]], want[off[0]], f"{said}the part at step {off[0]}")
    return "exact: the command's rate at each step"


# -- 5.4: clipping --------------------------------------------------------------------------------


def _by(factor: Callable) -> Callable:
    return lambda gradients, longest: [g * factor(gradients, longest) for g in gradients]


def _norm(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients]).norm()


CLIP = {
    "each tensor was cut by its own norm: one norm of all of them, one factor for all": (
        lambda gradients, longest: [g * min(1, longest / g.norm()) for g in gradients]
    ),
    "a short gradient was made longer: the factor is never more than 1": (
        _by(lambda gradients, longest: longest / _norm(gradients))
    ),
    "each number was cut off, which turns the gradient: multiply all by one factor": (
        lambda gradients, longest: [g.clamp(-longest, longest) for g in gradients]
    ),
    "the tensors' norms were added: add their squares, then take the root": (
        _by(lambda gradients, longest: min(1, longest / sum(g.norm() for g in gradients)))
    ),
    "the root is missing: the norm is the root of the sum of squares": (
        _by(lambda gradients, longest: min(1, longest / _norm(gradients) ** 2))
    ),
    "the largest number was taken for the length": (
        _by(lambda gradients, longest: min(1, longest / max(g.abs().max() for g in gradients)))
    ),
    "nothing was cut": lambda gradients, longest: gradients,
}


@exercise
def check_clip(clip):
    for shapes, longest in (
        (((3,), (4,)), 100.0),
        (((3,), (4,)), 1.0),
        (((1,),), 0.5),
        (((2,), (5, 10), (7,)), 2.0),  # as in a model, where most are matrices
    ):
        gradients = [torch.randn(shape) * 10 for shape in shapes]
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, longest)
        given, raised = [g.clone() for g in gradients], slips_train.RAISED_BY_CLIP
        got = ask_and_explain(raised, clip, given, longest, kind=kind.items)
        what = f"{len(shapes)} gradients, clipped together to {longest}:"
        expect(len(got) == len(shapes), f"{what} that many are to come back")
        want = [parameter.grad for parameter in parameters]
        got = [expect_like(*pair, f"{what} one of them") for pair in zip(got, want, strict=True)]
        if all(map(_alike, got, want)):
            continue
        for says, wrong in CLIP.items():
            expect(not all(map(_alike, got, wrong(gradients, longest))), f"{what} {says}")
        for ours, right in zip(got, want, strict=True):
            expect_close(ours, right, f"{what} one of them")
