"""The classic wrong answers to the exercises of notebook 2, each with the sentence that names it.

A slip of a function takes what the function takes; one of a module takes the module (with its
weights) first, as a method would. smol/lesson/checks/build.py computes them beside the reader's
answer; the tests hand each of them in as an answer, and read the sentence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.model import apply_rope, eager_attention, rope_cos_sin


def normed(x: Tensor, eps: float, mean=lambda square: square.mean(-1, keepdim=True)) -> Tensor:
    return x * torch.rsqrt(mean(x.pow(2)) + eps)


def neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on the pairs (0, 1), (2, 3), …, as the paper has them."""
    a, b = x[..., ::2], x[..., 1::2]
    c, s = (t.chunk(2, dim=-1)[0] for t in (cos, sin))
    return torch.stack((a * c - b * s, b * c + a * s), dim=-1).flatten(-2)


def turned(x, cos, sin, first=-1.0, second=1.0):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((first * b, second * a), dim=-1) * sin


def hidden(q: Tensor, k: Tensor) -> Tensor:
    return torch.ones(q.size(-2), k.size(-2)).triu(1).bool()


def shares(q, k, scale=None, mask=None, dim=-1):
    scores = q @ k.transpose(-1, -2) * (q.size(-1) ** -0.5 if scale is None else scale)
    mask = hidden(q, k) if mask is None else mask
    return scores.masked_fill(mask, -torch.inf).softmax(dim)


def wide(k: Tensor, q: Tensor) -> Tensor:
    return k.repeat_interleave(q.size(1) // k.size(1), dim=1)


def in_heads(a, x: Tensor, how="split") -> list[Tensor]:
    B, T, _ = x.shape
    out = []
    for proj in (a.q_proj, a.k_proj, a.v_proj):
        y = proj(x)
        heads = y.size(-1) // a.head_dim
        if how == "reshaped":
            out.append(y.reshape(B, heads, T, a.head_dim))
        else:
            out.append(y.view(B, T, heads, a.head_dim).transpose(1, 2))
    return out


def joined(y: Tensor, how="transposed") -> Tensor:
    B, H, T, hd = y.shape
    y = y if how == "as it is" else y.transpose(1, 2)
    return y.reshape(B, T, H * hd)


def attended(a, x, cos, sin, on="qk", split="split", join="transposed", out=True):
    q, k, v = in_heads(a, x, split)
    q, k, v = (
        apply_rope(t, cos, sin) if n in on else t for t, n in zip((q, k, v), "qkv", strict=True)
    )
    y = joined(eager_attention(q, k, v), join)
    return a.o_proj(y) if out else y


def mlp(m, x, act=F.silu, gate="gate_proj", up="up_proj"):
    return m.down_proj(act(getattr(m, gate)(x)) * getattr(m, up)(x))


def logits(m, ids, layers=None, scale=1.0, norm=True, head=True):
    c = m.config
    x = m.embed_tokens(ids) * scale
    cos, sin = rope_cos_sin(torch.arange(ids.size(1)), c.head_dim, c.rope_theta)
    for layer in m.layers if layers is None else layers(m):
        x = layer(x, cos, sin)
    x = m.norm(x) if norm else x
    return m.lm_head(x) if head else x


def _attended(block, x, cos, sin):
    return block.self_attn(block.input_layernorm(x), cos, sin)


def _mlp_of(block, x):
    return block.mlp(block.post_attention_layernorm(x))


def _norms_exchanged(b, x, cos, sin):
    x = x + b.self_attn(b.post_attention_layernorm(x), cos, sin)
    return x + b.mlp(b.input_layernorm(x))


def _one_norm_twice(b, x, cos, sin):
    x = x + _attended(b, x, cos, sin)
    return x + b.mlp(b.input_layernorm(x))


def _normalised_stream(b, x, cos, sin):
    x = b.input_layernorm(x)
    x = x + b.self_attn(x, cos, sin)
    x = b.post_attention_layernorm(x)
    return x + b.mlp(x)


def _mlp_first(b, x, cos, sin):
    x = x + _mlp_of(b, x)
    return x + _attended(b, x, cos, sin)


def _complex(x, positions, theta, pairs="halves"):
    half = x.size(-1) // 2
    angles = positions.float()[:, None] * theta ** (-torch.arange(half).float() / half)
    a, b = (x[..., ::2], x[..., 1::2]) if pairs == "neighbours" else x.chunk(2, dim=-1)
    y = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)
    if pairs == "neighbours":
        return torch.stack((y.real, y.imag), dim=-1).flatten(-2)
    return torch.cat((y.real, y.imag), dim=-1)


def _window(T: int, window: int) -> Tensor:
    return torch.ones(T, T).tril().triu(1 - window).bool()


MISTAKES = {
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
        "eps stands outside the root: it is added to the mean square": (
            lambda m, x: m.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + m.eps))
        ),
    },
    "apply_rope": {
        "neighbours are paired, (0, 1), (2, 3), …: here i goes with i + hd/2": neighbours,
        "turned backwards: the minus belongs to b, (a cos − b sin, b cos + a sin)": (
            lambda x, cos, sin: turned(x, cos, sin, 1.0, -1.0)
        ),
        "no minus anywhere: (a cos − b sin, b cos + a sin)": (
            lambda x, cos, sin: turned(x, cos, sin, 1.0, 1.0)
        ),
        "each number meets its own sine: the sine multiplies its partner, (−b, a)": (
            lambda x, cos, sin: (
                x * cos + torch.cat((-x.chunk(2, -1)[0], x.chunk(2, -1)[1]), -1) * sin
            )
        ),
        "cos and sin are exchanged": lambda x, cos, sin: turned(x, sin, cos),
        "the sine is lost: only x · cos is left": lambda x, cos, sin: x * cos,
    },
    "attention": {
        "the scores are not divided by √hd": lambda q, k, v: shares(q, k, 1.0) @ v,
        "the scores are divided by hd, not by its root": (
            lambda q, k, v: shares(q, k, 1 / q.size(-1)) @ v
        ),
        "no mask: each token sees those after it": (
            lambda q, k, v: shares(q, k, mask=torch.zeros_like(hidden(q, k))) @ v
        ),
        "the mask is on the wrong side: a token sees itself and those after it": (
            lambda q, k, v: shares(q, k, mask=hidden(q, k).T) @ v
        ),
        "the mask hides the token itself as well: triu(1), not triu(0)": (
            lambda q, k, v: shares(q, k, mask=torch.ones_like(hidden(q, k)).triu()) @ v
        ),
        "softmax over the queries: over the keys, dim=-1, so that each row adds up to 1": (
            lambda q, k, v: shares(q, k, dim=-2) @ v
        ),
        "masked after softmax: the shares of a row no longer add up to 1": (
            lambda q, k, v: (
                shares(q, k, mask=torch.zeros_like(hidden(q, k))).masked_fill(hidden(q, k), 0.0)
                @ v
            )
        ),
        "0 in place of −∞ before softmax: what is hidden still gets e⁰ = 1": (
            lambda q, k, v: (
                (
                    (q @ k.transpose(-1, -2) / q.size(-1) ** 0.5).masked_fill(hidden(q, k), 0.0)
                ).softmax(-1)
                @ v
            )
        ),
        "no softmax: scores are no shares": (
            lambda q, k, v: (
                (q @ k.transpose(-1, -2) / q.size(-1) ** 0.5).masked_fill(hidden(q, k), 0.0) @ v
            )
        ),
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
            lambda q, k, v: (
                shares(q, wide(k, q), mask=torch.zeros(q.size(2), q.size(2)).bool()) @ wide(v, q)
            )
        ),
        "the scores are not divided by √hd": (
            lambda q, k, v: shares(q, wide(k, q), 1.0) @ wide(v, q)
        ),
        "softmax over the queries: over the keys, dim=-1": (
            lambda q, k, v: shares(q, wide(k, q), dim=-2) @ wide(v, q)
        ),
    },
    "attention_module": {
        "o_proj is never called": lambda a, x, cos, sin: attended(a, x, cos, sin, out=False),
        "q and k are not turned: position gets in nowhere": (
            lambda a, x, cos, sin: attended(a, x, cos, sin, on="")
        ),
        "only q is turned: k must be, too": (
            lambda a, x, cos, sin: attended(a, x, cos, sin, on="q")
        ),
        "v is turned as well: positions decide who is read, not what is read": (
            lambda a, x, cos, sin: attended(a, x, cos, sin, on="qkv")
        ),
        "cut into heads by view(B, heads, T, hd): that mixes tokens; view(B, T, heads, hd), "
        "then transpose(1, 2)": lambda a, x, cos, sin: attended(a, x, cos, sin, split="reshaped"),
        "joined without transpose(1, 2): that mixes tokens": (
            lambda a, x, cos, sin: attended(a, x, cos, sin, join="as it is")
        ),
    },
    "mlp": {
        "silu sits on `up`: it belongs on `gate`": (
            lambda m, x: mlp(m, x, gate="up_proj", up="gate_proj")
        ),
        "sigmoid in place of silu: silu(z) = z · σ(z)": lambda m, x: mlp(m, x, torch.sigmoid),
        "no silu": lambda m, x: mlp(m, x, lambda z: z),
        "`up` is missing: silu(gate) multiplies up": (
            lambda m, x: m.down_proj(F.silu(m.gate_proj(x)))
        ),
        "`gate` is missing: silu(gate) multiplies up": (
            lambda m, x: m.down_proj(F.silu(m.up_proj(x)))
        ),
        "silu is applied to the product: it belongs on `gate` alone": (
            lambda m, x: m.down_proj(F.silu(m.gate_proj(x) * m.up_proj(x)))
        ),
        "gate and up are added: they are multiplied": (
            lambda m, x: m.down_proj(F.silu(m.gate_proj(x)) + m.up_proj(x))
        ),
        "gelu in place of silu": lambda m, x: mlp(m, x, F.gelu),
        "relu in place of silu": lambda m, x: mlp(m, x, F.relu),
    },
    "block": {
        "the stream is replaced, not added to": (
            lambda b, x, cos, sin: _mlp_of(b, _attended(b, x, cos, sin))
        ),
        "the MLP's output replaces the stream: add it": (
            lambda b, x, cos, sin: _mlp_of(b, x + _attended(b, x, cos, sin))
        ),
        "the MLP reads the stream as it was before attention": (
            lambda b, x, cos, sin: x + _attended(b, x, cos, sin) + _mlp_of(b, x)
        ),
        "the two norms are exchanged": _norms_exchanged,
        "input_layernorm is used twice: the MLP has a norm of its own": _one_norm_twice,
        "the stream itself is normalised: each half reads a normalised copy": _normalised_stream,
        "the norms are missing": lambda b, x, cos, sin: (lambda y: y + b.mlp(y))(
            x + b.self_attn(x, cos, sin)
        ),
        "attention is missing": lambda b, x, cos, sin: x + _mlp_of(b, x),
        "the MLP is missing": lambda b, x, cos, sin: x + _attended(b, x, cos, sin),
        "the MLP comes before attention": _mlp_first,
    },
    "model": {
        "the last norm is missing: the head reads norm(x)": lambda m, i: logits(m, i, norm=False),
        "one layer does the work of all: call each in turn": (
            lambda m, i: logits(m, i, lambda m: [m.layers[0]] * len(m.layers))
        ),
        "the last layer is left out": lambda m, i: logits(m, i, lambda m: m.layers[:-1]),
        "the embedding is multiplied by √D: this model does not do that": (
            lambda m, i: logits(m, i, scale=m.config.hidden_size**0.5)
        ),
        "the layers run in reverse order": (
            lambda m, i: logits(m, i, lambda m: reversed(m.layers))
        ),
        "the logits of the last token only: every place has a prediction": (
            lambda m, i: logits(m, i)[:, -1]
        ),
        "the head is missing: that is what it reads": (lambda m, i: logits(m, i, head=False)),
    },
    "layer_norm": {
        "the mean was not taken off": lambda x, w: w * normed(x, 1e-5),
        "the deviation divides by D − 1: unbiased=False divides by D": (
            lambda x, w: (
                w * (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5)
            )
        ),
        "the weight is missing": lambda x, w: F.layer_norm(x, (x.size(-1),)),
        "divided by the variance: its root is missing": (
            lambda x, w: (
                w
                * (x - x.mean(-1, keepdim=True))
                / (x.var(-1, keepdim=True, unbiased=False) + 1e-5)
            )
        ),
    },
    "rope_complex": {
        "neighbours are paired: here i goes with i + hd/2": (
            lambda x, p, theta: _complex(x, p, theta, pairs="neighbours")
        ),
        "turned backwards: the angle is +position · speed": (
            lambda x, p, theta: _complex(x, -p, theta)
        ),
        "only the real part came back: the second half is .imag": (
            lambda x, p, theta: torch.cat((_complex(x, p, theta).chunk(2, -1)[0],) * 2, -1)
        ),
    },
    "sliding_mask": {
        "one key too many: the window counts the query itself": (
            lambda T, window: _window(T, window + 1)
        ),
        "one key too few: the window counts the query itself": (
            lambda T, window: _window(T, window - 1)
        ),
        "the future is in sight: no key after the query": (
            lambda T, window: torch.ones(T, T).triu(1 - window).bool()
        ),
        'True and False are exchanged: True means "may look"': (
            lambda T, window: ~_window(T, window)
        ),
    },
    "to_interleaved": {
        "nothing was reordered": lambda w, heads: w,
        "this is the way back, from neighbours to halves: the other permutation": (
            lambda w, heads: w.view(heads, -1, 2, w.size(1)).transpose(1, 2).reshape(w.shape)
        ),
        "reordered over the whole matrix: each head has pairs of its own": (
            lambda w, heads: w.view(2, -1, w.size(1)).transpose(0, 1).reshape(w.shape)
        ),
    },
}
