"""Logits made over before a token is drawn: the repetition penalty, temperature, and filters.

In the order of transformers: penalty, temperature, top-k, top-p, min-p.
"""

import torch
from torch import Tensor

from smol.checks import number, whole


def reshape(
    logits: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> Tensor:
    """Logits (B, V) after ids (B, T) -> those that a token is drawn by, (B, V).

    Each filter sees what the one before has left, in this order: penalty, temperature, top-k,
    top-p, min-p. (As transformers has it.) Raises ValueError for settings out of range, and for
    temperature 0, by which nothing can be divided: `generate` takes the likeliest there.
    """
    check_settings(temperature, top_k, top_p, min_p, repetition_penalty)
    if temperature == 0:
        raise ValueError("temperature 0 draws nothing: take the argmax, or a temperature above 0")
    logits = penalise(logits, ids, repetition_penalty) / temperature
    return keep_min_p(keep_top_p(keep_top_k(logits, top_k), top_p), min_p)


def penalise(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) of ids (B, T) seen already made smaller: divided by `penalty` where positive,
    multiplied where negative. (Keskar et al. 2019, section 4.1, as transformers has it.)"""
    if penalty == 1.0:
        return logits
    seen = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def keep_top_k(logits: Tensor, k: int | None) -> Tensor:
    """All but the k largest logits at -inf; of equal ones at the border all stay."""
    if k is None:
        return logits
    border = logits.topk(min(k, logits.size(-1))).values[:, -1:]
    return logits.masked_fill(logits < border, float("-inf"))


def keep_top_p(logits: Tensor, p: float | None) -> Tensor:
    """The fewest likeliest tokens that have probability p together; the rest at -inf.

    (Holtzman et al. 2020, section 3.1.) At least one stays.
    """
    if p is None or p == 1.0:
        return logits
    ascending, order = logits.sort(descending=False)
    drop = ascending.softmax(-1).cumsum(-1) <= 1 - p
    drop[:, -1] = False
    return logits.masked_fill(drop.scatter(1, order, drop), float("-inf"))


def keep_min_p(logits: Tensor, p: float | None) -> Tensor:
    """The tokens at least p times as likely as the likeliest; the rest at -inf.

    (Nguyen et al. 2024, section 3.)
    """
    if p is None:
        return logits
    likely = logits.softmax(-1)
    return logits.masked_fill(likely < p * likely.amax(-1, keepdim=True), float("-inf"))


def draw(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One token of each row of probabilities p (B, V), as (B, 1): the very one that
    `torch.multinomial(p, 1)` draws, which on a GPU would halt the queue to look at p.

    Whoever waits for n events, each at its own rate p, meets number i first with probability
    p[i]; a waiting time is exponential, of mean 1, divided by the rate.
    """
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(-1, keepdim=True)


TINY, HUGE = 1e-15, 1e15  # a logit divided by both TINY still fits fp32


def check_settings(temperature, top_k, top_p, min_p, repetition_penalty) -> None:
    """Raises ValueError, naming the setting, for one of another type or out of range."""
    greedy_or = f"0 (greedy) or at least {TINY}"
    number("temperature", temperature, greedy_or, lambda t: t == 0 or TINY <= t < float("inf"))
    if top_k is not None:
        whole("top_k", top_k)
    if top_p is not None:
        number("top_p", top_p, "above 0 and at most 1", lambda p: 0 < p <= 1)
    if min_p is not None:
        number("min_p", min_p, "from 0 to 1", lambda p: 0 <= p <= 1)
    wanted = f"from {TINY:g} to {HUGE:g} (1 = none)"
    number("repetition_penalty", repetition_penalty, wanted, lambda x: TINY <= x <= HUGE)
