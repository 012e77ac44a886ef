"""The slips of exercises 2.1 to 2.4: norm, rotation, one head, groups of heads. See slips.py."""

import torch
from torch import Tensor

from smol.model import eager_attention


def normed(x: Tensor, eps: float, mean=lambda square: square.mean(-1, keepdim=True)) -> Tensor:
    return x * torch.rsqrt(mean(x.pow(2)) + eps)


def neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on the pairs (0, 1), (2, 3), …, as the paper has them."""
    return rotated(x, cos, sin, evens_odds, in_turn)


def turned(x, cos, sin, first=-1.0, second=1.0):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((first * b, second * a), dim=-1) * sin


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.chunk(2, dim=-1)


def evens_odds(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., ::2], x[..., 1::2]


def side_by_side(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat((first, second), dim=-1)


def in_turn(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), dim=-1).flatten(-2)


def rotated(x, cos, sin, cut, join):
    """The rotation with half of each table: once for each pair."""
    (a, b), c, s = cut(x), halves(cos)[0], halves(sin)[0]
    return join(a * c - b * s, b * c + a * s)


def with_partners(x, cos, sin, cut, join):
    """The rotation with the tables as they are given."""
    a, b = cut(x)
    return x * cos + join(-b, a) * sin


def hidden(q: Tensor, k: Tensor, first: int = 1) -> Tensor:
    return torch.ones(q.size(-2), k.size(-2)).triu(first).bool()


def nothing(q: Tensor, k: Tensor) -> Tensor:
    return torch.zeros(q.size(-2), k.size(-2)).bool()


def zeroed(q: Tensor, k: Tensor) -> Tensor:
    """The scores, with 0 where −∞ belongs."""
    return (q @ k.transpose(-1, -2) / q.size(-1) ** 0.5).masked_fill(hidden(q, k), 0.0)


def after_softmax(q: Tensor, k: Tensor, value: float) -> Tensor:
    """The shares of all, then `value` for those that should have been hidden."""
    return shares(q, k, mask=nothing(q, k)).masked_fill(hidden(q, k), value)


def shares(q, k, scale=None, mask=None, dim=-1):
    scores = q @ k.transpose(-1, -2) * (q.size(-1) ** -0.5 if scale is None else scale)
    mask = hidden(q, k) if mask is None else mask
    return scores.masked_fill(mask, -torch.inf).softmax(dim)


def wide(k: Tensor, q: Tensor) -> Tensor:
    return k.repeat_interleave(q.size(1) // k.size(1), dim=1)


FUNCTIONS = {
    "rms_norm": {
        "the weight is missing: it multiplies the result, channel by channel": (
            lambda m, x: normed(x, m.eps)
        ),
        "divided by the mean square itself: its root is missing": (
            lambda m, x: m.weight * (x / (x.pow(2).mean(-1, keepdim=True) + m.eps))
        ),
        "one size for all tokens together: take the mean of each vector, mean(-1, keepdim=True)": (
            lambda m, x: m.weight * normed(x, m.eps, Tensor.mean)
        ),
        "divided by the length, the root of the *sum* of squares: take their mean": (
            lambda m, x: m.weight * normed(x, m.eps, lambda s: s.sum(-1, keepdim=True))
        ),
        "the mean is taken off first: that is LayerNorm": (
            lambda m, x: m.weight * normed(x - x.mean(-1, keepdim=True), m.eps)
        ),
        "multiplied by the root mean square: divide by it": (
            lambda m, x: m.weight * (x * torch.sqrt(x.pow(2).mean(-1, keepdim=True) + m.eps))
        ),
        "the mean over the tokens, mean(1): over the numbers of each vector, mean(-1)": (
            lambda m, x: m.weight * normed(x, m.eps, lambda s: s.mean(-2, keepdim=True))
        ),
        "first the mean, then its square: square first, x.pow(2).mean(…)": (
            lambda m, x: m.weight * (x * torch.rsqrt(x.mean(-1, keepdim=True).pow(2) + m.eps))
        ),
        "multiplied by 1 + weight: by the weight itself": (
            lambda m, x: (1 + m.weight) * normed(x, m.eps)
        ),
        "divided by the deviation, x.std(…), which takes the mean off first": (
            lambda m, x: m.weight * (x / x.std(-1, keepdim=True))
        ),
        "eps is missing: √(mean + eps)": lambda m, x: m.weight * normed(x, 0.0),
        "eps stands outside the root: it is added to the mean square": (
            lambda m, x: m.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + m.eps))
        ),
    },
    "apply_rope": {
        "neighbours are paired, (0, 1), (2, 3), …: here i goes with i + hd/2": neighbours,
        "each number's partner is its neighbour: here it stands hd/2 away, x.chunk(2, dim=-1)": (
            lambda x, cos, sin: with_partners(x, cos, sin, evens_odds, in_turn)
        ),
        "halves went in, neighbours came out: torch.cat joins halves, stack and flatten do not": (
            lambda x, cos, sin: rotated(x, cos, sin, halves, in_turn)
        ),
        "the partners come out as neighbours: torch.cat((-b, a), dim=-1), not stack": (
            lambda x, cos, sin: with_partners(x, cos, sin, halves, in_turn)
        ),
        "neighbours went in, halves came out: a, b = x.chunk(2, dim=-1)": (
            lambda x, cos, sin: rotated(x, cos, sin, evens_odds, side_by_side)
        ),
        "a and b are neighbours, joined as halves: a, b = x.chunk(2, dim=-1)": (
            lambda x, cos, sin: with_partners(x, cos, sin, evens_odds, side_by_side)
        ),
        "turned backwards: the minus belongs to b, (a cos − b sin, b cos + a sin)": (
            lambda x, cos, sin: turned(x, cos, sin, 1.0, -1.0)
        ),
        "no minus anywhere: (a cos − b sin, b cos + a sin)": (
            lambda x, cos, sin: turned(x, cos, sin, 1.0, 1.0)
        ),
        "each number meets its own sine: the sine multiplies its partner, (−b, a)": (
            lambda x, cos, sin: x * cos + side_by_side(-halves(x)[0], halves(x)[1]) * sin
        ),
        "cos and sin are exchanged": lambda x, cos, sin: turned(x, sin, cos),
        "the sine is lost: only x · cos is left": lambda x, cos, sin: x * cos,
    },
    "attention": {
        "the scores are not divided by √hd": lambda q, k, v: shares(q, k, 1.0) @ v,
        "the scores are divided by hd, not by its root": (
            lambda q, k, v: shares(q, k, 1 / q.size(-1)) @ v
        ),
        "divided by √2, which was √hd in the example by hand: here hd is q.size(-1)": (
            lambda q, k, v: shares(q, k, 2**-0.5) @ v
        ),
        "divided by √T: hd is the length of a query, T the number of tokens": (
            lambda q, k, v: shares(q, k, q.size(-2) ** -0.5) @ v
        ),
        "the scores are multiplied by √hd": lambda q, k, v: shares(q, k, q.size(-1) ** 0.5) @ v,
        "no mask: each token sees those after it": (
            lambda q, k, v: shares(q, k, mask=nothing(q, k)) @ v
        ),
        "the mask is on the wrong side: a token sees itself and those after it": (
            lambda q, k, v: shares(q, k, mask=hidden(q, k).T) @ v
        ),
        "the mask hides the token itself as well: triu(1), not triu(0)": (
            lambda q, k, v: shares(q, k, mask=hidden(q, k, 0)) @ v
        ),
        "the mask is one too far right, each token sees the next: triu(1), not triu(2)": (
            lambda q, k, v: shares(q, k, mask=hidden(q, k, 2)) @ v
        ),
        "softmax over the queries: over the keys, dim=-1, so that each row adds up to 1": (
            lambda q, k, v: shares(q, k, dim=-2) @ v
        ),
        "the scores are k @ q.T: a row belongs to a query, q @ k.T": (
            lambda q, k, v: shares(k, q) @ v
        ),
        "the shares are turned round, weights.T @ v: row i are the shares of query i": (
            lambda q, k, v: shares(q, k).transpose(-1, -2) @ v
        ),
        "the keys are mixed: weights @ v, not weights @ k": lambda q, k, v: shares(q, k) @ k,
        "k and v are exchanged: scores come from q and k": lambda q, k, v: shares(q, v) @ k,
        "masked after softmax: the shares of a row no longer add up to 1": (
            lambda q, k, v: after_softmax(q, k, 0.0) @ v
        ),
        "NaN: −∞ is put in after softmax: before it, e to the power of −∞ is 0": (
            lambda q, k, v: after_softmax(q, k, -torch.inf) @ v
        ),
        "0 in place of −∞ before softmax: what is hidden still gets e⁰ = 1": (
            lambda q, k, v: zeroed(q, k).softmax(-1) @ v
        ),
        "no softmax: scores are no shares": lambda q, k, v: zeroed(q, k) @ v,
        "no softmax, and no mask": lambda q, k, v: q @ k.transpose(-1, -2) @ v / q.size(-1) ** 0.5,
    },
    "grouped_attention": {
        "`repeat` puts the kv heads in the order 0 1 2 0 1 2 …: query head h reads kv head "
        "h // group": (
            lambda q, k, v: eager_attention(
                q, *(t.repeat(1, q.size(1) // t.size(1), 1, 1) for t in (k, v))
            )
        ),
        "all query heads read kv head 0": (lambda q, k, v: eager_attention(q, k[:, :1], v[:, :1])),
        "the keys are shared out rightly, the values by `repeat`": (
            lambda q, k, v: eager_attention(
                q, wide(k, q), v.repeat(1, q.size(1) // v.size(1), 1, 1)
            )
        ),
        "no mask: each token sees those after it": (
            lambda q, k, v: shares(q, wide(k, q), mask=nothing(q, k)) @ wide(v, q)
        ),
        "the scores are not divided by √hd": (
            lambda q, k, v: shares(q, wide(k, q), 1.0) @ wide(v, q)
        ),
        "the scores are divided by hd, not by its root": (
            lambda q, k, v: shares(q, wide(k, q), 1 / q.size(-1)) @ wide(v, q)
        ),
        "divided by √H: hd is the length of a query, q.size(3), H the number of heads": (
            lambda q, k, v: shares(q, wide(k, q), q.size(1) ** -0.5) @ wide(v, q)
        ),
        "divided by √T: hd is the length of a query, q.size(3), T the number of tokens": (
            lambda q, k, v: shares(q, wide(k, q), q.size(2) ** -0.5) @ wide(v, q)
        ),
        "softmax over the queries: over the keys, dim=-1": (
            lambda q, k, v: shares(q, wide(k, q), dim=-2) @ wide(v, q)
        ),
        "NaN: softmax over the heads, where all are masked: over the keys, dim=-1": (
            lambda q, k, v: shares(q, wide(k, q), dim=1) @ wide(v, q)
        ),
        "NaN: −∞ is put in after softmax: before it, e to the power of −∞ is 0": (
            lambda q, k, v: after_softmax(q, wide(k, q), -torch.inf) @ wide(v, q)
        ),
        "masked after softmax: the shares of a row no longer add up to 1": (
            lambda q, k, v: after_softmax(q, wide(k, q), 0.0) @ wide(v, q)
        ),
        "the mask is on the wrong side: a token sees itself and those after it": (
            lambda q, k, v: shares(q, wide(k, q), mask=hidden(q, k).T) @ wide(v, q)
        ),
        "the mask hides the token itself as well: triu(1), not triu(0)": (
            lambda q, k, v: shares(q, wide(k, q), mask=hidden(q, k, 0)) @ wide(v, q)
        ),
        "the mask is one too far right, each token sees the next: triu(1), not triu(2)": (
            lambda q, k, v: shares(q, wide(k, q), mask=hidden(q, k, 2)) @ wide(v, q)
        ),
        "k and v are exchanged: scores come from q and k": (
            lambda q, k, v: shares(q, wide(v, q)) @ wide(k, q)
        ),
        "the keys are mixed: weights @ v, not weights @ k": (
            lambda q, k, v: shares(q, wide(k, q)) @ wide(k, q)
        ),
    },
}
