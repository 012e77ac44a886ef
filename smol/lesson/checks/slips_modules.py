"""The slips of exercises 2.5 to 2.8: attention, MLP, block, model. See slips.py."""

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.model import apply_rope, eager_attention, rope_cos_sin


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


def attended(a, x, cos, sin, on="qk", split="split", join="transposed", out=True, order="qkv"):
    found = dict(zip("qkv", in_heads(a, x, split), strict=True))
    q, k, v = (found[name] for name in order)
    q, k, v = (
        apply_rope(t, cos, sin) if n in on else t for t, n in zip((q, k, v), "qkv", strict=True)
    )
    y = joined(eager_attention(q, k, v), join)
    return a.o_proj(y) if out else y


def _swapped_in_attend(a, x, cos, sin):
    q, k, v = in_heads(a, x)
    return a.o_proj(joined(eager_attention(apply_rope(q, cos, sin), v, apply_rope(k, cos, sin))))


def mlp(m, x, act=F.silu, gate="gate_proj", up="up_proj"):
    return m.down_proj(act(getattr(m, gate)(x)) * getattr(m, up)(x))


def logits(
    m, ids, layers=None, scale=1.0, norm=True, head=True, theta=None, at=torch.arange, once=True
):
    c = m.config
    x = m.embed_tokens(ids) * scale
    at = at(ids.size(1))
    cos, sin = rope_cos_sin(at, c.head_dim, c.rope_theta if theta is None else theta)
    for layer in m.layers if layers is None else layers(m):
        x = layer(x, cos, sin) if once else x + layer(x, cos, sin)
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


def _norms_last(b, x, cos, sin):
    x = b.input_layernorm(x + b.self_attn(x, cos, sin))
    return b.post_attention_layernorm(x + b.mlp(x))


def _mlp_first(b, x, cos, sin):
    x = x + _mlp_of(b, x)
    return x + _attended(b, x, cos, sin)


MODULES = {
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
        "cut into heads and joined again without transpose(1, 2): both mix tokens": (
            lambda a, x, cos, sin: attended(a, x, cos, sin, split="reshaped", join="as it is")
        ),
        "k and v are exchanged: attend(q, k, v)": _swapped_in_attend,
        "v_proj makes the keys here, and k_proj the values: the other way round": (
            lambda a, x, cos, sin: attended(a, x, cos, sin, order="qvk")
        ),
        "cos and sin are exchanged": lambda a, x, cos, sin: attended(a, x, sin, cos),
        "x is added here as well: the block does that, outside": (
            lambda a, x, cos, sin: x + attended(a, x, cos, sin)
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
        "silu is applied to x, first: it belongs on `gate`, gate_proj(x)": (
            lambda m, x: m.down_proj(m.gate_proj(F.silu(x)) * m.up_proj(x))
        ),
        "silu is applied to x, for both: it belongs on `gate` alone, gate_proj(x)": (
            lambda m, x: mlp(m, F.silu(x), lambda z: z)
        ),
        "silu is applied to `gate` and to `up`: it belongs on `gate` alone": (
            lambda m, x: m.down_proj(F.silu(m.gate_proj(x)) * F.silu(m.up_proj(x)))
        ),
        "x is added here as well: the block does that, outside": lambda m, x: x + mlp(m, x),
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
        "attention's output replaces the stream: add it": (
            lambda b, x, cos, sin: (lambda y: y + _mlp_of(b, y))(_attended(b, x, cos, sin))
        ),
        "the MLP's output is added to the old x: add it to the stream after attention": (
            lambda b, x, cos, sin: x + _mlp_of(b, x + _attended(b, x, cos, sin))
        ),
        "the MLP reads the stream as it was before attention": (
            lambda b, x, cos, sin: x + _attended(b, x, cos, sin) + _mlp_of(b, x)
        ),
        "the two norms are exchanged": _norms_exchanged,
        "input_layernorm is used twice: the MLP has a norm of its own": _one_norm_twice,
        "the stream itself is normalised: each half reads a normalised copy": _normalised_stream,
        "attention's output is added to the normalised copy: add it to the stream": (
            lambda b, x, cos, sin: (lambda y: y + _mlp_of(b, y))(
                b.input_layernorm(x) + _attended(b, x, cos, sin)
            )
        ),
        "the MLP's output is added to the normalised copy: add it to the stream": (
            lambda b, x, cos, sin: (lambda h: h + b.mlp(h))(
                b.post_attention_layernorm(x + _attended(b, x, cos, sin))
            )
        ),
        "normalised after each addition, as in 2017: here each half reads a normalised copy": (
            _norms_last
        ),
        "attention reads the stream itself: input_layernorm is missing": (
            lambda b, x, cos, sin: (lambda y: y + _mlp_of(b, y))(x + b.self_attn(x, cos, sin))
        ),
        "the MLP reads the stream itself: post_attention_layernorm is missing": (
            lambda b, x, cos, sin: (lambda y: y + b.mlp(y))(x + _attended(b, x, cos, sin))
        ),
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
        "the first layer is left out": lambda m, i: logits(m, i, lambda m: m.layers[1:]),
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
        "each layer's output is added to the stream: a block adds by itself": (
            lambda m, i: logits(m, i, once=False)
        ),
        "no layer does anything: x = layer(x, cos, sin)": lambda m, i: logits(m, i, lambda m: []),
        "only the last layer does anything, each reads the embedding: x = layer(x, cos, sin)": (
            lambda m, i: logits(m, i, lambda m: m.layers[-1:])
        ),
        "θ is 10,000: it stands in the config, c.rope_theta": (
            lambda m, i: logits(m, i, theta=10_000.0)
        ),
        "positions begin with 0, not with 1: RoPE feels distances only, so little shows": (
            lambda m, i: logits(m, i, at=lambda T: torch.arange(1, T + 1))
        ),
        "the ids are taken for positions: those are 0 to T − 1, torch.arange(ids.size(1))": (
            lambda m, i: logits(m, i, at=lambda T: i)
        ),
        "every token stands at position 0: torch.arange(ids.size(1)), one for each token": (
            lambda m, i: logits(m, i, at=lambda T: torch.arange(1))
        ),
        "softmax at the end: logits are wanted, scores as the head makes them": (
            lambda m, i: logits(m, i).softmax(-1)
        ),
        "log_softmax at the end: logits are wanted, scores as the head makes them": (
            lambda m, i: logits(m, i).log_softmax(-1)
        ),
    },
}
