"""The figures of notebook 1: where the parameters are, and how large the numbers."""

import math

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

__all__ = ["parameter_bars", "residual_growth", "weight_histograms"]


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
def weight_histograms(samples: dict[str, np.ndarray], std: float):
    """The distribution of some tensors' entries beside the normal they started from."""
    fig, axes = figure(8.6, 2.3, len(samples), sharey=True)
    grid = np.linspace(-4 * std, 4 * std, 200)
    normal = np.exp(-((grid / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    for ax, (name, values) in zip(axes, samples.items(), strict=True):
        ax.hist(values, bins=80, range=(-4 * std, 4 * std), density=True, color=SKY)
        ax.plot(grid, normal, color=INK, lw=1.2)
        ax.set(title=name, yticks=[], xticks=[-0.1, 0, 0.1], xlabel="a weight")
        ax.spines["left"].set_visible(False)
    return fig, f"histograms of {len(samples)} tensors against a normal of standard deviation 1/24"


@styled
def residual_growth(sizes: dict[str, list[float]]):
    """The RMS of the residual stream after the embedding and after every block."""
    fig, ax = figure(7.6, 2.6)
    for color, (name, values) in zip(PALETTE, sizes.items(), strict=False):
        ax.plot(range(len(values)), values, "o-", color=color, ms=4, label=name)
    ax.set(xlabel="blocks passed", ylabel="RMS", yscale="log", title="Size of a token's vector")
    ax.grid(axis="y")
    if len(sizes) > 1:
        ax.legend()
    return fig, "the size of the residual stream after each block, on a log scale"
