"""From logits to text: the next token, chosen and appended, again and again.

With temperature 0 the likeliest token is taken. Otherwise logits are reshaped, in the order of
transformers (repetition penalty, temperature, top-k, top-p), and one token is drawn.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from smol.model import SmolLM2


@torch.no_grad()
def generate(
    model: SmolLM2,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_ids: Iterable[int] = (),
    use_cache: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`input_ids` (B, T) int64 -> (B, T + new): the prompts, each with what follows.

    It ends early when every row has a token of `stop_ids`; a row that has ended is filled with
    that token. Without the cache every step reads the whole text again, with the same result up
    to rounding. Raises ValueError for settings out of range, and where prompt and new tokens
    together are longer than the context.
    """
    _check(temperature, top_k, top_p, repetition_penalty)
    B, T = input_ids.shape
    room = model.config.max_position_embeddings
    if max_new_tokens < 1 or T + max_new_tokens > room:
        raise ValueError(
            f"{T} tokens and {max_new_tokens} new ones do not fit a context of {room}: ask for 1 "
            f"to {max(room - T, 0)}"
        )
    stop_ids = torch.tensor(list(stop_ids), dtype=torch.int64, device=input_ids.device)
    cache = model.new_cache(B, T + max_new_tokens) if use_cache else None
    ids, new = input_ids, input_ids
    for _ in range(max_new_tokens):
        hidden = model(new if use_cache else ids, cache, head=False)[:, -1]
        logits = model.lm_head(hidden).float()  # (B, V): of the last token only
        logits = penalise(logits, ids, repetition_penalty)
        if temperature == 0:
            new = logits.argmax(-1, keepdim=True)
        else:
            logits = keep_top_p(keep_top_k(logits / temperature, top_k), top_p)
            new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        if ids.size(1) > T:
            last = ids[:, -1:]
            new = torch.where(torch.isin(last, stop_ids), last, new)
        ids = torch.cat((ids, new), dim=1)
        if torch.isin(new, stop_ids).all():
            break
    return ids


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


def _check(temperature, top_k, top_p, repetition_penalty) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if not 0 < repetition_penalty < float("inf"):
        raise ValueError(
            f"repetition_penalty must be above 0 (1 = none), got {repetition_penalty}"
        )
