"""What a model costs, from its config alone: parameters, FLOPs, bytes, and the seconds they need.

Symbols as in smol/model.py. One multiply-add is two FLOPs. Matrix products are counted and nothing
else: at a few hundred tokens norms, RoPE, softmax and SwiGLU's product are under 1 % of a
SmolLM2's arithmetic, though not of its time.

    config = SmolLM2Config()
    count_parameters(config)["total"]           # 134,515,008
    flops_per_token(config, seq_len=256)        # 859,963,392, forward and backward
"""

from typing import NamedTuple

from smol.config import SmolLM2Config


def count_parameters(config: SmolLM2Config) -> dict[str, int]:
    """Parameters by group, and their "total". A tied head is the embedding, and counts 0."""
    D, F, V, L = dimensions(config)
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    groups = {
        "embed_tokens": V * D,
        "q_proj": L * D * queries,
        "k_proj": L * D * keys,
        "v_proj": L * D * keys,
        "o_proj": L * queries * D,
        "gate_proj": L * D * F,
        "up_proj": L * D * F,
        "down_proj": L * F * D,
        "norms": (2 * L + 1) * D,
        "lm_head": 0 if config.tie_word_embeddings else V * D,
    }
    return {**groups, "total": sum(groups.values())}


def dimensions(config: SmolLM2Config) -> tuple[int, int, int, int]:
    names = ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers")
    return tuple(getattr(config, name) for name in names)


# -- arithmetic -----------------------------------------------------------------------------------


def layer_flops(config: SmolLM2Config, seq_len: int, causal: bool = False) -> int:
    """FLOPs of the matrix products of one layer's forward pass over one sequence of T tokens.

    A product of (m, k) by (k, n) takes 2 m k n. Every query head meets T keys a query, or with
    `causal` the (T + 1) / 2 that it may see, on average.
    """
    flops = forward_flops(config, seq_len, causal)
    return (flops["total"] - flops["lm_head"]) // config.num_hidden_layers


def forward_flops(config: SmolLM2Config, seq_len: int, causal: bool = False) -> dict[str, int]:
    """FLOPs of one forward pass over one sequence of T tokens, by product, and their "total".

    A matrix takes two FLOPs for each of its weights and each token; the embedding is a look-up
    and takes none, the head always its V × D. Scores (q kᵀ) and values (their sum) meet T keys a
    query, or with `causal` the (T + 1) / 2 that it may see, on average. Grouped heads save
    parameters and cache, and no FLOPs there: every query head still meets every key.
    """
    D, _, V, L = dimensions(config)
    weights = count_parameters(config)
    flops = {name: 2 * seq_len * n for name, n in weights.items() if name.endswith("_proj")}
    pairs = seq_len * (seq_len + 1) // 2 if causal else seq_len**2
    for name in ("scores", "values"):
        flops[name] = 2 * L * config.num_attention_heads * config.head_dim * pairs
    flops["lm_head"] = 2 * seq_len * V * D
    return {**flops, "total": sum(flops.values())}


def flops_per_token(
    config: SmolLM2Config, seq_len: int, causal: bool = False, backward: bool = True
) -> int:
    """FLOPs for one token of a sequence of T, on average; with `backward` those of training it.

    The backward pass takes twice the forward one: each product has two factors, and each of them a
    gradient, which is a product of the same size.
    """
    once = forward_flops(config, seq_len, causal)["total"] // seq_len
    return 3 * once if backward else once


def palm_flops_per_token(config: SmolLM2Config, seq_len: int) -> int:
    """6 N + 12 L H hd T: PaLM's estimate for training (Chowdhery et al. 2022, appendix B).

    N are all parameters without the input embedding, of which there is none to leave out where it
    is the head too. It counts the norms as matrices: for SmolLM2-135M at T = 256 0.02 % too many.
    """
    N = count_parameters(config)["total"]
    if not config.tie_word_embeddings:
        N -= config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim
    return 6 * N + 12 * config.num_hidden_layers * width * seq_len


def crossover_length(config: SmolLM2Config) -> int:
    """The sequence length from which on scores and values take as much as the MLPs, or more.

    With full attention: 4 H hd T FLOPs per token and layer against 6 D F, T = 3 D F / (2 H hd),
    rounded up. If only the causal half counts, it is twice as long.
    """
    D, F, _, _ = dimensions(config)
    return -(-3 * D * F // (2 * config.num_attention_heads * config.head_dim))


# -- bytes ----------------------------------------------------------------------------------------


def checkpoint_bytes(config: SmolLM2Config, bytes_per_number: int = 2) -> int:
    """Bytes of tensor data in a model.safetensors, whose header comes on top. Default: bf16."""
    return count_parameters(config)["total"] * bytes_per_number


def cache_bytes(
    config: SmolLM2Config, length: int = 1, batch_size: int = 1, bytes_per_number: int = 2
) -> int:
    """Bytes of a KV cache: 2 L K hd numbers per token."""
    heads = config.num_hidden_layers * config.num_key_value_heads
    return 2 * heads * config.head_dim * length * batch_size * bytes_per_number


def kept_by_layer(config: SmolLM2Config) -> int:
    """Numbers (fp32) that one layer keeps of each token for its backward pass.

    As `smol.model` keeps them in eager PyTorch, with the fused attention, which keeps no scores.
    A norm keeps its input and its normed output and the result, which the products after it share;
    attention keeps q, k, v, its output and a number a query and head; the MLP keeps gate,
    silu(gate), up and their product.
    """
    D, F, _, _ = dimensions(config)
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return 2 * 3 * D + queries + 2 * keys + config.num_attention_heads + queries + 4 * F


def training_moments(
    config: SmolLM2Config, batch_size: int, seq_len: int, chunk: int | None = None
) -> dict[str, dict[str, int]]:
    """Bytes that a training step with AdamW holds at the two moments where it may hold the most,
    by what they are for: at the turn from the forward to the backward pass, and at the end.

    Weights, gradients and the optimizer's two means are fp32. At the "turn" all activations are
    there, and three tensors of the logits' size: their log-softmax, its gradient, and theirs; with
    `chunk`, those of a chunk of so many tokens, and the head's gradient twice. At the "end" of the
    backward pass there are all gradients and no activations. A tied embedding gets two
    gradients, and for a moment their sum stands beside them.
    """
    D, _, V, L = dimensions(config)
    tokens = batch_size * seq_len
    weights = 4 * count_parameters(config)["total"]
    activations = tokens * 4 * (L * kept_by_layer(config) + 3 * D)  # 3 D: the last norm
    logits = 3 * 4 * V * min(tokens, chunk or tokens)
    if chunk and chunk < tokens:  # the head's gradient so far, and that of one chunk more
        logits += 2 * 4 * V * D
    held = {"weights": weights, "optimizer": 2 * weights}
    twice = 2 * 4 * V * D if config.tie_word_embeddings else 0
    return {
        "turn": {**held, "gradients": 0, "activations": activations, "logits": logits},
        "end": {**held, "gradients": weights + twice, "activations": 0, "logits": 0},
    }


def training_memory(
    config: SmolLM2Config,
    batch_size: int,
    seq_len: int,
    chunk: int | None = None,
) -> dict[str, int]:
    """Bytes that training with AdamW holds at its peak, by what they are for, and their "total":
    the larger of the two `training_moments`. (Autocast keeps more copies, compile fewer.)"""
    moments = training_moments(config, batch_size, seq_len, chunk)
    peak = max(moments.values(), key=lambda held: sum(held.values()))
    return {**peak, "total": sum(peak.values())}


# -- seconds --------------------------------------------------------------------------------------


class Chip(NamedTuple):
    """What its maker says: dense FLOPs per second (bf16, or fp16 where there is no bf16, with fp32
    sums), bytes per second to and from memory, bytes of memory, watts."""

    flops: float
    bandwidth: float
    memory: float
    watts: float


# Without the "sparsity" that doubles the figure in many tables. Sources: NVIDIA's data sheets of
# the T4 (2019), V100 (2020), A100 (2021), L4 (2023), H100 (2023), H200 (2024); the Ada whitepaper
# (2022) for the 4090, GA102's (2020) for the 3090; AMD's data sheet of the MI300X (2023).
CHIPS = {
    "Tesla T4": Chip(65e12, 320e9, 16e9, 70),
    "Tesla V100-SXM2-16GB": Chip(125e12, 900e9, 16e9, 300),
    "Tesla V100-SXM2-32GB": Chip(125e12, 900e9, 32e9, 300),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1555e9, 40e9, 400),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 80e9, 400),
    "NVIDIA L4": Chip(121e12, 300e9, 24e9, 72),
    "NVIDIA H100 PCIe": Chip(756e12, 2000e9, 80e9, 350),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 80e9, 700),
    "NVIDIA H200": Chip(989e12, 4800e9, 141e9, 700),
    "NVIDIA GeForce RTX 3090": Chip(71e12, 936e9, 24e9, 350),
    "NVIDIA GeForce RTX 4090": Chip(165e12, 1008e9, 24e9, 450),
    "AMD Instinct MI300X": Chip(1307e12, 5300e9, 192e9, 750),
}


def chip(name: str) -> Chip | None:
    """The chip that `torch.cuda.get_device_name()` names; None where the table has it not.

    The whole name counts: an "RTX 4090 Laptop GPU" or a MIG slice is another chip.
    """
    return CHIPS.get(name)


def roofline(flops: float, moved: float, peak_flops: float, bandwidth: float) -> float:
    """The least seconds in which `flops` can be done and `moved` bytes moved, both at full speed.

    Work with fewer FLOPs per byte than peak_flops / bandwidth is bound by the memory (Williams et
    al. 2009).
    """
    return max(flops / peak_flops, moved / bandwidth)


def prefill_work(
    config: SmolLM2Config,
    seq_len: int,
    batch_size: int = 1,
    bytes_per_number: int = 2,
    causal: bool = True,
) -> tuple[int, int]:
    """FLOPs and the bytes that must move at least: the weights once, the cache written.

    Activations are not counted, which need not leave a large enough cache of the chip. All
    positions' logits are, as `model(ids)` gives them.
    """
    flops = batch_size * forward_flops(config, seq_len, causal)["total"]
    written = cache_bytes(config, seq_len, batch_size, bytes_per_number)
    return flops, checkpoint_bytes(config, bytes_per_number) + written


def decode_work(
    config: SmolLM2Config, length: int, batch_size: int = 1, bytes_per_number: int = 2
) -> tuple[int, int]:
    """FLOPs and bytes of one token more for each sequence, on top of `length` in the cache.

    Every weight and every key and value is read once: about one FLOP per byte in bf16 with a short
    cache, and for the cache as many as query heads share a key.
    """
    weights = flops_per_token(config, 1, backward=False)
    scores = forward_flops(config, 1)["scores"] + forward_flops(config, 1)["values"]
    flops = batch_size * (weights + length * scores)
    read = cache_bytes(config, length, batch_size, bytes_per_number)
    return flops, checkpoint_bytes(config, bytes_per_number) + read


def mfu(tokens_per_second: float, flops_per_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation: the part of the peak that the model's products took (0 to 1)."""
    return tokens_per_second * flops_per_token / peak_flops


def training_cost(
    config: SmolLM2Config, tokens: float, seq_len: int, chip: Chip, utilisation: float
) -> tuple[float, float]:
    """Seconds on one chip at that MFU, and kWh at its full power (the chip's alone)."""
    seconds = tokens * flops_per_token(config, seq_len) / (chip.flops * utilisation)
    return seconds, seconds * chip.watts / 3.6e6


def chinchilla_loss(parameters: float, tokens: float) -> float:
    """The loss, in nats per token, that Hoffmann et al. (2022, eq. 10) fitted to their own models
    and their own text: E + A / N^α + B / D^β. For another text the numbers are others."""
    return 1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28


def chinchilla_tokens(config: SmolLM2Config) -> int:
    """About 20 tokens per parameter: the best use of a given number of training FLOPs (Hoffmann et
    al. 2022). It says nothing of what the model costs once it is in use."""
    return 20 * count_parameters(config)["total"]
