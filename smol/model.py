"""SmolLM2 in one file: the Llama architecture, small enough to read in one sitting.

A token id picks a row of the embedding table. Thirty blocks each add two things to that vector:
what attention gathers from earlier tokens, and what the MLP makes of the token by itself. The
final vector, compared with every row of the same table, gives the logits of the next token.

Shape legend, used in every comment of the package:
    B  batch          D  hidden_size           hd  head_dim = D / H
    T  time (tokens)  H  num_attention_heads   F   intermediate_size
    S  keys seen      K  num_key_value_heads   V   vocab_size

Module names are Hugging Face's without the leading "model.", so a checkpoint's keys are a map of
this file. The arithmetic is theirs too, cast by cast: see smol/parity for the proof.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.checks import whole
from smol.config import SmolLM2Config


class RMSNorm(nn.Module):
    """Each vector of `x` (…, D) divided by its root mean square, times a weight per channel.

    The arithmetic is fp32 whatever comes in, and the result is cast back before the weight is
    applied: both matter in bf16. (Zhang & Sennrich 2019, eq. 4; Llama's order of casts.)
    """

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)


def rope_cos_sin(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (…, T, hd) fp32, of every pair's angle at every position (…, T).

    Pair i turns by theta^(-2i/hd) radians per token: the first pair once in 2π tokens, the last
    hardly at all. Each angle stands twice, for both members of its pair: i and i + hd/2.
    (Su et al. 2021, eq. 15.)
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions.float()[..., None] * (1.0 / theta**exponents)  # (…, T, hd/2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` (B, heads, T, hd) with each pair (x[i], x[i + hd/2]) rotated by its angle.

    (a, b) becomes (a cos - b sin, b cos + a sin). Half-split, as Llama's checkpoints want it; the
    paper pairs neighbours (x[2i], x[2i + 1]).
    """
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √hd) v, written out. q (B, H, T, hd), k and v (B, K, S, hd) -> q's shape.

    `mask` (…, T, S), True = may attend; None = causal. (Vaswani et al. 2017, eq. 1; the groups:
    Ainslie et al. 2023.)
    """
    T, S, group = q.size(2), k.size(2), q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    mask = causal_mask(T, S, q.device) if mask is None else mask
    scores = q @ k.transpose(2, 3) * q.size(-1) ** -0.5  # (B, H, T, S)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(q.dtype) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same by PyTorch's fused kernel, which never stores the (T, S) scores."""
    causal = mask is None and q.size(2) > 1
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)


def causal_mask(T: int, S: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, S), True where a query may see a key: the T queries are the last of the S positions."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


class LayerCache:
    """One layer's part of a `KVCache`: its keys and values, of which `start` tokens are filled."""

    def __init__(self, k: Tensor, v: Tensor, start: int):
        self.k, self.v, self.start = k, v, start  # (B, K, max_length, hd)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores new k and v (B, K, T, hd) and returns all so far, (B, K, S, hd)."""
        start, end = self.start, self.start + k.size(2)
        self.k[:, :, start:end] = k.detach()
        self.v[:, :, start:end] = v.detach()
        return self.k[:, :, :end], self.v[:, :, :end]


class KVCache:
    """The keys and values of the tokens seen so far, for inference: no gradient goes through.

    Memory for `max_length` tokens is taken at once; `length` says how many are filled. A layer
    is handed its own part, `cache[i]`, so that it need not know its number.
    """

    def __init__(self, config, batch_size, max_length, dtype=torch.float32, device="cpu"):
        layers, longest = config.num_hidden_layers, config.max_position_embeddings
        B, S = whole("batch_size", batch_size), whole("max_length", max_length, most=longest)
        shape = (layers, B, config.num_key_value_heads, S, config.head_dim)
        self.k, self.v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.max_length, self.length = S, 0

    def __getitem__(self, layer: int) -> LayerCache:
        return LayerCache(self.k[layer], self.v[layer], self.length)

    def reset(self) -> None:
        self.length = 0


class GroupedQueryAttention(nn.Module):
    """Every token gathers from itself and earlier ones; H query heads share K key/value heads."""

    attend = staticmethod(sdpa_attention)

    def __init__(self, config: SmolLM2Config):
        super().__init__()
        D, self.head_dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(D, config.num_attention_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(D, config.num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(D, config.num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, D, bias=False)

    def forward(self, x, cos, sin, mask=None, cache=None):
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H, T, hd)
        k = self.k_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, K, T, hd)
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, K, T, hd)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v)  # (B, K, S, hd)
        y = self.attend(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU: one projection opens and shuts the channels of another. (Shazeer 2020, eq. 6.)"""

    def __init__(self, config: SmolLM2Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Two additions to the residual stream `x` (B, T, D), each reading a normalised copy of it."""

    def __init__(self, config: SmolLM2Config):
        super().__init__()
        self.self_attn = GroupedQueryAttention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, cos, sin, mask=None, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


def start_of(model: "SmolLM2", input_ids: Tensor, cache: KVCache | None) -> int:
    """The position of the first of `input_ids`: 0, or where the cache ends.

    Raises ValueError for anything but a (B, T) int64 tensor, for ids outside the vocabulary
    (looked for on the CPU only: on a GPU each look would halt the queue), for a cache made for
    another model or batch, and for text that does not fit the context or the cache.
    """
    shape, dtype = tuple(getattr(input_ids, "shape", ())), getattr(input_ids, "dtype", None)
    if len(shape) != 2 or 0 in shape or dtype != torch.int64:
        got = f"{shape} {dtype}" if dtype else f"a {type(input_ids).__name__}"
        raise ValueError(f"input_ids must be (B, T) int64, got {got}")
    if input_ids.device.type == "cpu" and not torch.compiler.is_compiling():
        (low, high), V = map(int, input_ids.aminmax()), model.config.vocab_size
        if low < 0 or high >= V:
            raise ValueError(f"id {min(low, 0) or high} is outside the vocabulary (0 to {V - 1})")
    start, room, what = 0, model.config.max_position_embeddings, "context"
    if cache is not None:
        start, room, what = cache.length, cache.max_length, "cache"
        c, kind = model.config, model.embed_tokens.weight.dtype
        want = (c.num_hidden_layers, shape[0], c.num_key_value_heads, room, c.head_dim)
        if cache.k.shape != want or cache.k.dtype != kind:
            got = f"{tuple(cache.k.shape)} {cache.k.dtype}"
            raise ValueError(f"the cache is {got}, this model and batch need {want} {kind}")
    if start + shape[1] > room:
        raise ValueError(f"{start + shape[1]} tokens do not fit a {what} of {room}")
    return start


class SmolLM2(nn.Module):
    """A language model: `model(input_ids)` gives the logits of every next token.

    Starts from random weights (normal, std `initializer_range`; norms 1). For
    trained ones see `load_pretrained`. Embedding and head are one tensor where the config ties.
    """

    def __init__(self, config: SmolLM2Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()
        for name, weight in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(weight, std=config.initializer_range)

    def forward(self, input_ids: Tensor, cache=None, head=True, positions=None, mask=None):
        """`input_ids` (B, T) int64 -> logits (B, T, V) in the model's dtype.

        With a cache the ids go on where it ends, and its `length` moves on by T. With head=False
        it gives what the head would read, (B, T, D): training cannot hold all the logits at once.
        Rows that begin with padding need `positions` (B, 1, T) and a `mask` (B, 1, T, S) of their
        own: `smol.generate.padded_layout`. ValueError where the ids do not fit: see `start_of`.
        """
        start = start_of(self, input_ids, cache)
        T, device, c = input_ids.size(1), input_ids.device, self.config
        x = self.embed_tokens(input_ids)  # (B, T, D)
        at = torch.arange(start, start + T, device=device) if positions is None else positions
        cos, sin = (t.to(x.dtype) for t in rope_cos_sin(at, c.head_dim, c.rope_theta))
        if mask is None and start > 0 and T > 1:
            mask = causal_mask(T, start + T, device)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, None if cache is None else cache[i])
        if cache is not None:
            cache.length += T
        return self.lm_head(self.norm(x)) if head else self.norm(x)  # (B, T, V or D)

    def tie_weights(self) -> None:
        """Makes the head and the embedding one parameter, where the config says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def set_attn_implementation(self, name: str) -> None:
        """Chooses how attention is computed: "sdpa" (fused, the default) or "eager" (plain)."""
        implementations = {"sdpa": sdpa_attention, "eager": eager_attention}
        if name not in implementations:
            raise ValueError(f"attention {name!r} is not one of {sorted(implementations)}")
        for layer in self.layers:
            layer.self_attn.attend = implementations[name]

    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> KVCache:
        """An empty cache of this model's dtype, on its device."""
        weight, longest = self.embed_tokens.weight, self.config.max_position_embeddings
        length = longest if max_length is None else max_length
        return KVCache(self.config, batch_size, length, weight.dtype, weight.device)
