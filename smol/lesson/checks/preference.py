"""The checks of notebook 9's second half: log-probabilities, DPO, the best policy, the gradient of
a policy. The first half: finetune.py and lora.py.

Each table has classic wrong answers with the sentence that names each; the tests hand all of them
in.
"""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.finetune import dpo, preference
from smol.lesson import kind
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


# -- 9.6: log-probabilities of answers ------------------------------------------------------------


def _sums(logits, labels, /, log_p=None, sign=1, kept=None, over=None) -> Tensor:
    """The sum of each row's ln p, or with a slip."""
    keeps = labels != -100
    found = log_p(logits) if log_p else logits.log_softmax(-1)
    found = sign * found.gather(-1, labels.where(keeps, 0)[..., None])[..., 0]
    found = found * keeps if kept is None else found * kept(labels)
    return over(found, keeps) if over else found.sum(-1)


def _slip(**slip) -> Callable:
    return lambda logits, labels: _sums(logits, labels, **slip)


def _by_product(logits, labels):
    keeps = labels != -100
    p = logits.softmax(-1).gather(-1, labels.where(keeps, 0)[..., None])[..., 0]
    return p.where(keeps, 1.0).prod(-1).log()


SUMS: dict[str, Callable | tuple] = {
    "that is the mean per target: ln p of a whole answer is the sum of its tokens'": (
        _slip(over=lambda found, keeps: found.sum(-1) / keeps.sum(-1)),
        _slip(over=lambda found, keeps: found.sum(-1) / keeps.sum(-1).clamp(min=1)),
    ),
    "that is the mean over all places: ln p of a whole answer is the sum of its tokens'": (
        _slip(over=lambda found, keeps: found.mean(-1))
    ),
    "that is one number for the whole batch: one of each row is wanted": (
        _slip(over=lambda found, keeps: found.sum()),
        _slip(over=lambda found, keeps: found.sum() / keeps.sum()),
        _slip(over=lambda found, keeps: found.sum(-1).mean()),
    ),
    "one number of each place: one of each row is wanted, the sum over its targets": (
        _slip(over=lambda found, keeps: found)
    ),
    "the sums go over the rows: one of each row is wanted, over its targets": (
        _slip(over=lambda found, keeps: found.sum(0))
    ),
    "places without a target were counted, as if theirs were token 0: multiply by kept": (
        _slip(kept=torch.ones_like)
    ),
    "the sign: ln p is below 0, −ln p is the loss": (
        _slip(sign=-1),
        _slip(sign=-1, over=lambda found, keeps: found.sum(-1) / keeps.sum(-1)),
    ),
    "logits are not ln p: which function makes them so that their exp adds up to 1?": (
        _slip(log_p=lambda logits: logits)
    ),
    "that adds up p: ln p is wanted": _slip(log_p=lambda logits: logits.softmax(-1)),
    "the softmax goes over the places or over the rows: over the vocabulary, the last dimension": (
        _slip(log_p=lambda logits: logits.log_softmax(1)),
        _slip(log_p=lambda logits: logits.log_softmax(0)),
    ),
    "shifted once more: label t belongs to logits t already": (
        lambda logits, labels: _sums(logits[:, :-1], labels[:, 1:])
    ),
    "−∞: the product of so many p is below all that fp32 holds. Add their logarithms": (
        _by_product
    ),
}
RAISED_BY_SUMS = {
    "out of bounds": "−100 is no token: put one in its place, and take it out of the sum",
    "index -100": "−100 is no token: put one in its place, and take it out of the sum",
    "Index tensor must have the same number": "gather wants as many dimensions: labels[..., None]",
    "Expected target size": "cross_entropy looks for the classes in dimension 1: flatten(0, 1) "
    "the logits, flatten() the labels, and bring the answer back to (B, T)",
    "has no attribute 'logits'": "this model gives the logits themselves",
}


@exercise
def check_log_probs(answer):
    model = SmolLM2(dataclasses.replace(SMALL, num_hidden_layers=1))
    inputs, labels = torch.randint(1, SMALL.vocab_size, (2, 4, 30))
    at = torch.arange(30)
    first, last = torch.tensor([[12, 3, 0, 20], [13, 9, 30, 28]])[..., None]
    labels[(at < first) | (at >= last)] = -100  # the third one has 30 targets
    for rows in (slice(None), slice(1, 2)):
        x, y = inputs[rows], labels[rows]
        given = x.clone(), y.clone()
        got = ask_and_explain(RAISED_BY_SUMS, answer, model, *given, kind=_with_its_graph)
        read = torch.equal(given[0], x) and torch.equal(given[1], y)
        expect(read, "your function changes inputs or labels: work on a copy")
        want = preference.log_probs(model, x, y).detach()
        what = f"{len(x)} rows" if len(x) > 1 else "1 row"
        _hear(SUMS, got.detach(), want, (model(x).detach(), y), what, "your answer")
        expect(got.requires_grad, LOST)
    none = torch.full_like(labels[:1], -100)
    alone = ask_and_explain(RAISED_BY_SUMS, answer, model, inputs[:1], none, kind=kind.tensor)
    empty = "a row without a target: NaN, from a mean of nothing? The sum of nothing is 0"
    expect(not alone.isnan().any(), empty)
    expect_close(alone, torch.zeros(1), "a row without a target: your answer")


# -- 9.7: the loss of preferences -----------------------------------------------------------------


def _dpo(slip: Callable) -> Callable:
    """`slip` of the two log-ratios and β."""
    return lambda c, r, rc, rr, beta: slip(c - rc, r - rr, beta)


LOSSES: dict[str, Callable | tuple] = {
    "that is the sum: the mean over the pairs": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * (c - r)).sum())
    ),
    "one number of each pair: their mean is wanted": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * (c - r)))
    ),
    "the reference is forgotten: what counts is by how much an answer became likelier": (
        lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c - r)).mean()
    ),
    "the reference's two numbers are exchanged, or have the other sign: what counts is "
    "ln π − ln π_ref of each answer": (
        lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c + rc - r - rr)).mean()
    ),
    "upside down: it is the chosen answer that is to become likelier": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * (r - c)).mean())
    ),
    "β stands outside σ: it multiplies the rewards, within": (
        _dpo(lambda c, r, beta: -beta * F.logsigmoid(c - r).mean())
    ),
    "β is missing": _dpo(lambda c, r, beta: -F.logsigmoid(c - r).mean()),
    "divided by β: it multiplies the rewards": (
        _dpo(lambda c, r, beta: -F.logsigmoid((c - r) / beta).mean())
    ),
    "the sign: a loss is −ln σ, which is above 0": (
        _dpo(lambda c, r, beta: F.logsigmoid(beta * (c - r)).mean())
    ),
    "the margins were averaged before σ: a loss of each pair first, then the mean": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * (c - r).mean()))
    ),
    "the logarithm is missing: −ln σ": (
        _dpo(lambda c, r, beta: -torch.sigmoid(beta * (c - r)).mean()),
        _dpo(lambda c, r, beta: torch.sigmoid(beta * (c - r)).mean()),
        _dpo(lambda c, r, beta: torch.sigmoid(beta * (r - c)).mean()),
    ),
    "the mean of σ was taken before the logarithm: a loss of each pair first, then the mean": (
        _dpo(lambda c, r, beta: -torch.sigmoid(beta * (c - r)).mean().log())
    ),
    "that is the margin itself: −ln σ of it": (
        _dpo(lambda c, r, beta: -(beta * (c - r)).mean()),
        _dpo(lambda c, r, beta: (beta * (c - r)).mean()),
        _dpo(lambda c, r, beta: (r - c).mean()),
        _dpo(lambda c, r, beta: (c - r).mean()),
    ),
    "the rejected answer is missing: the loss is of two answers' difference": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * c).mean())
    ),
    "each answer went through σ by itself: their difference does": (
        _dpo(lambda c, r, beta: -(F.logsigmoid(beta * c) - F.logsigmoid(beta * r)).mean()),
        _dpo(lambda c, r, beta: -(F.logsigmoid(beta * c) + F.logsigmoid(-beta * r)).mean()),
    ),
}
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


# -- 9.8: the best policy -------------------------------------------------------------------------


def best_policy(p: Tensor, reward: Tensor, beta: float) -> Tensor:
    """p · exp(r/β), normalised: of all policies the one of most reward less β times the KL."""
    return (p.log() + reward / beta).softmax(-1)


def _tilted(weight: Callable) -> Callable:
    """`weight` of p, r and β, normalised."""

    def slip(p: Tensor, r: Tensor, beta: float) -> Tensor:
        made = weight(p, r, beta)
        return made / made.sum(-1, keepdim=True)

    return slip


POLICIES: dict[str, Callable | tuple] = {
    "multiplied by β: a large β keeps near p, so it divides the reward": (
        _tilted(lambda p, r, beta: p * (r * beta).exp())
    ),
    "β is missing": _tilted(lambda p, r, beta: p * r.exp()),
    "not normalised: probabilities add up to 1": lambda p, r, beta: p * (r / beta).exp(),
    "p is missing: what was unlikely before stays less likely": (
        _tilted(lambda p, r, beta: (r / beta).exp())
    ),
    "p is no logarithm: in the exponent stands ln p": (
        _tilted(lambda p, r, beta: (p + r / beta).exp())
    ),
    "β divides ln p as well: the reward alone": (
        _tilted(lambda p, r, beta: ((p.log() + r) / beta).exp()),
        _tilted(lambda p, r, beta: ((p + r) / beta).exp()),
    ),
    "β multiplies ln p: it divides the reward": (
        _tilted(lambda p, r, beta: (beta * p.log() + r).exp())
    ),
    "the sign: more reward is more probability": (
        _tilted(lambda p, r, beta: p * (-r / beta).exp())
    ),
    "p was multiplied by the reward, without exp": (
        _tilted(lambda p, r, beta: p * r / beta),
        lambda p, r, beta: p * r / beta,
    ),
    "exp(r/β) was made a probability first, and p · that adds up to less than 1": (
        lambda p, r, beta: p * (r / beta).softmax(-1)
    ),
    "all went to the best outcome: that is what β = 0 would do": (
        lambda p, r, beta: F.one_hot(r.argmax(-1), len(r)).to(p)
    ),
    "p came back as it was": lambda p, r, beta: p,
    "those are logarithms: their exp is wanted": (
        lambda p, r, beta: best_policy(p, r, beta).log(),
        lambda p, r, beta: p.log() + r / beta,
    ),
}
CHOICES = (  # p, the reward, β
    ("β = 0.5", [0.5, 0.3, 0.15, 0.05], [0.2, -1.0, 0.9, 1.0], 0.5),
    ("β = 4", [0.1, 0.6, 0.3], [2.0, 0.0, -3.0], 4.0),
    ("an outcome of probability 0", [0.7, 0.0, 0.3], [0.5, 0.2, 1.0], 1.0),
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


def policy_loss(log_p: Tensor, reward: Tensor) -> Tensor:
    """-mean((r - mean r) · ln p), for which a reward is a number without a gradient."""
    reward = reward.detach()
    return -((reward - reward.mean()) * log_p).mean()


def _centred(slip: Callable) -> Callable:
    """`slip` of ln p, and the reward less its mean."""
    return lambda log_p, r: slip(log_p, r.detach() - r.detach().mean())


POLICY: dict[str, Callable | tuple] = {
    "the rewards' mean is not taken off: with rewards of 0 and 1 nothing would ever become less "
    "likely": lambda log_p, r: -(r * log_p).mean(),
    "the sign: the loss falls as what was rewarded becomes likelier": (
        _centred(lambda log_p, a: (a * log_p).mean()),
        lambda log_p, r: (r * log_p).mean(),
    ),
    "that is the sum: the mean is wanted": _centred(lambda log_p, a: -(a * log_p).sum()),
    "one number of each answer: their mean is wanted": _centred(lambda log_p, a: -a * log_p),
    "divided by the rewards' deviation, too: that is another method's, GRPO's, in which an easy "
    "question pulls as hard as one that half get right": (
        _centred(lambda log_p, a: -(a / a.std() * log_p).mean()),
        _centred(lambda log_p, a: -(a / (a.std() + 1e-4) * log_p).mean()),
        _centred(lambda log_p, a: -(a / a.std(correction=0) * log_p).mean()),
    ),
    "a reward was compared with the mean of the others: that is another method's, RLOO. Here with "
    "the mean of all": _centred(lambda log_p, a: -(a * log_p).sum() / (len(a) - 1)),
    "p in place of ln p: the gradient of the mean reward has ln p in it": (
        _centred(lambda log_p, a: -(a * log_p.exp()).mean())
    ),
    "p in place of ln p, and the rewards' mean is not taken off": (
        lambda log_p, r: -(r * log_p.exp()).mean()
    ),
    "the mean was taken before they met: each answer's reward times its own ln p": (
        lambda log_p, r: -r.mean() * log_p.mean(),
        lambda log_p, r: r.mean() * log_p.mean(),
    ),
    "the rewards are missing": lambda log_p, r: -log_p.mean(),
    "ln p is missing": lambda log_p, r: -r.mean(),
}


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
