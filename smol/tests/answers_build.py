"""Answers to the exercises of notebook 2 that are no slips: right ones, in many styles, and ones
that are right in part. test_build.py says what must be said of them."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from smol import model
from smol.lesson.checks.slips_functions import (
    halves,
    hidden,
    normed,
    rotated,
    shares,
    side_by_side,
    turned,
)
from smol.lesson.checks.slips_modules import logits


def attention(q, k, v):
    return shares(q, k) @ v


def divided(module, x):
    return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight


ROUNDED_OTHERWISE = [
    ("rms_norm", divided, "Theirs multiplies by torch.rsqrt(…), the weight last."),
    (
        "grouped_attention",
        model.sdpa_attention,
        "Theirs: scores, scale, mask, softmax, mix, each by itself; a fused kernel adds in "
        "another order.",
    ),
    (
        "mlp",
        lambda m, x: m.down_proj(m.gate_proj(x) * m.gate_proj(x).sigmoid() * m.up_proj(x)),
        "Theirs calls F.silu.",
    ),
]


def _in_heads(y, *sizes):
    return y.view(sizes).transpose(1, 2)


def _sizes_written_out(a, x, cos, sin):
    q, k, v = (
        _in_heads(proj(x), 1, 16, heads, 8)
        for proj, heads in ((a.q_proj, 6), (a.k_proj, 2), (a.v_proj, 2))
    )
    q, k = model.apply_rope(q, cos, sin), model.apply_rope(k, cos, sin)
    return a.o_proj(model.eager_attention(q, k, v).transpose(1, 2).reshape(1, 16, 48))


FIXED = [  # to the sizes of the small reference and of the text
    ("rms_norm", lambda m, x: m.weight * normed(x, 1e-5)),
    ("rms_norm", lambda m, x: m.weight * normed(x, m.eps, lambda s: s.sum(-1)[..., None] / 48)),
    ("apply_rope", lambda x, cos, sin: x * cos + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin),
    ("attention", lambda q, k, v: shares(q, k, 8**-0.5) @ v),
    ("attention", lambda q, k, v: shares(q, k, mask=torch.ones(16, 16).triu(1).bool()) @ v),
    (
        "grouped_attention",
        lambda q, k, v: model.eager_attention(q, *(t.repeat_interleave(3, 1) for t in (k, v))),
    ),
    ("attention_module", _sizes_written_out),
    ("model", lambda m, ids: logits(m, ids, at=lambda _: torch.arange(16))),
    ("model", lambda m, ids: logits(m, ids, theta=100_000.0)),
]


LOOKED_AT = [
    (
        "attention",
        lambda q, k, v: shares(q, k, 0.2) @ v,
        "is right, later ones are not: look at sc",
    ),
    ("attention", lambda q, k, v: 2 * shares(q, k) @ v, "all tokens are wrong, the first too"),
    (
        "attention",
        lambda q, k, v: torch.full_like(q, torch.nan),
        "NaN in it: a row without any key",
    ),
    (
        "attention",
        lambda q, k, v: shares(q, k, mask=hidden(q, k, 3)) @ v,
        "the last token, which sees all, is right, earlier ones are not: look at the mask",
    ),
    (
        "grouped_attention",
        lambda q, k, v: model.eager_attention(q, *(t[:, [0, 0, 0, 1, 1, 0]] for t in (k, v))),
        "heads [0, 1, 2, 3, 4] are right, the others are not: which kv head",
    ),
    ("apply_rope", lambda x, c, s: turned(x, c, 2 * s), "which is not turned, is right, later"),
    ("block", lambda b, *args: 1.01 * model.Block.forward(b, *args), "norms, additions"),
    ("mlp", lambda m, x: 2 * model.MLP.forward(m, x), "0 % right, largest difference"),
]


def _by_hand(q, k, v):
    """One head, in other words: einsum, tril, where."""
    scores = torch.einsum("td,sd->ts", q, k) / math.sqrt(q.shape[-1])
    seen = torch.tril(torch.ones(len(q), len(q))) == 1
    return F.softmax(torch.where(seen, scores, -1e9), dim=-1) @ v


def _head_by_head(q, k, v):
    B, H, group = q.size(0), q.size(1), q.size(1) // k.size(1)
    heads = [
        _by_hand(q[b, h], k[b, h // group], v[b, h // group]) for b in range(B) for h in range(H)
    ]
    return torch.stack(heads).view(q.shape)


def _in_groups(q, k, v):
    T = q.size(2)
    q = q.unflatten(1, (k.size(1), -1))  # (B, K, group, T, hd)
    scores = q @ k[:, :, None].transpose(-1, -2) / math.sqrt(q.size(-1))
    scores = scores + torch.full((T, T), -torch.inf).triu(1)
    return (scores.softmax(-1) @ v[:, :, None]).flatten(1, 2)


def _permuted(a, x, cos, sin):
    projections = (a.q_proj, a.k_proj, a.v_proj)
    q, k, v = (p(x).unflatten(-1, (-1, a.head_dim)).permute(0, 2, 1, 3) for p in projections)
    q, k = model.apply_rope(q, cos, sin), model.apply_rope(k, cos, sin)
    return a.o_proj(model.eager_attention(q, k, v).permute(0, 2, 1, 3).flatten(2))


OTHER_STYLES = [
    ("rms_norm", lambda m, x: F.rms_norm(x, m.weight.shape, m.weight, m.eps)),
    ("apply_rope", lambda x, cos, sin: rotated(x, cos, sin, halves, side_by_side)),
    ("attention", _by_hand),
    ("grouped_attention", _head_by_head),
    ("grouped_attention", _in_groups),
    ("attention_module", _permuted),
    ("mlp", lambda m, x: m.down_proj(m.up_proj(x) * nn.SiLU()(m.gate_proj(x)))),
    ("model", lambda m, ids: logits(m, ids)),
]


def _added(block, x, cos, sin):
    x += block.self_attn(block.input_layernorm(x), cos, sin)
    x += block.mlp(block.post_attention_layernorm(x))
    return x


def _scaled(module, x):
    x *= torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.eps)
    return module.weight * x


def _turned(x, cos, sin):
    partner = torch.cat((-x.chunk(2, dim=-1)[1], x.chunk(2, dim=-1)[0]), dim=-1)
    x *= cos
    return x.add_(partner * sin)


def _halved(attend):
    def answer(q, k, v):
        k /= 2
        return attend(2 * q, k, v)

    return answer


def _centred(x, *others):
    x -= x.mean(-1, keepdim=True)
    return x


IN_PLACE = [
    ("rms_norm", _scaled, "x"),
    ("apply_rope", _turned, "x"),
    ("attention", _halved(attention), "k"),
    ("grouped_attention", _halved(model.eager_attention), "k"),
    ("block", _added, "x"),
    ("layer_norm", _centred, "x"),
    ("rope_complex", _centred, "x"),
]
