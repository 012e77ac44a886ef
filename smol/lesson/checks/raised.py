"""The slips of notebook 2 that raise, each with the question to ask the reader beside the error.

`question` makes each of them with what the reader's answer was given: that which raises the same
error is, most likely, the reader's. The error itself says which numbers do not fit, not why.
"""

import warnings

import torch
import torch.nn.functional as F

from smol.lesson.checks.slips_functions import halves, wide
from smol.lesson.checks.slips_modules import in_heads
from smol.model import apply_rope, eager_attention, rope_cos_sin


def _scores(q, k):
    return q @ k.transpose(-1, -2) * q.size(-1) ** -0.5


def _masked(q, k, size, kind=bool):
    mask = torch.ones(size, size).triu(1)
    return _scores(q, k).masked_fill(mask.bool() if kind is bool else mask, -torch.inf)


def _projected(a, x):
    B, T, _ = x.shape
    return a.q_proj(x).view(B, T, -1, a.head_dim)


def _attended(a, x, cos, sin):
    q, k, v = in_heads(a, x)
    return eager_attention(apply_rope(q, cos, sin), apply_rope(k, cos, sin), v)


RAISED = {
    "rms_norm": {
        "Is keepdim=True missing in mean(-1, keepdim=True)?": (
            lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1) + m.eps),
            lambda m, x: torch.rsqrt(x.pow(2).mean(-1) + m.eps) * x,
        ),
    },
    "apply_rope": {
        "The tables are hd wide, a half is hd/2 wide. Are the halves joined before they meet the "
        "tables, and along the last dimension, torch.cat((-b, a), dim=-1)?": (
            lambda x, cos, sin: halves(x)[0] * cos,
            lambda x, cos, sin: cos * halves(x)[0],
            lambda x, cos, sin: torch.cat(halves(x)) * sin,
            lambda x, cos, sin: sin * torch.cat(halves(x)),
        ),
    },
    "attention": {
        "Is the mask still 4 × 4, as in the example by hand? It is T × T": (
            lambda q, k, v: _masked(q, k, 4),
        ),
        "Is the mask hd × hd? It is T × T": (lambda q, k, v: _masked(q, k, q.size(1)),),
        "Is .T missing? The scores are q @ k.T": (lambda q, k, v: q @ k,),
        "Does `weights @ v` turn v round? It must not": (
            lambda q, k, v: _scores(q, k) @ v.T,
            lambda q, k, v: v @ _scores(q, k),
        ),
        "Is .bool() missing behind the mask?": (lambda q, k, v: _masked(q, k, q.size(0), float),),
        "hd is a number, no tensor: hd**0.5 is its root": (
            lambda q, k, v: torch.sqrt(q.size(-1)),
        ),
    },
    "grouped_attention": {
        "q has four dimensions: B, H, T, hd = q.shape": (lambda q, k, v: _unpacked(q),),
        "k and v have K heads, q has H: are both repeated, repeat_interleave(H // K, dim=1)?": (
            lambda q, k, v: q @ k.transpose(2, 3),
            lambda q, k, v: _scores(q, wide(k, q)) @ v,
        ),
        "Has repeat_interleave its dim=1? Without it makes one long row of all": (
            lambda q, k, v: k.repeat_interleave(3).transpose(2, 3),
            lambda q, k, v: k.repeat_interleave(3).transpose(-1, -2),
            lambda q, k, v: k.repeat_interleave(3).transpose(-2, -1),
            lambda q, k, v: _scores(q, wide(k, q)) @ v.repeat_interleave(q.size(1) // k.size(1)),
        ),
        "k.T turns all four dimensions round: is it k.transpose(2, 3)?": (
            lambda q, k, v: q @ wide(k, q).T,
            lambda q, k, v: q @ k.T,
        ),
        "Is the mask H × H? It is T × T, and T is q.size(2)": (
            lambda q, k, v: _masked(q, wide(k, q), q.size(1)),
        ),
        "Is the mask hd × hd? It is T × T, and T is q.size(2)": (
            lambda q, k, v: _masked(q, wide(k, q), q.size(3)),
        ),
        "Is k.transpose(2, 3) missing?": (lambda q, k, v: q @ wide(k, q),),
        "Is .bool() missing behind the mask?": (
            lambda q, k, v: _masked(q, wide(k, q), q.size(2), float),
        ),
        "hd is a number, no tensor: hd**0.5 is its root": (
            lambda q, k, v: torch.sqrt(q.size(-1)),
        ),
    },
    "attention_module": {
        "apply_rope wants (B, heads, T, hd): is transpose(1, 2) before it?": (
            lambda a, x, cos, sin: apply_rope(_projected(a, x), cos, sin),
            lambda a, x, cos, sin: apply_rope(
                a.k_proj(x).view(*x.shape[:2], -1, a.head_dim), cos, sin
            ),
        ),
        "Is x cut into heads before apply_rope, .view(B, T, -1, self.head_dim).transpose(1, 2)?": (
            lambda a, x, cos, sin: apply_rope(a.q_proj(x), cos, sin),
            lambda a, x, cos, sin: apply_rope(a.k_proj(x), cos, sin),
        ),
        "k and v have K heads, q has H: −1 finds the number, view(B, T, -1, self.head_dim)": (
            lambda a, x, cos, sin: a.k_proj(x).view(*_projected(a, x).shape),
        ),
        "Are the heads joined before o_proj, .transpose(1, 2).reshape(B, T, -1)?": (
            lambda a, x, cos, sin: a.o_proj(_attended(a, x, cos, sin)),
            lambda a, x, cos, sin: a.o_proj(_attended(a, x, cos, sin).transpose(1, 2)),
        ),
        "After transpose(1, 2) it takes reshape, not view": (
            lambda a, x, cos, sin: _attended(a, x, cos, sin).transpose(1, 2).view(x.shape),
            lambda a, x, cos, sin: (
                _attended(a, x, cos, sin).transpose(1, 2).view(*x.shape[:2], -1)
            ),
        ),
    },
    "mlp": {
        "Is `down_proj` called before the end? It leads back to D": (lambda m, x: m.down_proj(x),),
        "F.silu(x) takes what it works on": (lambda m, x: F.silu(),),
    },
    "model": {
        "Are there as many positions as tokens, torch.arange(ids.size(1))?": (
            lambda m, i: _with_positions(m, i, m.config.max_position_embeddings),
            lambda m, i: _with_positions(m, i, m.config.hidden_size),
        ),
        "Embedding comes first: x = self.embed_tokens(ids)": (
            lambda m, i: m.layers[0](i, *_tables(m, i.size(1))),
            lambda m, i: m.norm(i),
            lambda m, i: m.lm_head(i),
        ),
        "A ModuleList is no function: call each of its layers in turn": (
            lambda m, i: m.layers(m.embed_tokens(i), *_tables(m, i.size(1))),
        ),
    },
}


def _unpacked(q):
    T, hd = q.shape
    return T, hd


def _tables(m, T):
    return rope_cos_sin(torch.arange(T), m.config.head_dim, m.config.rope_theta)


def _with_positions(m, ids, T):
    return m.layers[0](m.embed_tokens(ids), *_tables(m, T))


def question(exercise: str, error: str, given: tuple) -> str:
    """What to ask of an answer that raised `error` when it was `given` that; "" if unknown."""
    for asks, slips in RAISED.get(exercise, {}).items():
        for slip in slips:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # k.T is deprecated
                try:
                    slip(*given)
                except Exception as own:
                    if f"{type(own).__name__}: {own}" == error:
                        return asks
    return ""
