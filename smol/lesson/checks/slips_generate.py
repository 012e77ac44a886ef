"""The classic wrong answers to the exercises of notebook 7, each with the sentence that names it.

smol/lesson/checks/generate.py computes them beside the reader's answer; the tests hand each of
them in as an answer, and read the sentence.
"""

import torch
from torch import Tensor

from smol.generate.sampling import keep_min_p, keep_top_k, keep_top_p
from smol.lesson.kind import Raised, expect

LOW = float("-inf")


# -- the width of a choice ------------------------------------------------------------------------


def _entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(-1)).sum(-1)


CHOICES = {
    "0 · ln 0 is NaN in PyTorch: torch.special.entr counts it as 0": (
        lambda x: (-(x.softmax(-1) * x.softmax(-1).log()).sum(-1)).exp()
    ),
    "that is the entropy itself: the width is e to its power": _entropy,
    "that is the entropy in bits: the width is 2 to its power, or e to that in nats": (
        lambda x: _entropy(x) / torch.tensor(2.0).log()
    ),
    "e to the power of minus the entropy: entropy is −Σ p ln p, which is positive": (
        lambda x: (-_entropy(x)).exp()
    ),
    "one number for the whole batch: sum(-1) gives one for each row": (
        lambda x: torch.special.entr(x.softmax(-1)).sum().exp()
    ),
    "that is one over the largest probability: it does not see the others": (
        lambda x: 1 / x.softmax(-1).amax(-1)
    ),
    "that counts the tokens that are possible at all: how likely they are counts too": (
        lambda x: (x > LOW).sum(-1).float()
    ),
}


# -- top-p ----------------------------------------------------------------------------------------


def _kept(logits: Tensor, keep: Tensor, order: Tensor) -> Tensor:
    """`keep` is in the order of the sorted tokens: back to that of the vocabulary."""
    return logits.masked_fill(~keep.scatter(1, order, keep), LOW)


def _sorted(logits: Tensor, descending: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities from the likeliest down, their running sum, and which tokens they are."""
    values, order = logits.sort(descending=descending)
    likely = values.softmax(-1)
    return likely, likely.cumsum(-1), order


def _top_p(logits: Tensor, keep) -> Tensor:
    likely, together, order = _sorted(logits)
    return _kept(logits, keep(likely, together), order)


def _without_scatter(logits, p):
    likely, together, _ = _sorted(logits)
    return logits.masked_fill(together - likely >= p, LOW)


def _gathered(logits, p):
    likely, together, order = _sorted(logits)
    return logits.masked_fill((together - likely >= p).gather(1, order), LOW)


def _left_sorted(logits, p):
    values, _ = logits.sort(descending=True)
    likely = values.softmax(-1)
    return values.masked_fill(likely.cumsum(-1) - likely >= p, LOW)


def _of_logits(logits, p):
    values, order = logits.sort(descending=True)
    return _kept(logits, values.cumsum(-1) - values < p, order)


def _unsorted(logits, keep):
    likely = logits.softmax(-1)
    return logits.masked_fill(~keep(likely, likely.cumsum(-1)), LOW)


def _from_below(logits, p):
    likely, together, order = _sorted(logits, descending=False)
    return _kept(logits, together - likely < p, order)


def _over_the_rows(logits, p):
    values, order = logits.sort(descending=True)
    likely = values.softmax(-1)
    return _kept(logits, likely.cumsum(0) - likely < p, order)


def _may_drop_all(logits, p):
    _, together, order = _sorted(logits, descending=False)
    return _kept(logits, together > 1 - p, order)


def _shares(logits, p):
    return keep_top_p(logits, p).softmax(-1)


def _shares_of_all(logits, p):
    return logits.softmax(-1).masked_fill(keep_top_p(logits, p) == LOW, 0.0)


TOP_P = {
    "the token that crosses the line is gone: without it the others have less than p together": (
        lambda x, p: _top_p(x, lambda likely, together: together <= p)
    ),
    "a token too many: those before it have exactly p together, which is enough (< for <=, or "
    "> for >=)": lambda x, p: _top_p(x, lambda likely, together: together - likely <= p),
    "nothing is left, and softmax over nothing is NaN: the likeliest token stays whatever p is": (
        _may_drop_all
    ),
    "these are probabilities: give back logits, with -inf where a token is dropped": _shares,
    "these are probabilities that no longer add up to 1: give back logits, with -inf where a "
    "token is dropped": _shares_of_all,
    "dropped tokens have the logit 0, and e to the 0 is 1: give them -inf": (
        lambda x, p: keep_top_p(x, p).masked_fill(keep_top_p(x, p) == LOW, 0.0)
    ),
    "the logits came back sorted: token i must stand at place i. Sort to decide, then scatter "
    "the decision back and mask the logits that you were given": _left_sorted,
    "the mask is in the order of the sorted tokens, the logits are not: mask.scatter(1, order, "
    "mask) puts it back": _without_scatter,
    "gather reads at `order`, scatter writes there: mask.scatter(1, order, mask) puts it back": (
        _gathered
    ),
    "the running sum is one of logits: softmax first": _of_logits,
    "the running sum goes over the vocabulary as it stands: sorted? From the likeliest down": (
        lambda x, p: _unsorted(x, lambda likely, together: together - likely < p)
    ),
    "the running sum goes over the vocabulary as it stands, and loses the token that crosses the "
    "line: sorted? From the likeliest down": (
        lambda x, p: _unsorted(x, lambda likely, together: together <= p)
    ),
    "the unlikeliest are kept: sort from the likeliest down, descending=True": _from_below,
    "the running sum goes down the batch: cumsum(-1), each row by itself": _over_the_rows,
    "each token by itself is held against p, which is min-p or nearly so: it is the sum of the "
    "likelier ones that counts": lambda x, p: x.masked_fill(x.softmax(-1) < p, LOW),
    "each token is held against p times the likeliest: that is min-p": keep_min_p,
    "what is kept and what is dropped are exchanged": (
        lambda x, p: x.masked_fill(keep_top_p(x, p) != LOW, LOW)
    ),
}


# -- the sampling loop ----------------------------------------------------------------------------


def filtered(logits, temperature, top_k, top_p, min_p):
    logits = logits / temperature
    return keep_min_p(keep_top_p(keep_top_k(logits, top_k), top_p), min_p)


def _drawn(logits, generator):
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def sampler(reshaped=filtered, choose=_drawn, read=lambda model, ids: model(ids)[:, -1]):
    """The loop, with one of its parts exchanged."""

    @torch.no_grad()
    def sample(model, ids, new, temperature, top_k, top_p, min_p, generator):
        for _ in range(new):
            logits = reshaped(read(model, ids), temperature, top_k, top_p, min_p)
            ids = torch.cat((ids, choose(logits, generator)), dim=1)
        return ids

    return sample


def _temperature_last(logits, temperature, top_k, top_p, min_p):
    return filtered(logits, 1.0, top_k, top_p, min_p) / temperature


def _min_p_first(logits, temperature, top_k, top_p, min_p):
    logits = keep_min_p(logits / temperature, min_p)
    return keep_top_p(keep_top_k(logits, top_k), top_p)


def _top_p_first(logits, temperature, top_k, top_p, min_p):
    logits = keep_top_p(logits / temperature, top_p)
    return keep_min_p(keep_top_k(logits, top_k), min_p)


def _of_probabilities(logits, temperature, *filters):
    return filtered((logits / temperature).softmax(-1), 1.0, *filters)


def _seeded_anew(logits, generator):
    return _drawn(logits, generator.manual_seed(0))


@torch.no_grad()
def _read_once(model, ids, new, temperature, top_k, top_p, min_p, generator):
    logits = filtered(model(ids)[:, -1], temperature, top_k, top_p, min_p)
    tokens = (_drawn(logits, generator) for _ in range(new))
    return torch.cat((ids, *tokens), dim=1)


PROBABILITIES = "the filters take logits, you gave probabilities: softmax comes after them"
RESEEDED = "the generator is seeded anew: it comes with its seed, each draw goes on from the last"
ONCE = "the model is run once: it has to read each new token before the next is drawn"

SAMPLE = {
    "the likeliest token each time: that is greedy. torch.multinomial draws": sampler(
        choose=lambda logits, generator: logits.argmax(-1, keepdim=True)
    ),
    "the temperature comes after the filters: divide the logits first": sampler(_temperature_last),
    "multiplied by the temperature: divide by it": sampler(
        lambda x, t, k, p, m: filtered(x, 1 / t, k, p, m)
    ),
    "the temperature is not used, or only after softmax. It has no effect there: multinomial "
    "normalises; divide the logits": sampler(lambda x, t, k, p, m: filtered(x, 1.0, k, p, m)),
    "top_k is not used": sampler(lambda x, t, k, p, m: filtered(x, t, None, p, m)),
    "top_p is not used": sampler(lambda x, t, k, p, m: filtered(x, t, k, None, m)),
    "min_p is not used": sampler(lambda x, t, k, p, m: filtered(x, t, k, p, None)),
    "no filter is used": sampler(lambda x, t, k, p, m: filtered(x, t, None, None, None)),
    "min_p comes first: top_k, then top_p, then min_p": sampler(_min_p_first),
    "top_p comes before top_k: top_k, then top_p, then min_p": sampler(_top_p_first),
    "the model is shown the last token only: without a cache it needs the whole text": sampler(
        read=lambda model, ids: model(ids[:, -1:])[:, -1]
    ),
    "the logits are those of the first place: the last place says what comes next, [:, -1]": (
        sampler(read=lambda model, ids: model(ids)[:, 0])
    ),
    PROBABILITIES: sampler(_of_probabilities),
    RESEEDED: sampler(choose=_seeded_anew),
    ONCE: _read_once,
}


# -- the cached loop ------------------------------------------------------------------------------


def cached_loop(first=None, later=None, room=None, rows=len, anew=None):
    """`write_cached` with one of its parts exchanged: what is fed at first and later, how long
    the cache is and for how many texts, what is done with it before each step."""
    first, later = first or (lambda ids: ids), later or (lambda ids: ids[:, -1:])

    @torch.no_grad()
    def write_cached(model, ids, new):
        length = room(ids, new) if room else ids.size(1) + new
        cache = model.new_cache(rows(ids), length)
        for step in range(new):
            cache = anew(model, cache) if anew else cache
            logits = model(later(ids) if step else first(ids), cache)[:, -1]
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
        return ids

    return write_cached


@torch.no_grad()
def without_a_cache(model, ids, new):
    for _ in range(new):
        logits = model(ids)[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids


@torch.no_grad()
def cache_in_prefill_only(model, ids, new):
    cache = model.new_cache(len(ids), ids.size(1) + new)
    logits = model(ids, cache)[:, -1]
    for _ in range(new):
        fresh = logits.argmax(-1, keepdim=True)
        ids = torch.cat((ids, fresh), dim=1)
        logits = model(fresh)[:, -1]
    return ids


@torch.no_grad()
def _last_of_the_prompt_twice(model, ids, new):
    cache = model.new_cache(len(ids), ids.size(1) + new)
    model(ids, cache)
    for _ in range(new):
        logits = model(ids[:, -1:], cache)[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids


@torch.no_grad()
def _length_by_hand(model, ids, new):
    cache = model.new_cache(len(ids), ids.size(1) + new)
    fresh = ids
    for _ in range(new):
        logits = model(fresh, cache)[:, -1]
        cache.length += fresh.size(1)
        fresh = logits.argmax(-1, keepdim=True)
        ids = torch.cat((ids, fresh), dim=1)
    return ids


def _emptied(model, cache):
    cache.reset()
    return cache


# What it says by what the model was given: see `say_how_it_fed`.
WRITE_CACHED = {
    "no pass was given the cache: model(ids, cache)": without_a_cache,
    "the first pass was given the cache, later ones were not: without it a token is read as if it "
    "began the text": cache_in_prefill_only,
    "the whole text is fed again, and lands behind itself in the cache: once the prompt is there, "
    "feed the new token only": cached_loop(later=lambda ids: ids, room=lambda ids, new: 500),
    "the cache is too short: it needs room for the prompt and all new tokens": cached_loop(
        room=lambda ids, new: new
    ),
    "the token just written is not fed: the cache ends before it": cached_loop(
        later=lambda ids: ids[:, -2:-1]
    ),
    "the prompt is not read as a whole: the first pass reads all of it": cached_loop(
        first=lambda ids: ids[:, -1:]
    ),
    "the cache is emptied at each step: what it holds is what the next token needs": cached_loop(
        anew=_emptied
    ),
    "the cache has room for one text, the batch has more: new_cache(len(ids), …)": cached_loop(
        rows=lambda ids: 1
    ),
    "a new cache in each step keeps nothing: make one, before the loop": cached_loop(
        later=lambda ids: ids, anew=lambda model, cache: model.new_cache(cache.k.size(1), 500)
    ),
    "the model moves `length` itself, behind what it has read: leave it alone": _length_by_hand,
    "the last token of the prompt is read twice: take the logits of the prefill for the first new "
    "token": _last_of_the_prompt_twice,
}
NO_CACHE, FIRST_ONLY, AGAIN, SHORT, UNFED, PART, EMPTIED, ONE_ROW, NEW, MOVED, TWICE = WRITE_CACHED


def say_how_it_fed(passes: list, chosen: list, want: Tensor, T: int, failed: Raised | None):
    """NotYet with the slip that the passes through the model show. Of each pass: the ids, the
    cache, how much it held (None without one); and, in `chosen`, the likeliest next tokens."""
    said, widths = str(failed), [fed.size(1) for fed, *_ in passes]
    held = [length for *_, length in passes]
    expect("this model and batch need" not in said, ONE_ROW)
    expect(bool(passes) or failed, "the model was not run")
    if not passes:
        return
    expect(set(held) != {None}, NO_CACHE)
    expect(widths[0] >= T, PART)
    expect(None not in held[1:], FIRST_ONLY)
    expect(len({id(cache) for _, cache, _ in passes}) == 1, NEW)
    expect(len(passes) < 2 or any(held[1:]), EMPTIED)
    expect(all(width == 1 for width in widths[1:]), AGAIN)
    expect(all(length <= sum(widths[:k]) for k, length in enumerate(held)), MOVED)
    expect("do not fit a cache" not in said, SHORT)
    fed = [ids[:, 0] for ids, *_ in passes[1:]]
    if len(fed) > 1 and torch.equal(fed[0], want[:, T - 1]):
        expect(not torch.equal(fed[1], chosen[1]), TWICE)  # and it goes on from what that said
    for step, token in enumerate(fed):
        expect(torch.equal(token, want[:, T + step]), UNFED)


# -- speculation ----------------------------------------------------------------------------------


def _accepted(p: Tensor, q: Tensor, otherwise: Tensor, ratio=None) -> tuple[Tensor, float]:
    """The distribution of what comes out, and how often a draft is kept."""
    kept = q * (p / q if ratio is None else ratio).clamp(max=1)
    rest = 1 - kept.sum()
    return kept + rest * otherwise / otherwise.sum(), kept.sum().item()


# of p and q: the distribution that the slip draws from, and how often it keeps a draft
SPECULATE = {
    "after a refusal it draws from p again: what the draft likes comes too often. From max(p − q, "
    "0)": lambda p, q: _accepted(p, q, p),
    "after a refusal it draws from q again: from max(p − q, 0)": lambda p, q: _accepted(p, q, q),
    "after a refusal it draws from |p − q|: only where p is larger something is missing, max(p − "
    "q, 0)": lambda p, q: _accepted(p, q, (p - q).abs()),
    "the ratio is upside down: a draft is kept with min(1, p/q)": (
        lambda p, q: _accepted(p, q, (p - q).clamp(min=0), q / p)
    ),
    "every draft is kept, so this draws from q": lambda p, q: (q, 1.0),
    "it draws from p itself and calls it a draft: the draft comes from q": lambda p, q: (p, 1.0),
}
