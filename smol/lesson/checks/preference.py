"""The checks of notebook 9's second half: log-probabilities, DPO, the best policy, the gradient of
a policy. The first half: finetune.py and lora.py.

The package's own functions are the judges. What each classic wrong answer is told stands in
slips_preference.py; the tests hand all of them in.
"""

import copy
import dataclasses

import torch
from torch import Tensor

from smol.finetune import best_policy, dpo, policy_loss, preference
from smol.lesson import kind
from smol.lesson.checks.slips_preference import (
    LOSSES,
    POLICIES,
    POLICY,
    SUMS,
)
from smol.lesson.checks.slips_train import ask_and_explain, named
from smol.lesson.exercise import SMALL, exercise, expect, expect_close
from smol.model import SmolLM2

LOST = "your answer has no gradient: is it a number of Python, detached, or made under no_grad?"


def _near(got: Tensor, want: Tensor) -> bool:
    """The slip's answer is the reader's: the same shape, the same numbers up to rounding."""
    same = got.shape == want.shape
    return same and torch.allclose(got.double(), want.double(), 1e-4, 1e-5, equal_nan=True)


def _hear(slips: dict, got: Tensor, want: Tensor, given: tuple, what: str, part: str) -> None:
    """NotYet with the sentence of the slip that it is, or with how far it is off."""
    if not _near(got, want):
        said = named(slips, got, *given, same=_near)
        expect(said is None, f"{what}: {said}")
        expect_close(got, want, f"{what}: {part}")


def _with_its_graph(answer) -> Tensor:
    """The kind of a tensor that is trained by."""
    kind.tensor(answer)
    return answer


def _loss(answer) -> Tensor:
    """The kind of a loss: a number as a tensor. Of one for each answer, a slip, the sentence is
    known."""
    if isinstance(answer, Tensor) and answer.ndim == 1 and len(answer) > 1:
        return answer
    value = kind.number(answer)
    return answer.reshape(()) if isinstance(answer, Tensor) else torch.tensor(float(value))


# -- 9.7: log-probabilities of answers ------------------------------------------------------------


RAISED_BY_SUMS = {
    "out of bounds": "−100 is no token: put one in its place, and take it out of the sum",
    "index -100": "−100 is no token: put one in its place, and take it out of the sum",
    "Index tensor must have the same number": "gather wants as many dimensions: labels[..., None]",
    "Expected target size": "cross_entropy looks for the classes in dimension 1: flatten(0, 1) "
    "the logits, flatten() the labels, and bring the answer back to (B, T)",
    "must match the size": "what gather gives has a last dimension of 1: [..., 0] takes it away",
    "has no attribute 'logits'": "this model gives the logits themselves",
}


@exercise
def check_log_probs(answer):
    model = SmolLM2(dataclasses.replace(SMALL, num_hidden_layers=1))
    inputs, labels = torch.randint(1, SMALL.vocab_size, (2, 4, 30))
    at = torch.arange(30)
    first, last = torch.tensor([[12, 3, 0, 20], [13, 9, 30, 28]])[..., None]
    labels[(at < first) | (at >= last)] = -100  # the third one has 30 targets
    sure, zeros = copy.deepcopy(model), labels.where(labels % 3 != 0, 0)  # −100 stays as it is
    sure.norm.weight.detach().mul_(300)
    for what, judge, x, y in (
        ("4 rows", model, inputs, labels),
        ("1 row", model, inputs[1:2], labels[1:2]),
        ("some labels are token 0", model, inputs, zeros),
        ("a model that is very sure", sure, inputs, labels),
    ):
        given = x.clone(), y.clone()
        got = ask_and_explain(RAISED_BY_SUMS, answer, judge, *given, kind=_with_its_graph)
        read = torch.equal(given[0], x) and torch.equal(given[1], y)
        expect(read, "your function changes inputs or labels: work on a copy")
        want = preference.log_probs(judge, x, y).detach()
        several = f"{what}: one number for the whole batch came back: one of each row is wanted"
        expect(got.ndim > 0, several)
        _hear(SUMS, got.detach(), want, (judge(x).detach(), y), what, "your answer")
        expect(got.requires_grad, LOST)
    none = torch.full_like(labels[:1], -100)
    alone = ask_and_explain(RAISED_BY_SUMS, answer, model, inputs[:1], none, kind=kind.tensor)
    empty = "a row without a target: NaN, from a mean of nothing? The sum of nothing is 0"
    expect(not alone.isnan().any(), empty)
    expect_close(alone, torch.zeros(1), "a row without a target: your answer")


# -- 9.8: the loss of preferences -----------------------------------------------------------------


FAR = (  # chosen, rejected, and the reference's: far apart, as in long answers
    torch.tensor([-900.0, -50.0, -30.0]),
    torch.tensor([-40.0, -950.0, -31.0]),
    torch.tensor([-60.0, -45.0, -30.0]),
    torch.tensor([-80.0, -55.0, -31.0]),
)


@exercise
def check_dpo_loss(answer):
    far_pair = torch.tensor([[-12.0], [-11.0], [-12.0], [-11.0]])
    for what, four, beta in (
        ("5 pairs", -torch.rand(4, 5) * 20, 0.3),
        ("the model is the reference still", far_pair, 0.3),
        ("answers far apart", torch.stack(FAR), 0.9),
    ):
        four = [t.clone().requires_grad_(i < 2) for i, t in enumerate(four)]
        want = dpo(*four, beta).loss.mean()
        copies = [t.detach().clone().requires_grad_(i < 2) for i, t in enumerate(four)]
        got = ask_and_explain({}, answer, *copies, beta, kind=_loss)
        infinite = "NaN or ∞: far from 0 σ rounds to 0, and exp overflows. There is a function "
        expect(got.isfinite().all(), f"{what}: {infinite}that makes ln σ at once")
        given = (*(t.detach() for t in four), beta)
        _hear(LOSSES, got.detach(), want.detach(), given, what, "the loss")
        expect(got.requires_grad, LOST)
        slopes = torch.autograd.grad(want, four[:2])
        mine = torch.autograd.grad(got, copies[:2], allow_unused=True)
        for name, one, right in zip(("chosen", "rejected"), mine, slopes, strict=True):
            lost = f"no gradient goes through {name}: is it detached, or under no_grad?"
            expect(one is not None and _near(one, right), lost)
    return "correct: ln 2 at the start, then the package's loss"


# -- 9.6: the best policy -------------------------------------------------------------------------


CHOICES = (  # p, the reward, β
    ("β = 0.5", [0.5, 0.3, 0.15, 0.05], [0.2, -1.0, 0.9, 1.0], 0.5),
    ("an outcome of probability 0", [0.7, 0.0, 0.3], [0.5, 0.2, 1.0], 1.0),
    ("a rare outcome", [0.999999, 1e-6], [0.0, 10.0], 1.0),
    ("one that is rarer still", [1.0, 1e-9], [0.0, 17.0], 1.0),
    ("β = 0.001", [0.2, 0.3, 0.5], [1.0, 1.001, 0.9], 0.001),
    ("β = 0.001, rewards below 0", [0.2, 0.3, 0.5], [-1.0, -1.001, -0.9995], 0.001),
)


@exercise
def check_best_policy(answer):
    for what, *given in CHOICES:
        p, reward, beta = (torch.tensor(x) if isinstance(x, list) else x for x in given)
        copies = p.clone(), reward.clone()
        got = ask_and_explain({}, answer, *copies, beta, kind=kind.tensor)
        read = torch.equal(copies[0], p) and torch.equal(copies[1], reward)
        expect(read, "your function changes p or reward, which are only to be read")
        over = "NaN or ∞: exp(r/β) is more, or less, than fp32 holds, while ln p + r/β is not"
        expect(beta > 0.01 or got.isfinite().all(), f"{what}: {over}")
        want = best_policy(p, reward, beta)
        _hear(POLICIES, got, want, (p, reward, beta), what, "your answer")
    p = torch.rand(2, 3).softmax(-1)
    try:
        expect_close(answer(p, p.flip(0), 0.5), best_policy(p, p.flip(0), 0.5), "")
    except Exception:
        return "correct for one p; of several, (…, N), outcomes lie along the last dimension"
    return "correct"


# -- 9.9: the loss of a policy --------------------------------------------------------------------


@exercise
def check_policy_loss(answer):
    for what, reward in (
        ("6 answers", torch.randn(6) + 1),
        ("rewards of 0 and 1", torch.tensor([0.0, 1.0, 0.0, 0.0])),
        ("all rewards alike", torch.full((3,), 0.5)),
    ):
        log_p = -(torch.rand(len(reward)) * 3 + 0.1)
        mine, source = log_p.clone().requires_grad_(), reward.clone().requires_grad_()
        given = source * 1  # so that what writes into it is not stopped by autograd
        got = ask_and_explain({}, answer, mine, given, kind=_loss)
        read = torch.equal(given, reward) and torch.equal(mine, log_p)
        expect(read, "your function changes what it was given: r = r − …, not r −= …")
        want = policy_loss(log_p.requires_grad_(), reward)
        nan = "NaN or ∞: what is divided by, 0? Rewards that are all alike teach nothing"
        expect(got.isfinite().all() or what != "all rewards alike", f"{what}: {nan}")
        _hear(POLICY, got.detach(), want.detach(), (log_p.detach(), reward), what, "the loss")
        expect(got.requires_grad, LOST)
        slope, through = torch.autograd.grad(got, (mine, source), allow_unused=True)
        lost = "no gradient goes through ln p: is it detached, or under no_grad?"
        expect(slope is not None, lost)
        none = (
            "a gradient goes through the rewards as well: to the loss they are numbers, detach()"
        )
        expect(through is None or not through.any(), none)
        (right,) = torch.autograd.grad(want, log_p)
        expect_close(slope, right, f"{what}: the loss is right, its gradient in ln p")
