"""The checks of notebook 6: the FLOPs of a layer, the bytes of a cache and of a training step, the
seconds of decoding, each beside what PyTorch counts or allocates, or beside the package.

`SLIPS` holds for each exercise the classic wrong counts, each as a sentence that names it and a
function that makes it. A check computes them all, and says the sentence of the one that the
reader's number is; of two at once where no single one explains it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from smol import count
from smol.bench.timing import peak_memory
from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.exercise import SMALL, ask, exercise, expect
from smol.model import Block, KVCache, SmolLM2, eager_attention, rope_cos_sin
from smol.train import LossModel, parameter_groups

UNGROUPED = dataclasses.replace(SMALL, num_key_value_heads=6, num_hidden_layers=2)


def _widths(c: SmolLM2Config) -> tuple[int, int, int, int]:
    """D, F, and the widths of all queries and of all keys."""
    q, k = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    return c.hidden_size, c.intermediate_size, q, k


def _slip(exercise: str, wrong: Callable, cases: list, answers: list, near: float = 0) -> str:
    """The sentences of the slips that make these answers of these cases: of one slip, else of two;
    or nothing. `wrong(*case, **switches)` is the count with its switches thrown."""
    slips = SLIPS[exercise]
    for many in (1, 2):
        for names in itertools.combinations(slips, many):
            switches = {key: value for name in names for key, value in slips[name].items()}
            made = (wrong(*case, **switches) for case in cases)
            if all(abs(x - y) <= near * y for x, y in zip(answers, made, strict=True)):
                return ": " + "; and ".join(names)
    return ""


# -- FLOPs of a layer -----------------------------------------------------------------------------


def layer_count(
    c, T, causal, kv=False, factor=2, o=1, products=2, mlp=3, heads="", pairs="", whole=1.0,
    cell_4=False,
):  # fmt: skip
    """FLOPs of a layer; each switch makes one slip."""
    D, F, q, k = _widths(SmolLM2Config() if cell_4 else c)
    k = q if kv else k
    weights = D * q + 2 * D * k + o * q * D + mlp * D * F
    causal_pairs = {"": T * (T + 1) / 2, "half": T * T / 2, "strict": T * (T - 1) / 2}
    n = causal_pairs.get(pairs, T * T) if causal else T * T
    n = T * (T + 1) / 2 if pairs == "always" else n
    extra = 2 * T * c.vocab_size * D if whole in ("head", "model") else 0
    layers = c.num_hidden_layers
    whole = {"head": 1, "layers": layers, "model": layers, "token": 1 / T}.get(whole, whole)
    attention = products * n * {"": q, "few": _widths(c)[3], "one": c.head_dim}[heads]
    return whole * factor * (T * weights + attention) + extra


def peak_count(
    c, B, T, means=2, weights=1, logits=3, moment=max, layers=0, mlp=4, norms=2, qkvo=1, size=4,
    grad=1, twice=2, batch=1, length=1, early=0, kv=False,
):  # fmt: skip
    """Bytes of a training step at its peak; each switch makes one slip."""
    D, F, q, k = _widths(c)
    k = q if kv else k
    N, V = count.count_parameters(c)["total"], c.vocab_size
    B, T = B if batch else 1, T if length else 1
    kept = norms * 3 * D + qkvo * (2 * q + 2 * k) + c.num_attention_heads + mlp * F
    activations = B * T * ((layers or c.num_hidden_layers) * kept + 3 * D)
    forward = activations + logits * B * T * V + early * N
    backward = grad * N + twice * V * D
    return size * ((weights + means) * N + moment(forward, backward))


def decode_count(
    c, B, length, rate, bandwidth, bound=max, read="", caches="", size=2, flops="", heads=0, kv=2,
    said="",
):  # fmt: skip
    """Least seconds of a step of decoding; each switch makes one slip."""
    _, _, q, k = _widths(c)
    work = (1 if flops == "one" else B) * count.decode_work(c, length)[0]
    per_token = kv * c.num_hidden_layers * (q if heads else k)
    cache = per_token * length * {"one": 1, "none": 0}.get(caches, B)
    weights = {"each": B, "none": 0, "numbers": 0.5}.get(read, 1)
    weights *= count.count_parameters(c)["total"]
    seconds = bound(work / rate, size * (weights + cache) / bandwidth)
    return {"": seconds, "share": seconds / B, "rate": B / seconds}[said]


CELL_4 = (
    "right for SmolLM2, wrong for another config: are D, F, H read from `config`, or from cell 4?"
)


SLIPS = {
    "layer_flops": {
        "k_proj and v_proj make K heads, and those are fewer than H": {"kv": True},
        "a multiply-add is two FLOPs: one to multiply, one to add": {"factor": 1},
        "o_proj is missing: it is a matrix like q_proj": {"o": 0},
        "one of the two products of attention is missing: scores (q kᵀ), and the mix of values": {
            "products": 1
        },
        "attention's own products are missing, which have no weights: scores, mix": {
            "products": 0
        },
        "the MLP has three matrices: gate, up, down": {"mlp": 2},
        "each of the H query heads meets every key: grouping saves no pairs": {"heads": "few"},
        "each of the H query heads has its pairs": {"heads": "one"},
        "the head (or the embedding, V × D) is counted: it is no part of a layer": {
            "whole": "head"
        },
        "that is the whole model: one layer is asked": {"whole": "layers"},
        "that is thirty layers: one layer is asked": {"whole": 30.0},
        "that is the whole model and its head: one layer is asked": {"whole": "model"},
        "that is one token: the sequence has T": {"whole": "token"},
        "that is forward and backward: the forward pass alone is asked for": {"whole": 3.0},
        "causal was not looked at: the mask lets T(T + 1)/2 pairs through, not T²": {
            "pairs": "all"
        },
        "half of T² cuts the diagonal in two: T(T + 1)/2": {"pairs": "half"},
        "T(T − 1)/2 leaves out the diagonal: a token reads itself, T(T + 1)/2": {
            "pairs": "strict"
        },
        "all T² pairs count where causal is False": {"pairs": "always"},
        CELL_4: {"cell_4": True},
    },
    "peak_bytes": {
        "weights and AdamW's two means are there all the time, 3 numbers a parameter: that is 2": {
            "means": 1
        },
        "AdamW's two means are missing: they are there all the time": {"means": 0},
        "three tensors of the logits' size are there at once: log-softmax, its gradient, theirs": {
            "logits": 1
        },
        "three tensors of the logits' size are there at once, not two": {"logits": 2},
        "the logits are missing": {"logits": 0},
        "at A no weight has its gradient yet": {"early": 1},
        "12 N is bytes already: 3 N numbers": {"weights": 10},
        "A and B are numbers too: times four": {"moment": lambda a, b: max(a, b) / 4},
        "k and v have K heads, not H": {"kv": True},
        "the two candidates are never there at once: the larger, not the sum": {
            "moment": lambda a, b: a + b
        },
        "the end of the backward pass was not looked at: take the larger of A and B": {
            "moment": lambda a, b: a
        },
        "the turn from forward to backward was not looked at: take the larger of A and B": {
            "moment": lambda a, b: b
        },
        "the smaller of A and B: the peak is the larger": {"moment": min},
        "these are the activations of one layer: there are L": {"layers": 1},
        "the MLP keeps four vectors of F: gate, silu(gate), up, their product": {"mlp": 3},
        "a layer has two norms": {"norms": 1},
        "the norms' vectors are missing": {"norms": 0},
        "q, k, v and attention's output are missing": {"qkvo": 0},
        "that is bf16: everything here is fp32, four bytes": {"size": 2},
        "that is numbers, not bytes: fp32 has four": {"size": 1},
        "at B the gradients of all weights are there": {"grad": 0},
        "at B the tied embedding has two gradients, and their sum: 2 V D numbers more": {
            "twice": 0
        },
        "at B the tied embedding has 2 V D numbers more, not V D": {"twice": 1},
        "at B one of the embedding's three V D is among the N: 2 V D more, not 3": {"twice": 3},
        "one sequence: the batch has B": {"batch": 0},
        "tokens are batch_size × seq_len": {"length": 0},
    },
    "decode_seconds": {
        "the two overlap: the larger of both times, not their sum": {"bound": lambda a, b: a + b},
        "the larger of both times is the bound, not the smaller": {"bound": min},
        "arithmetic was not looked at: with many conversations it is the limit": {
            "bound": lambda a, b: b
        },
        "bytes were not looked at: with few conversations they are the limit": {
            "bound": lambda a, b: a
        },
        "the weights are read once for all conversations, not once for each": {"read": "each"},
        "the weights are missing: each is read": {"read": "none"},
        "a weight is two bytes in bf16": {"read": "numbers"},
        "each conversation has a cache of its own": {"caches": "one"},
        "the caches are missing: all keys and values are read as well": {"caches": "none"},
        "bf16 has two bytes a number": {"size": 4},
        "each conversation has its token: B times the FLOPs": {"flops": "one"},
        "the cache holds K heads, not H": {"heads": 1},
        "keys and values are both read": {"kv": 1},
        "the step's time, not a token's share: nothing is divided by B": {"said": "share"},
        "that is tokens per second: seconds are asked": {"said": "rate"},
    },
}


@functools.cache
def flops_by_pytorch(config: SmolLM2Config, T: int) -> int:
    """What PyTorch counts while a layer runs over T tokens, all pairs; on no numbers at all."""
    with torch.device("meta"):
        block, x = Block(config).eval(), torch.zeros(1, T, config.hidden_size)
        tables = rope_cos_sin(torch.arange(T), config.head_dim, config.rope_theta)
    block.self_attn.attend = eager_attention  # products that the counter knows everywhere
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(x, *tables)
    return counter.get_total_flops()


@exercise(instead=count.layer_flops)
def check_layer_flops(layer_flops):
    sizes = ((SmolLM2Config(), 256), (SMALL, 40), (UNGROUPED, 8))
    cases = [(*size, causal) for causal in (False, True) for size in sizes]
    answers = [ask(kind.number, layer_flops, *case) for case in cases]
    first = [c == SmolLM2Config() for c, *_ in cases]
    good = [x == layer_count(*case) for x, case in zip(answers, cases, strict=True)]
    fixed = all(itertools.compress(good, first))  # a mistake that only other configs show
    for (config, T, causal), got in zip(cases, answers, strict=True):
        want = flops_by_pytorch(config, T)
        if causal:  # the mask hides T(T - 1)/2 pairs, of which the counter knows nothing
            want -= 2 * T * (T - 1) * config.num_attention_heads * config.head_dim
        heads = f"{config.num_attention_heads} query and {config.num_key_value_heads} kv heads"
        said = f"{heads}, T = {T}, causal={causal}: {got:,.15g}, "
        said += f"the mask leaves {want:,}" if causal else f"PyTorch counts {want:,}"
        if got != want:
            slip = f": {CELL_4}" if fixed else _slip("layer_flops", layer_count, cases, answers)
            ratio = f"{got / want:.3g}"
            said += slip or f" (yours is {ratio if ratio != '1' else got / want} times that)"
        expect(got == want, said)
    return "exact: PyTorch's own count, on three configs; and the causal pairs"


# -- bytes ----------------------------------------------------------------------------------------


@exercise(instead=lambda config, tokens, size: count.cache_bytes(config, tokens, 1, size))
def check_cache_bytes(cache_bytes):
    four, eight = (ask(kind.number, cache_bytes, SmolLM2Config(), 7, size) for size in (4, 8))
    for config, tokens, dtype in (
        (SmolLM2Config(), 7, torch.float32),
        (SMALL, 1000, torch.bfloat16),
    ):
        cache, size = KVCache(config, 1, tokens, dtype), dtype.itemsize
        want, heads = cache.k.nbytes + cache.v.nbytes, config.num_key_value_heads
        got = ask(kind.number, cache_bytes, config, tokens, size)
        said = f"{tokens} tokens of {size}-byte numbers, D = {config.hidden_size}"
        # each cause by what it makes of the right number, so that no two look alike at first
        causes = {
            want / 2: "keys and values are both kept",
            want * config.num_attention_heads / heads: "only key/value heads are kept",
            want / config.num_hidden_layers: "each layer keeps its own",
            want / heads: "each key/value head keeps its own",
            want / config.head_dim: "a key is head_dim numbers",
            want / size: "each number has `size` bytes",
            want / tokens: "each token has its own",
        }
        if four == eight:  # whatever the size: then half of the right number has another cause
            each = {want * 2 / size: "two", want * 4 / size: "four"}
            always = "a number takes `size` bytes, not always"
            causes |= {number: f"{always} {n}" for number, n in each.items()}
        why = f": {causes[got]}" if got in causes else ""
        expect(got == want, f"{said}: {got:,}, not {want:,}{why}")
    return "exact: what PyTorch allocates, to the byte"


DEEP = dataclasses.replace(SMALL, vocab_size=1024, hidden_size=96, intermediate_size=300)
DEEP = dataclasses.replace(DEEP, num_hidden_layers=4, initializer_range=0.1)
WIDE = dataclasses.replace(DEEP, vocab_size=8192, num_hidden_layers=2)
# many query heads to one kv head, and a small MLP: whoever takes H for K is far off
ONE_KV = dataclasses.replace(DEEP, vocab_size=256, intermediate_size=96, num_hidden_layers=6)
ONE_KV = dataclasses.replace(ONE_KV, num_attention_heads=12, num_key_value_heads=1)


@functools.cache
def peak_by_pytorch(config: SmolLM2Config, B: int, T: int) -> int:
    """Bytes that a training step holds at its peak, as PyTorch reports each allocation. On one
    thread: attention takes room for each, which with 64 is a fifth of a small model's peak."""
    model = SmolLM2(config)
    loss_model = LossModel(model, chunk=10**9)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1))
    ids = torch.randint(config.vocab_size, (B, T + 1))

    def step():
        loss, n = loss_model(ids[:, :-1], ids[:, 1:])
        (loss / n).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # AdamW makes its means in the first one
    held = 3 * sum(p.nbytes for p in model.parameters())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return held + peak_memory(step, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


@exercise(instead=lambda config, B, T: count.training_memory(config, B, T)["total"])
def check_peak_bytes(peak_bytes):
    cases = [(DEEP, 4, 128), (WIDE, 1, 8), (WIDE, 2, 64), (DEEP, 1, 512), (ONE_KV, 256, 2)]
    furthest = 0.01
    answers = [ask(kind.number, peak_bytes, *case) for case in cases]
    if any(abs(x / peak_count(*case) - 1) > 1e-3 for x, case in zip(answers, cases, strict=True)):
        slip = _slip("peak_bytes", peak_count, cases, answers, near=1e-3)
    else:
        slip = ""
    for case, got in zip(cases, answers, strict=True):
        (config, B, T), want = case, peak_by_pytorch(*case)
        off, own = (abs(n / want - 1) for n in (got, peak_count(*case)))
        said = f"{B} × {T} tokens, V = {config.vocab_size:,}, L = {config.num_hidden_layers}: "
        said += f"{got / 1e6:.1f} MB, PyTorch holds {want / 1e6:.1f} MB at its peak"
        # 5 %, or somewhat more than our own count where another PyTorch keeps more
        expect(off < (0.02 if slip else max(0.05, 1.2 * own)), said + slip)
        furthest = max(furthest, off)
    return f"correct: within {furthest:.0%} of the measured peak, at five sizes"


# -- seconds --------------------------------------------------------------------------------------


@exercise(
    instead=lambda c, B, length, *rates: count.roofline(*count.decode_work(c, length, B), *rates)
)
def check_decode_seconds(decode_seconds):
    cases = [
        (SmolLM2Config(), 8, 1000, 65e12, 320e9),
        (SMALL, 3, 100, 2e11, 5e10),
        (SmolLM2Config(), 512, 10, 2e11, 1e12),
    ]
    answers = [ask(kind.number, decode_seconds, *case) for case in cases]
    for case, got in zip(cases, answers, strict=True):
        want, (_, B, length, rate, bandwidth) = decode_count(*case), case
        said = f"{B} conversations of {length} tokens, {rate:.0e} FLOP/s, {bandwidth:.0e} B/s: "
        said += f"{1e3 * got:.4g} ms, should be {1e3 * want:.4g}"
        right = abs(got / want - 1) < 2e-3
        said += "" if right else _slip("decode_seconds", decode_count, cases, answers, near=1e-3)
        expect(right, said)
