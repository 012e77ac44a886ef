"""The figures of notebook 6: pairs, FLOPs and bytes by length, the memory of a step, roofline,
Chinchilla's valley, scaling."""

import dataclasses
import math

import numpy as np
from matplotlib.patches import Rectangle

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
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

__all__ = [
    "cache_growth",
    "causal_pairs",
    "chinchilla",
    "flops_by_length",
    "memory_measured",
    "memory_of_a_step",
    "roofline",
    "scaling",
]


@styled
def causal_pairs(words: list[str]):
    """The T × T square of queries and keys: what the mask lets through, and what it hides."""
    T = len(words)
    fig, ax = figure(5.6, 3.4)
    for row in range(T):
        for column in range(T):
            seen = column <= row
            ax.add_patch(
                Rectangle((column, row), 1, 1, fc=SKY if seen else FAINT, ec="white", lw=2)
            )
            if not seen:
                ax.text(column + 0.5, row + 0.5, "masked", ha="center", va="center", fontsize=7)
    ax.set(xlim=(0, T), ylim=(T, 0), aspect="equal")
    ax.set_xticks(np.arange(T) + 0.5, words)
    ax.set_yticks(np.arange(T) + 0.5, words)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set(xlabel="key: who is read", ylabel="query: who reads")
    ax.spines[:].set_visible(False)
    half = T * (T + 1) // 2
    ax.text(T + 0.4, 1, f"all pairs\nT² = {T * T}", va="center")
    ax.text(T + 0.4, T - 1.5, f"causal pairs (blue)\nT(T + 1)/2 = {half}", va="center", color=BLUE)
    return fig, f"{T} words ask {T} words: {T * T} pairs, of which the mask lets {half} through"


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


PARTS = {
    "weights": BLUE,
    "optimizer": SKY,
    "gradients": GREEN,
    "activations": PURPLE,
    "logits": ORANGE,
}


def _moments_of_a_step(config, batch_size: int, seq_len: int) -> tuple[list[dict], int, int]:
    """Bytes by what they are for, moment after moment, and where the forward and the backward
    pass end: layer by layer up; at the turn up to three tensors of the logits' size, which are the
    logits, their log-softmax, the gradients of both; layer by layer down."""
    from smol.count import count_parameters, training_moments

    L, V, D = config.num_hidden_layers, config.vocab_size, config.hidden_size
    ends = training_moments(config, batch_size, seq_len)
    full, table = ends["turn"], 4 * V * D
    rest = 4 * count_parameters(config)["total"] - table  # the layers' weights, fp32

    def moment(activations=0.0, logits=0.0, gradients=0.0):
        held = {"gradients": gradients, "activations": full["activations"] * activations}
        return {**full, **held, "logits": full["logits"] * logits}

    up = [moment(i / L) for i in range(L + 1)]
    spike = [moment(1, n / 3) for n in (1, 2, 1, 2, 3)]
    down = [moment(i / L, 0, table + rest * (1 - i / L)) for i in range(L, -1, -1)]
    last = [{**ends["end"]}] * 2 + [moment(0, 0, table + rest)] * 4 + [moment()] * 2
    return [*up, *spike, *down, *last], len(up) + 4, len(up) + len(spike) + len(down)


@styled
def memory_of_a_step(config, sizes: list[tuple[int, int]]):
    """What one training step holds, from the beginning of its forward pass to its end, counted;
    with the two moments that may be the peak, A and B."""
    fig, axes = figure(9.6, 3.5, len(sizes), sharey=True)
    said = []
    for ax, (B, T) in zip(np.atleast_1d(axes), sizes, strict=True):
        moments, a, b = _moments_of_a_step(config, B, T)
        x = np.arange(len(moments))
        parts = [[m[name] / 1e9 for m in moments] for name in PARTS]
        ax.stackplot(x, parts, colors=list(PARTS.values()), labels=list(PARTS), step="post")
        heights = {"A": (a + 0.5, sum(moments[a].values()) / 1e9)}
        heights["B"] = (b, sum(moments[b].values()) / 1e9)
        peak = max(heights, key=lambda name: heights[name][1])
        for name, (at, high) in heights.items():
            bold = "bold" if name == peak else "normal"
            text = f"{name}: {high:.1f} GB" + (", the peak" if name == peak else "")
            side = "right" if name == "B" else "center"
            ax.annotate(text, (at, high), (at, high + 0.12), ha=side, weight=bold, fontsize=9)
            ax.plot([at], [high], "v", color=INK, ms=5)
        for end in (a, b):
            ax.axvline(end, color="white", lw=1, ls=":")
        ax.set_xticks([a / 2, (a + b) / 2, b + 3.5], ["forward", "backward", "optimizer"])
        ax.tick_params(axis="x", length=0)
        ax.set(title=f"{B} × {T} tokens", xlim=(0, x[-1]), xlabel="one step, from left to right")
        said.append(f"of {B} × {T} tokens the peak is {peak}, {heights[peak][1]:.1f} GB")
    axes[0].set(ylabel="GB held", ylim=(0, None))
    axes[0].set_ylim(0, axes[0].get_ylim()[1] * 1.08)
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
    return fig, "memory through a training step: " + "; ".join(said)


@styled
def memory_measured(curve, spans: dict, held: int, moments: dict):
    """What PyTorch allocated through one step (seconds, bytes), on top of what is `held`; and the
    two candidates for the peak as they were counted."""
    fig, ax = figure(7.6, 3.2)
    x, y = np.array(curve).T
    ax.fill_between(1e3 * x, 0, (held + y) / 1e6, step="post", color=SKY, alpha=0.5, lw=0)
    ax.step(1e3 * x, (held + y) / 1e6, where="post", color=BLUE, lw=1, label="measured")
    names = ("A, counted: the turn", "B, counted: the end of backward")
    for parts, said, color in zip(moments.values(), names, (RED, GREEN), strict=True):
        high = sum(parts.values()) / 1e6
        ax.axhline(high, color=color, lw=1.2, ls="--", label=said)
    for name, (start, end) in spans.items():
        ax.axvline(1e3 * start, color=SOFT, lw=0.8, ls=":")
        at = 1e3 * (start + end) / 2
        ax.annotate(name, (at, 0), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    ax.set(xlabel="milliseconds in the step", ylabel="MB held", xlim=(0, 1e3 * x[-1]))
    ax.set_ylim(0, ax.get_ylim()[1] * 1.05)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return (
        fig,
        "memory measured through a step: it rises in the forward pass, falls in the backward",
    )


@styled
def roofline(peak: float, bandwidth: float, points: dict[str, tuple[float, float, float]]):
    """FLOPs per second against FLOPs per byte: the bound; (intensity, rate, part of the bound)."""
    fig, ax = figure(7.2, 3.6)
    low = min(0.1, *(x / 2 for x, *_ in points.values()))
    high = max(1000.0, *(2 * x for x, *_ in points.values()))
    bottom = min(low * bandwidth, *(rate / 2 for _, rate, _ in points.values()))
    x = np.geomspace(low, high, 100)
    balance = peak / bandwidth
    ax.plot(x, np.minimum(peak, x * bandwidth), color=INK)
    ax.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="FLOP/s")
    ax.set(xlim=(low, high), ylim=(bottom, 4 * peak))
    ax.text(balance * 1.4, 1.25 * peak, "peak: arithmetic is the limit", fontsize=9, color=SOFT)
    said = "bandwidth:\nmemory is the limit"
    ax.text(low * 1.2, 1.6 * peak, said, fontsize=9, color=SOFT, va="top")
    ax.axvline(balance, color=SOFT, lw=1, ls=":")
    said = f"balance: {balance:.0f} FLOPs per byte"
    ax.text(balance * 1.1, bottom * 1.15, said, fontsize=9, color=SOFT)
    for color, (name, (intensity, rate, part)) in zip(PALETTE, points.items(), strict=False):
        bound = min(peak, intensity * bandwidth)
        ax.plot([intensity] * 2, [rate, bound], color=color, lw=1)
        ax.plot([intensity], [rate], "o", ms=8, color=color)
        said, up = f"{name}: {part:.0%} of the roof", intensity < balance
        at = {"va": "bottom", "ha": "left"} if up else {"va": "top", "ha": "right"}
        place = (9, 1) if up else (-9, -5)
        ax.annotate(said, (intensity, rate), place, textcoords="offset points", **at)
    ax.grid()
    return fig, f"the roofline of this machine, with {' and '.join(points)} under it"


@styled
def chinchilla(parameters: int, tokens: float):
    """The loss that Hoffmann et al.'s law gives each size, where the compute 6 N D is fixed: that
    of 20 tokens per parameter, and that of so many `tokens`."""
    from smol.count import chinchilla_loss

    fig, ax = figure(9.0, 3.5)
    sizes = np.geomspace(1e7, 1e11, 1000)
    said = []
    for D, color, name in (
        (20 * parameters, BLUE, "20 tokens per parameter"),
        (tokens, RED, f"{tokens:.0e} tokens"),
    ):
        compute = 6 * parameters * D
        losses = np.array([chinchilla_loss(N, compute / 6 / N) for N in sizes])
        best = losses.argmin()
        ax.plot(sizes, losses, color=color, label=f"{compute:.1e} FLOPs, spent on any size")
        at = parameters, chinchilla_loss(parameters, D)
        ax.plot(*at, "o", color=color, ms=8, mec="white", label=f"SmolLM2-135M, {name}")
        text = f"the valley: {sizes[best] / 1e6:,.0f} million"
        ax.plot(sizes[best], losses[best], "v", color=color, ms=8)
        ax.annotate(text, (sizes[best], losses[best]), (0, -17), textcoords="offset points",
                    ha="center", fontsize=9, color=color)  # fmt: skip
        said.append(f"at {compute:.1e} FLOPs best at {sizes[best] / 1e6:,.0f} million")
    ax.text(1.1e7, 2.05, "too small to hold it", fontsize=9, color=SOFT)
    ax.text(9e10, 4.35, "too few tokens to learn", fontsize=9, color=SOFT, ha="right")
    ax.set(xscale="log", ylim=(1.9, 4.6), xlim=(sizes[0], sizes[-1]))
    ax.set(xlabel="N, parameters", ylabel="loss L(N, D), nats per token")
    ax.set_xticks(
        [1e7, 1e8, 1e9, 1e10, 1e11], ["10 million", "100 million", "1e9", "1e10", "1e11"]
    )
    ax.minorticks_off()
    ax.grid(axis="y")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return fig, "loss against size at fixed compute is a valley: " + ", ".join(said)


@styled
def scaling(sizes: list[int], runs: list[list[float]], predictions: list[float]):
    """For each seed a power law through all sizes but the last, whose loss it was to predict."""
    fig, axes = figure(9.2, 3.0, len(runs), sharey=True)
    x = np.geomspace(min(sizes) / 1.2, max(sizes) * 1.2, 50)
    for ax, losses, predicted in zip(np.atleast_1d(axes), runs, predictions, strict=True):
        slope, intercept = np.polyfit(np.log(sizes[:-1]), np.log(losses[:-1]), 1)
        ax.plot(x, np.exp(intercept) * x**slope, color=SOFT, lw=1.2, ls="--", label="the line")
        ax.plot(sizes[:-1], losses[:-1], "o", color=BLUE, label="measured before")
        ax.plot(sizes[-1:], [predicted], "D", mfc="white", color=INK, label="predicted")
        ax.plot(sizes[-1:], losses[-1:], "o", color=RED, label="measured after")
        ax.set(xscale="log", yscale="log", xlabel="parameters")
        ax.set_title(f"missed by {abs(predicted / losses[-1] - 1):.1%}")
        ax.minorticks_off()
        ax.set_xticks([sizes[0], sizes[-1]], [f"{n / 1e3:,.0f} k" for n in (sizes[0], sizes[-1])])
        ax.grid(axis="y")
    every = [*predictions, *(loss for losses in runs for loss in losses)]
    ticks = np.arange(math.floor(4 * min(every)), math.ceil(4 * max(every)) + 1) / 4
    axes[0].set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
    axes[0].set_ylabel("nats per token")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return fig, f"loss against size with {len(runs)} seeds: a line through all but the last size"
