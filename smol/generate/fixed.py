"""Decode steps of fixed shapes: what a GPU can capture, and a compiler compile once.

A step of the model as it is written makes a thousand small calls, and its cache grows. Here the
cache has a rounded-up size and stays where it is, so that every step is the same step: captured
as a CUDA graph it is one call, and a compiler sees one block for all layers. A model keeps the
last such cache, with its graph: a second prompt, or another length, finds everything made.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache as once
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import smol.model as written
from smol.generate.fast import ColumnLinear, product
from smol.model import SmolLM2, apply_rope, rope_cos_sin

LEAST = 1024  # columns of the smallest cache: their keys and values are read in every step
AHEAD = 8  # tokens that are made before anybody looks at them
KNOWN = {SmolLM2, written.Block, written.GroupedQueryAttention, written.MLP, written.RMSNorm}
KNOWN |= {nn.Embedding, nn.Linear, nn.ModuleList, ColumnLinear}


def captures(device: torch.device) -> bool:
    """Whether decode steps on this device are captured: a GPU waits for the thousand small calls
    of a step longer than it computes, and a captured step is one call."""
    return device.type == "cuda"


def fits(model: SmolLM2) -> bool:
    """Whether the model is the one that the steps below write out: none of its modules exchanged
    for another, given a bias, or watched by hooks."""
    return all(
        type(module) in KNOWN
        and getattr(module, "bias", None) is None
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    )


def rounded(length: int, most: int) -> int:
    """The size of a cache for `length` tokens: LEAST, twice that, and so on, at most `most`."""
    size = LEAST
    while size < length:
        size *= 2
    return min(size, most)


# -- one step, written out ------------------------------------------------------------------------
# Functions of tensors alone. One that knew its layer, or held a module of it, would be compiled
# for each of thirty.


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What `RMSNorm` does to `x`, cast by cast."""
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def embed(ids, at, padding, table, cos, sin) -> tuple[Tensor, ...]:
    """What all layers share: x (B, 1, D) of `ids` (B, 1), which stand in column `at` (1,), the
    angles of their positions (B, 1, 1, hd), and which columns they may see (B, 1, 1, S).
    `padding` (B,) columns at the left of a row are padding."""
    column = torch.arange(len(cos), device=ids.device)
    mask = (column <= at) & (column >= padding[:, None])
    turn = (t[at - padding][:, None, None] for t in (cos, sin))
    return F.embedding(ids, table), *turn, mask[:, None, None]


def block_step(x, weights, cos, sin, mask, k, v, at, eps: float, threads: int) -> Tensor:
    """One block for one token of each row: x (B, 1, D) to the same shape. Its key and value go to
    column `at` of this layer's `k` and `v` (B, K, S, hd)."""
    before, qkv, out, after, gate_up, down = weights
    B, K, _, hd = k.shape
    heads = product(normed(x, before, eps), qkv, threads).view(B, -1, 1, hd)  # (B, H + 2K, 1, hd)
    H = heads.size(1) - 2 * K
    turned = apply_rope(heads[:, : H + K], cos, sin)
    k.index_copy_(2, at, turned[:, H:])
    v.index_copy_(2, at, heads[:, H + K :])
    rows = turned[:, :H].reshape(B, K, H // K, hd)  # a group's queries are rows of one attention
    scores = (rows @ k.transpose(2, 3) * hd**-0.5).masked_fill(~mask, float("-inf"))
    seen = scores.softmax(-1, dtype=torch.float32).to(x.dtype) @ v  # (B, K, H / K, hd)
    x = x + product(seen.reshape(B, 1, H * hd), out, threads)
    gate, up = product(normed(x, after, eps), gate_up, threads).chunk(2, dim=-1)
    return x + product(F.silu(gate) * up, down, threads)


def logits_of(x: Tensor, norm: Tensor, head: Tensor, eps: float, threads: int) -> Tensor:
    """Logits (B, V) in fp32 of x (B, 1, D)."""
    return product(normed(x, norm, eps), head, threads)[:, 0].float()


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row (B, V) the token with the largest logit, its logarithm of a probability, and
    the logarithm of what the row's sum is divided by: (B, 1) each."""
    new = logits.argmax(-1, keepdim=True)
    total = logits.logsumexp(-1, keepdim=True)
    return new, logits.gather(1, new) - total, total


@once
def compiled(function: Callable, shape: tuple, device: str) -> Callable:
    """The function compiled for one shape of the cache, which all models of that shape share.

    A copy of its code for each shape: a compiler that meets too many shapes of one code gives up.
    """
    copy = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    # Tries out which tiling of a product with one row is quickest: it becomes a fused sum.
    options = {"coordinate_descent_tuning": True} if device == "cuda" else None
    return torch.compile(copy, fullgraph=True, dynamic=False, options=options)


# -- the same over buffers that stay --------------------------------------------------------------


def laid(linears: list[nn.Linear]) -> tuple[Tensor, list[Tensor]]:
    """Weights (O, I) laid side by side, so that one product serves them all, and the part of it
    that is each one's. Down the columns where the first is stored so."""
    first, rows = linears[0].weight, sum(linear.weight.size(0) for linear in linears)
    if first.is_contiguous():
        whole = first.new_empty(rows, first.size(1))
    else:
        whole = first.new_empty(first.size(1), rows).t()
    return whole, list(whole.split([linear.weight.size(0) for linear in linears]))


def likeness(model: SmolLM2, batch_size: int, size: int, compile: bool) -> tuple:
    """What must be the same for steps to be taken again: shapes, and where the weights are."""
    places = tuple((p.data_ptr(), p.dtype, p.stride()) for p in model.parameters())
    return batch_size, size, compile, model.embed_tokens.weight.device, places


class FixedSteps:
    """A model's decode steps for `batch_size` rows, over a cache of `size` columns.

    It refers to the model's weights, not to the model. Those that are laid side by side are
    copies, which `begin` takes anew.
    """

    def __init__(self, model: SmolLM2, batch_size: int, size: int, compile: bool):
        self.likeness = likeness(model, batch_size, size, compile)
        self.cache, self.copies = model.new_cache(batch_size, size), []
        self.layers = [
            (self._weights(block), k, v)
            for block, k, v in zip(model.layers, self.cache.k, self.cache.v, strict=True)
        ]
        self.table, c = model.embed_tokens.weight.detach(), model.config
        self.ends = model.norm.weight.detach(), model.lm_head.weight.detach()
        device = self.table.device
        angles = rope_cos_sin(torch.arange(size, device=device), c.head_dim, c.rope_theta)
        self.turn = [t.to(self.table.dtype) for t in angles]  # each (S, hd)
        columns = [m.threads for m in model.modules() if isinstance(m, ColumnLinear)]
        self.constants = c.rms_norm_eps, max(columns, default=0)
        shapes = (batch_size, 1), (1,), (batch_size,)
        self.ids, self.at, self.padding = (
            torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes
        )
        self.graphs, self.capture = {}, captures(device)
        self.functions = embed, block_step, logits_of, likeliest
        if compile:
            kind = batch_size, size, str(c), self.table.dtype, self.constants
            self.functions = [compiled(f, kind, device.type) for f in self.functions]

    def _weights(self, block: nn.Module) -> tuple[Tensor, ...]:
        a, m, joined = block.self_attn, block.mlp, []
        for linears in ([a.q_proj, a.k_proj, a.v_proj], [m.gate_proj, m.up_proj]):
            whole, parts = laid(linears)
            joined.append(whole)
            self.copies += zip(parts, (each.weight.detach() for each in linears), strict=True)
        norms = (
            block.input_layernorm.weight.detach(),
            block.post_attention_layernorm.weight.detach(),
        )
        out, down = a.o_proj.weight.detach(), m.down_proj.weight.detach()
        return norms[0], joined[0], out, norms[1], joined[1], down

    def begin(self) -> None:
        """For a new text: the cache is empty, and weights are what they now are."""
        self.cache.reset()
        self.hide(None)
        for part, source in self.copies:
            part.copy_(source)

    def hide(self, real: Tensor | None) -> None:
        """`real` (B, T) is False at the padding of the text that is read."""
        self.padding.zero_() if real is None else self.padding.copy_((~real).sum(-1))

    def logits(self, ids: Tensor) -> Tensor:
        """Logits (B, V), fp32, after `ids` (B, 1). The next call overwrites them."""
        return self._launch("logits", ids, self._logits, 1)

    def likeliest(self, ids: Tensor) -> tuple[Tensor, ...]:
        """What `likeliest` gives for the next AHEAD tokens after `ids` (B, 1), (B, AHEAD) each.
        The next call overwrites them."""
        return self._launch("likeliest", ids, self._likeliest, AHEAD)

    def _launch(self, name: str, ids: Tensor, work: Callable, count: int):
        if self.capture and name not in self.graphs:
            self.graphs[name] = captured(work, partial(self._stand_at, ids))
        self._stand_at(ids)
        if self.capture:
            replay, made = self.graphs[name]
            replay()
        else:
            made = work()
        self.cache.length += count
        return made

    def _stand_at(self, ids: Tensor) -> None:
        self.ids.copy_(ids)
        self.at.fill_(self.cache.length)

    def _logits(self) -> Tensor:
        embed, block, logits_of, _ = self.functions
        x, *shared = embed(self.ids, self.at, self.padding, self.table, *self.turn)
        for weights, k, v in self.layers:
            x = block(x, weights, *shared, k, v, self.at, *self.constants)
        return logits_of(x, *self.ends, *self.constants)

    def _likeliest(self) -> tuple[Tensor, ...]:
        made = []
        for _ in range(AHEAD):
            made.append(self.functions[-1](self._logits()))
            self.ids.copy_(made[-1][0])
            self.at.add_(1)
        return tuple(torch.cat(parts, dim=1) for parts in zip(*made, strict=True))


def captured(work: Callable, ready: Callable) -> tuple[Callable, object]:
    """What replays the work as one CUDA graph, and what it leaves its results in. It is warmed up
    first, each time from where `ready` puts it."""
    # As PyTorch's notes on CUDA graphs want it: first run on another stream, to warm up.
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            ready()
            work()
    torch.cuda.current_stream().wait_stream(aside)
    ready()
    graph = torch.cuda.CUDAGraph()
    # Another thread that copies a batch meanwhile is no part of it.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = work()
    return graph.replay, made


# -- kept from call to call -----------------------------------------------------------------------

_kept: "WeakKeyDictionary[SmolLM2, FixedSteps]" = WeakKeyDictionary()


@contextmanager
def fixed_steps(model: SmolLM2, batch_size: int, length: int, compile: bool) -> Iterator:
    """`FixedSteps` for texts of `length` tokens: those of the last call where they fit.

    Nobody else gets them until the end: they are taken away, and put back. After an error they
    are not, for a NaN in the cache would spoil what comes later: nothing times NaN is NaN.
    """
    size = rounded(length, model.config.max_position_embeddings)
    steps = _kept.pop(model, None)
    if steps is None or steps.likeness != likeness(model, batch_size, size, compile):
        steps = None  # its memory is free before more is taken
        with torch.inference_mode(False):  # in which nothing could be kept for other calls
            steps = FixedSteps(model, batch_size, size, compile)
    steps.begin()
    try:
        yield steps
    except Exception:
        steps = None
        raise
    finally:
        if steps is not None:
            _kept[model] = steps
