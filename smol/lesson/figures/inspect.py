"""The figures of notebook 1: where the parameters are, and how large the numbers."""

import math
import re

import numpy as np

from smol.lesson.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALETTE,
    PURPLE,
    SKY,
    SOFT,
    figure,
    styled,
)

__all__ = ["attention_to_first", "parameter_bars", "residual_growth", "weight_histograms"]


@styled
def parameter_bars(groups: dict[str, int]):
    """How many parameters each group of tensors holds, the largest first."""
    total = sum(groups.values())
    names = sorted(groups, key=groups.get)
    fig, ax = figure(7.6, 0.42 * len(names) + 0.7)
    colors = {"embed_tokens": ORANGE, "self_attn": PURPLE, "mlp": BLUE, "norm": GREEN}
    for y, name in enumerate(names):
        color = next((c for part, c in colors.items() if part in name), SOFT)
        ax.barh(y, groups[name] / 1e6, color=color, height=0.68)
        share = f"{groups[name]:,}  ({groups[name] / total:.1%})"
        ax.text(groups[name] / 1e6 + total / 4e8, y, share, va="center", fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="millions of parameters", xlim=(0, max(groups.values()) / 1e6 * 1.35))
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    top = names[-1]
    return fig, f"parameters by group, {total:,} in all; the largest is {top}, {groups[top]:,}"


@styled
def weight_histograms(samples: dict[str, np.ndarray], std: float, widest: float = 0.6):
    """The distribution of some tensors' entries, up to `widest`, beside the normal of `std` that
    they started from; each panel says how many of its entries lie beyond.

    The bins are wide on purpose: weights of four bits lie on steps, which finer bins would show.
    """
    fig, axes = figure(8.6, 2.6, len(samples), sharey=True)
    grid = np.linspace(-widest, widest, 600)
    normal = np.exp(-((grid / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    for ax, (name, values) in zip(axes, samples.items(), strict=True):
        bins = np.linspace(-widest, widest, 62)
        share = np.histogram(values, bins)[0] / len(values) / np.diff(bins)
        ax.stairs(share, bins, fill=True, color=SKY, label="now")
        ax.plot(grid, normal, color=INK, lw=1, label="at the start")
        beyond = f"beyond ±{widest:g}:\n{100 * np.mean(np.abs(values) > widest):.2g}%"
        ax.text(-widest, 0.75 * normal.max(), beyond, fontsize=8, va="top")
        ax.set(title=re.sub(r"(\d)\.", r"\1\n", name), yticks=[], xlabel="value of a weight")
        ax.spines["left"].set_visible(False)
    axes[0].set_ylabel("how many have it")
    axes[0].legend(fontsize=8, handlelength=1, loc="upper right", borderaxespad=0)
    return fig, f"histograms of {len(samples)} tensors against a normal of standard deviation 1/24"


@styled
def residual_growth(sizes: dict[str, list[float]]):
    """The RMS of the residual stream after the embedding and after every block."""
    fig, ax = figure(7.6, 2.9)
    for color, (name, values) in zip(PALETTE, sizes.items(), strict=False):
        ax.plot(range(len(values)), values, "o-", color=color, ms=4, label=name)
    ax.set(
        xlabel="blocks passed (0: as the embedding gives it; 12: as layer 12 reads it)",
        ylabel="size of its vector (RMS)",
        yscale="log",
        title="How large a token's vector becomes",
    )
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(axis="y")
    if len(sizes) > 1:
        ax.legend()
    return fig, "the size of the residual stream after each block, on a log scale"


@styled
def attention_to_first(times: list[float], shares: list[float], alike: float):
    """For each layer, how many times as large as the others the first token's vector is when the
    layer reads it, and the share of attention that it gets; `alike` is the share of a token
    where all are treated alike."""
    fig, (above, below) = figure(7.6, 4.4, rows=2, sharex=True)
    above.axhline(1, color=SOFT, lw=1, ls="--")
    above.plot(range(len(times)), times, "o-", color=BLUE, ms=4)
    above.set(
        yscale="log",
        ylabel="times as large\nas the others",
        title="The first token's vector, as each layer reads it",
    )
    above.yaxis.set_major_formatter("{x:g}")
    below.bar(range(len(shares)), shares, color=ORANGE, width=0.7)
    below.plot([-0.7, len(shares) - 0.3], [alike, alike], color=SOFT, lw=1, ls="--")
    below.text(len(shares) - 0.1, alike, "all alike", fontsize=8, va="center")
    below.set(
        xlabel="layer (counted from 0)",
        ylabel="share of attention",
        xlim=(-0.9, len(shares) + 1.6),
        ylim=(0, 1),
        title="The share of attention that it gets there (the mean of all heads and later tokens)",
    )
    below.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    below.set_xticks(range(0, len(shares), 2))
    for ax in (above, below):
        ax.grid(axis="y")
    return fig, "for each layer the first token's size beside the others', and its attention share"
