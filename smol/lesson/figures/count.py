"""The figures of notebook 6: FLOPs and bytes by length and batch, roofline, scaling."""

import dataclasses
import math

import numpy as np

from smol.lesson.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALETTE,
    PURPLE,
    RED,
    SKY,
    SOFT,
    figure,
    styled,
)

__all__ = ["cache_growth", "flops_by_length", "memory_by_batch", "roofline", "scaling"]


@styled
def flops_by_length(config):
    """What part of a forward pass each kind of product takes, as sequences grow."""
    from smol.count import crossover_length, forward_flops

    lengths = np.unique(np.geomspace(16, config.max_position_embeddings, 60).astype(int))
    kinds = {
        "MLPs": ("gate_proj", "up_proj", "down_proj"),
        "q, k, v, o": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "head": ("lm_head",),
        "scores and values": ("scores", "values"),
    }
    counts = [forward_flops(config, int(T)) for T in lengths]
    parts = [[sum(c[n] for n in names) / c["total"] for c in counts] for names in kinds.values()]
    fig, ax = figure(7.4, 3.2)
    ax.stackplot(lengths, parts, colors=(BLUE, SKY, GREEN, ORANGE), labels=list(kinds))
    at = crossover_length(config)
    ax.axvline(at, color=INK, lw=1, ls=":")
    ax.annotate(f" {at:,}", (at, 1.0), va="bottom", fontsize=9)
    ax.set(xscale="log", xlim=(16, lengths[-1]), ylim=(0, 1), xlabel="T, tokens")
    ax.set(ylabel="part of the FLOPs")
    ax.set_xticks([16, 64, 256, 1024, 4096, 8192], ["16", "64", "256", "1,024", "4,096", "8,192"])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig, f"the part of scores and values grows with T and passes the MLPs' at {at:,} tokens"


@styled
def cache_growth(config):
    """Bytes of a KV cache against its length, for grouped heads and for one to each query."""
    from smol.count import cache_bytes, checkpoint_bytes

    fig, ax = figure(6.6, 2.8)
    longest = config.max_position_embeddings
    wide = dataclasses.replace(config, num_key_value_heads=config.num_attention_heads)
    for it, color in ((config, BLUE), (wide, RED)):
        ends = [0, cache_bytes(it, longest) / 1e6]
        ax.plot([0, longest], ends, color=color, label=f"{it.num_key_value_heads} kv heads")
    weights = checkpoint_bytes(config) / 1e6
    ax.axhline(weights, color=SOFT, ls="--", lw=1.2, label="all weights")
    ax.set(xlabel="tokens in the cache", ylabel="MB in bf16", xlim=(0, longest), ylim=(0, None))
    ax.grid(axis="y")
    ax.legend()
    heads = config.num_key_value_heads, config.num_attention_heads
    return (
        fig,
        f"cache size against length for {heads[0]} and {heads[1]} kv heads, and the weights",
    )


@styled
def memory_by_batch(config, seq_len: int):
    """What training holds at its peak, by batch size, with plain and with chunked loss."""
    from smol.count import training_memory

    fig, axes = figure(8.2, 2.9, 2, sharey=True)
    batches = (1, 2, 4, 8, 16, 32)
    for ax, chunk, title in zip(axes, (None, 4096), ("all logits", "in chunks"), strict=True):
        bottom = np.zeros(len(batches))
        memory = [training_memory(config, B, seq_len, chunk=chunk) for B in batches]
        for part, color in zip(memory[0], (BLUE, SKY, GREEN, PURPLE, ORANGE), strict=False):
            if part != "total":
                values = np.array([m[part] / 1e9 for m in memory])
                ax.bar([str(B) for B in batches], values, bottom=bottom, color=color, label=part)
                bottom += values
        ax.set(title=f"loss: {title}", xlabel=f"sequences of {seq_len:,} tokens")
        ax.grid(axis="y")
    axes[0].set_ylabel("GB")
    axes[0].legend(fontsize=8.5)
    return (
        fig,
        "training memory by batch: activations and logits grow, the chunked loss caps these",
    )


@styled
def roofline(peak: float, bandwidth: float, points: dict[str, tuple[float, float, float]]):
    """FLOPs per second against FLOPs per byte: the bound; (intensity, rate, part of the bound)."""
    fig, ax = figure(6.8, 3.2)
    low = min(0.1, *(x / 2 for x, *_ in points.values()))
    high = max(1000.0, *(2 * x for x, *_ in points.values()))
    x = np.geomspace(low, high, 100)
    ax.plot(x, np.minimum(peak, x * bandwidth), color=INK)
    for color, (name, (intensity, rate, part)) in zip(PALETTE, points.items(), strict=False):
        ax.plot([intensity], [rate], "o", ms=8, color=color)
        ax.annotate(f"  {name}, {part:.0%}", (intensity, rate), va="top")
    ax.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="FLOP/s")
    ax.grid()
    return fig, f"the roofline of this machine, with {' and '.join(points)} under it"


@styled
def scaling(
    sizes: list[int],
    losses: list[float],
    slope: float,
    intercept: float,
    spread: tuple[float, float],
):
    """A power law through all points but the last, which it was to predict; and how far apart the
    predictions lie (`spread`) that leave out one point each."""
    fig, ax = figure(6.4, 2.9)
    x = np.geomspace(min(sizes) / 1.2, max(sizes) * 1.2, 50)
    ax.plot(x, np.exp(intercept) * x**slope, color=SOFT, lw=1.2, ls="--", label="fitted to four")
    ax.plot(sizes[:-1], losses[:-1], "o", color=BLUE, label="measured before")
    ax.vlines(sizes[-1], *spread, color=SOFT, lw=5, alpha=0.4, label="predicted by three")
    ax.plot(sizes[-1:], losses[-1:], "o", color=RED, label="measured after")
    ax.set(xscale="log", yscale="log", xlabel="parameters", ylabel="nats per token")
    ax.minorticks_off()
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8.5)
    low, high = min(*losses, spread[0]), max(*losses, spread[1])
    ticks = np.arange(math.floor(2 * low), math.ceil(2 * high) + 1) / 2
    ax.set_yticks(ticks, [f"{tick}" for tick in ticks])
    ax.legend()
    return (
        fig,
        f"loss against size, a line through {len(sizes) - 1} points and one to be predicted",
    )
