"""The slips of notebook 9's exercises 6 to 9: log-probabilities, DPO, the best policy, the loss of
a policy. A slip takes what the reader's function takes, one of log_probs logits in place of the
model and its inputs. The checks: preference.py."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.finetune import best_policy

# -- 9.7: log-probabilities of answers ------------------------------------------------------------


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
    "one number of each place: one of each row is wanted, the sum over its targets": (
        _slip(over=lambda found, keeps: found),
        _slip(over=lambda found, keeps: found.flatten()),
        _slip(sign=-1, over=lambda found, keeps: found.flatten()),
    ),
    "the sums go over the rows: one of each row is wanted, over its targets": (
        _slip(over=lambda found, keeps: found.sum(0))
    ),
    "places without a target were counted, as if it were token 0: they have to leave the sum": (
        _slip(kept=torch.ones_like)
    ),
    "the sign: ln p is below 0, −ln p is the loss": (
        _slip(sign=-1),
        _slip(sign=-1, over=lambda found, keeps: found.sum(-1) / keeps.sum(-1)),
    ),
    "logits are not ln p: which function makes them so that their exp adds up to 1?": (
        _slip(log_p=lambda logits: logits)
    ),
    "the logarithm came after softmax: −∞, or what it was cut to, where p is below all that fp32 "
    "holds. log_softmax makes ln p at once": (
        _slip(log_p=lambda logits: logits.softmax(-1).log()),
        _slip(log_p=lambda logits: logits.softmax(-1).clamp(min=1e-9).log()),
        _slip(log_p=lambda logits: (logits.softmax(-1) + 1e-9).log()),
        _slip(log_p=lambda logits: (logits.softmax(-1) + 1e-10).log()),
    ),
    "token 0 is a token like any other: what counts for nothing is −100": (
        _slip(kept=lambda labels: labels > 0),
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


# -- 9.8: the loss of preferences -----------------------------------------------------------------


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
    "ln π was divided by ln π_ref: the logarithm of a ratio is a difference": (
        lambda c, r, rc, rr, beta: -F.logsigmoid(beta * (c / rc - r / rr)).mean()
    ),
    "the probabilities' ratio went in: its logarithm is wanted, a difference of logarithms": (
        lambda c, r, rc, rr, beta: -F.logsigmoid(beta * ((c - rc).exp() - (r - rr).exp())).mean()
    ),
    "β multiplies the chosen answer's reward only": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * c - r).mean())
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
    "the two rewards are added: the rejected one's is taken off": (
        _dpo(lambda c, r, beta: -F.logsigmoid(beta * (c + r)).mean())
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


# -- 9.6: the best policy -------------------------------------------------------------------------


def _tilted(weight: Callable) -> Callable:
    """`weight` of p, r and β, normalised."""

    def slip(p: Tensor, r: Tensor, beta: float) -> Tensor:
        made = weight(p, r, beta)
        return made / made.sum(-1, keepdim=True)

    return slip


POLICIES: dict[str, Callable | tuple] = {
    "r/β was cut where it is large, and rewards above that are all alike: take the largest "
    "exponent off each instead": (
        _tilted(lambda p, r, beta: p * (r / beta).clamp(max=80).exp()),
        _tilted(lambda p, r, beta: p * (r / beta).clamp(max=50).exp()),
        _tilted(lambda p, r, beta: p * (r / beta).clamp(-80, 80).exp()),
        _tilted(lambda p, r, beta: p * (r / beta).clamp(-50, 50).exp()),
    ),
    "p was made a little larger before its logarithm: where it is small, that is most of it": (
        lambda p, r, beta: ((p + 1e-6).log() + r / beta).softmax(-1),
        lambda p, r, beta: (p.clamp(min=1e-6).log() + r / beta).softmax(-1),
        lambda p, r, beta: ((p + 1e-8).log() + r / beta).softmax(-1),
        lambda p, r, beta: (p.clamp(min=1e-8).log() + r / beta).softmax(-1),
    ),
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
    "softmax makes exp of what it is given: give it the exponent, ln p + r/β": (
        lambda p, r, beta: (p * (r / beta).exp()).softmax(-1),
        lambda p, r, beta: (p * r / beta).softmax(-1),
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


# -- 9.9: the loss of a policy --------------------------------------------------------------------


def _centred(slip: Callable) -> Callable:
    """`slip` of ln p, and the reward less its mean."""
    return lambda log_p, r: slip(log_p, r.detach() - r.detach().mean())


POLICY: dict[str, Callable | tuple] = {
    "the rewards' mean is not taken off: with rewards of 0 and 1 nothing would ever become less "
    "likely": (
        lambda log_p, r: -(r * log_p).mean(),
        lambda log_p, r: -(r * log_p).sum(),
    ),
    "the sign: the loss falls as what was rewarded becomes likelier": (
        _centred(lambda log_p, a: (a * log_p).mean()),
        _centred(lambda log_p, a: (a * log_p).sum()),
        lambda log_p, r: (r * log_p).mean(),
        lambda log_p, r: (r * log_p).sum(),
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
