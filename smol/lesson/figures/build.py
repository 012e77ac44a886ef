"""The figures of notebook 2: norms, rotary positions, attention by hand, heads, functions."""

import math

import numpy as np
from matplotlib.patches import Circle

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    HEAT,
    INK,
    ORANGE,
    PALETTE,
    RED,
    SOFT,
    arrow,
    blank,
    box,
    figure,
    styled,
)

__all__ = [
    "attention_arrows",
    "attention_steps",
    "curves",
    "head_groups",
    "head_maps",
    "norm_arrows",
    "rope_dials",
    "rope_pair",
    "rope_wavelengths",
]


@styled
def norm_arrows():
    """Vectors of two numbers before and after: what RMSNorm keeps, and what LayerNorm does."""
    fig, axes = figure(8.6, 3.0, 2)
    vectors = np.array([[3.0, 4.0], [1.5, 2.0], [4.0, 0.5], [-2.0, 1.0]])
    whole = {
        "RMSNorm: along its own ray onto one circle": lambda x: x,
        "LayerNorm: the mean is taken off first": lambda x: x - x.mean(-1, keepdims=True),
    }
    for ax, (title, prepare) in zip(axes, whole.items(), strict=True):
        blank(ax, (-4.6, 5.6), (-2.2, 4.6))
        ax.set_aspect("equal")
        ax.set_title(title)
        ax.plot([-3, 5], [0, 0], color=FAINT, lw=1, zorder=0)
        ax.plot([0, 0], [-2, 4.3], color=FAINT, lw=1, zorder=0)
        ax.add_patch(Circle((0, 0), math.sqrt(2), fill=False, edgecolor=SOFT, lw=1, ls="--"))
        moved = prepare(vectors)
        after = moved / np.sqrt((moved**2).mean(-1, keepdims=True))
        for end in np.unique(after.round(6), axis=0):
            many = int((np.abs(after - end).max(-1) < 1e-5).sum())
            if many > 1:
                x = end[0] + (0.4 if end[0] < 0 else -1.3)
                ax.text(x, end[1] + 0.55, f"{many} end here", ha="center", fontsize=8)
        for before, end, color in zip(vectors, after, PALETTE, strict=False):
            arrow(ax, (0, 0), before, color)
            ax.plot(*end, "o", ms=9, color=color, markeredgecolor="white", zorder=5)
            x, y = before * (1 + 0.3 / np.linalg.norm(before))
            label = ", ".join(f"{n:g}" for n in before)
            ax.text(x - 0.45 * (before[1] == 2), y + 0.12, f"({label})", ha="center", fontsize=8)
    axes[0].text(2.6, -1.6, "arrow: before\ndot: after", fontsize=8.5, color=SOFT)
    return fig, (
        "four vectors of two numbers and what becomes of them: RMSNorm puts each onto a circle "
        "without turning it; LayerNorm leaves only two places"
    )


@styled
def rope_pair(pairs: list[tuple[float, float]], q: tuple[float, float], k: tuple[float, float]):
    """q and k as clock hands, each turned by its position in radians: (m, n) for each panel."""
    fig, axes = figure(8.6, 2.9, len(pairs) + 1)
    for ax, (m, n) in zip(axes, [(0.0, 0.0), *pairs], strict=True):
        blank(ax, (-1.45, 1.45), (-1.5, 1.4))
        ax.set_aspect("equal")
        ax.add_patch(Circle((0, 0), 1, facecolor="#fafafa", edgecolor=FAINT, lw=1.5))
        ends = []
        for (x, y), angle, color, name in ((q, m, BLUE, "q"), (k, n, ORANGE, "k")):
            c, s = math.cos(angle), math.sin(angle)
            end = (x * c - y * s, y * c + x * s)
            ends.append(end)
            arrow(ax, (0, 0), end, color)
            far = 1.18 if name == "q" or m - n != 1 else 1.36
            ax.text(far * end[0], far * end[1], name, ha="center", va="center", color=color)
        score = sum(a * b for a, b in zip(*ends, strict=True))
        where = "not turned" if m == n == 0 else f"query at {m:g}, key at {n:g}"
        ax.set_title(where, ha="center", x=0.5)
        ax.text(0, -1.42, f"score {score:.2f}", ha="center", fontsize=9, color=INK)
    return fig, (
        "a query and a key as two clock hands, turned by their positions: the angle between them "
        "depends on the distance of the positions alone"
    )


@styled
def attention_steps(steps: dict[str, np.ndarray], words: list[str]):
    """Tables of one head, (T, T) each with its numbers, one for each step of attention."""
    fig, axes = figure(2.45 * len(steps), 2.75, len(steps))
    places = range(len(words))
    for ax, (title, table) in zip(axes, steps.items(), strict=True):
        finite = np.where(np.isfinite(table), table, np.nan)
        ax.imshow(finite, cmap=HEAT, vmin=0, vmax=1.35 * np.nanmax(finite))
        for i in places:
            for j in places:
                said = "−∞" if np.isneginf(table[i, j]) else f"{table[i, j]:.3g}"
                if np.isfinite(table[i, j]) and 0 < table[i, j] < 1:
                    said = f"{table[i, j]:.2f}"
                dark = np.isfinite(finite[i, j]) and finite[i, j] > 0.75 * np.nanmax(finite)
                color = "white" if dark else INK
                ax.text(j, i, said, ha="center", va="center", fontsize=8.5, color=color)
        ax.set_title(title)
        ax.set_xticks(places, words, fontsize=8.5)
        ax.set_yticks(places, words, fontsize=8.5)
        ax.set_xlabel("who is asked (key)", fontsize=9)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(np.arange(len(words) + 1) - 0.5, minor=True)
        ax.grid(which="minor", color=FAINT, lw=0.8)
        ax.spines[:].set_visible(False)
        ax.tick_params(which="both", length=0)
    axes[0].set_ylabel("who asks (query)", fontsize=9)
    return fig, f"tables of {', '.join(words)} against the same: {', '.join(steps)}"


@styled
def attention_arrows(weights: np.ndarray, words: list[str]):
    """Each token's column, and arrows from the tokens it reads, as thick as their shares."""
    T = len(words)
    fig, ax = figure(7.6, 2.9)
    blank(ax, (-0.5, T - 0.3), (-0.75, 2.35))
    for j, word in enumerate(words):
        ax.plot([j, j], [0.15, 2.0], color=INK, lw=2.4, zorder=1, solid_capstyle="round")
        box(ax, j, -0.1, 0.62, 0.34, word, BLUE, 10)
        ax.text(j, 2.12, f"{weights[j, j]:.2f} of itself", ha="center", fontsize=8.5, color=INK)
    for i in range(T):
        for j in range(i):
            share = float(weights[i, j])
            look = {"arrowstyle": "-|>", "color": RED, "lw": 0.4 + 6 * share, "shrinkA": 2}
            look |= {"alpha": 0.25 + 0.75 * share, "shrinkB": 2, "mutation_scale": 12}
            ax.annotate("", xy=(i, 1.6), xytext=(j, 0.35 + 0.25 * i), arrowprops=look)
            if share >= 0.1:
                at = (i + 0.07, 0.85 - 0.22 * (i - j - 1))
                white = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.9}
                said = f"{share:.2f} of “{words[j]}”"
                ax.text(*at, said, fontsize=8.5, color=RED, bbox=white)
    ax.text(
        -0.45,
        -0.65,
        "arrows: from the token that is read to the one that reads it, as thick as its share",
        fontsize=8.5,
        color=SOFT,
    )
    said = "; ".join(
        f"{words[i]} reads " + ", ".join(f"{words[j]} {weights[i, j]:.2f}" for j in range(i + 1))
        for i in range(T)
    )
    return fig, f"shares as arrows between columns, from left to right only: {said}"


@styled
def rope_dials(head_dim: int, theta: float, positions: int = 6):
    """Four of a head's pairs as clock hands, at the first few positions."""
    pairs = [0, head_dim // 16, head_dim // 8, head_dim // 2 - 1]
    fig, axes = figure(8.6, 2.6, 4)
    for ax, pair in zip(axes, pairs, strict=True):
        turn = theta ** (-2 * pair / head_dim)
        blank(ax, (-1.35, 1.35), (-1.45, 1.35))
        ax.set_aspect("equal")
        ax.add_patch(Circle((0, 0), 1, facecolor="#fafafa", edgecolor=FAINT, lw=1.5))
        for position in range(positions):
            x, y = math.cos(position * turn), math.sin(position * turn)
            shade = HEAT(0.4 + 0.6 * position / (positions - 1))
            arrow(ax, (0, 0), (x, y), shade)
            if position in (0, 1, positions - 1) and turn > 0.1:
                ax.text(1.17 * x, 1.17 * y, position, ha="center", va="center", fontsize=8)
        if turn <= 0.1:
            ax.text(1.05, 0, f"0–{positions - 1}", va="center", fontsize=8)
        once = 2 * math.pi / turn
        ax.set_title(f"pair {pair}", ha="center", x=0.5)
        ax.text(0, -1.4, f"once in {once:,.0f} tokens", ha="center", fontsize=8.5, color=SOFT)
    return fig, (
        f"pairs {', '.join(map(str, pairs))} of a head as clock hands at positions 0 to "
        f"{positions - 1}: the first turns by 1 radian per token, the last hardly at all"
    )


@styled
def rope_wavelengths(head_dim: int, thetas: dict[str, float], context: int):
    """How many tokens each pair needs for one full turn, for several thetas."""
    fig, ax = figure(7.6, 2.9)
    pairs = np.arange(head_dim // 2)
    for color, (name, theta) in zip(PALETTE, thetas.items(), strict=False):
        ax.semilogy(pairs, 2 * np.pi * theta ** (2 * pairs / head_dim), "o-", ms=3.5, color=color)
        last = 2 * math.pi * theta ** (2 * pairs[-1] / head_dim)
        ax.text(pairs[-1] + 0.4, last, name, color=color, va="center", fontsize=9)
    ax.axhline(context, color=SOFT, lw=1, ls="--")
    ax.text(0, context * 1.25, f"context: {context:,} tokens", fontsize=9, color=SOFT)
    ax.set(xlabel="pair", ylabel="tokens for one turn", xlim=(-0.7, head_dim // 2 + 5))
    ax.set_xticks([*range(0, head_dim // 2, 4), head_dim // 2 - 1])
    ax.grid(axis="y")
    return fig, f"tokens for one full turn of each pair, for theta {' and '.join(thetas)}"


@styled
def head_groups(num_heads: int, num_kv_heads: int):
    """Which key/value head each query head reads, with repeat_interleave and with repeat."""
    fig, axes = figure(8.6, 2.2, 2)
    group = num_heads // num_kv_heads
    wirings = {
        "repeat_interleave: h // group": [h // group for h in range(num_heads)],
        "repeat: h mod K  (wrong)": [h % num_kv_heads for h in range(num_heads)],
    }
    for ax, (title, reads) in zip(axes, wirings.items(), strict=True):
        blank(ax, (-1.3, num_heads - 0.4), (-0.45, 1.5))
        ax.set_title(title)
        spread = (num_heads - 1) / num_kv_heads
        for k in range(num_kv_heads):
            kx = (k + 0.5) * spread
            box(ax, kx, 0, 0.85, 0.3, f"kv {k}", PALETTE[k % 6], 8.5, filled=True)
            for h in (h for h in range(num_heads) if reads[h] == k):
                ax.plot([h, kx], [0.85, 0.15], color=PALETTE[k % 6], lw=1.6)
        for h in range(num_heads):
            box(ax, h, 1, 0.72, 0.3, str(h), PALETTE[reads[h] % 6], 8.5, filled=True)
        ax.text(-1.25, 1, "query", va="center", fontsize=8.5, color=SOFT)
    return fig, (
        f"{num_heads} query heads and {num_kv_heads} key/value heads: neighbours share with "
        "repeat_interleave, every third one with repeat"
    )


@styled
def head_maps(panels: dict[str, np.ndarray], words: list[str], half: int | None = None):
    """Attention weights side by side, (T, T) each, with the T tokens' words on both axes.

    All have one scale, from 0 to 1, so that a dark field is much in every panel. Where a text is
    said twice, `half` is the number of its words: a rule goes before the second beginning."""
    size = 2.6 if len(panels) > 2 else 3.0
    fig, axes = figure(size * len(panels) + 0.8, size + 0.6, len(panels), squeeze=False)
    places = range(len(words))
    for ax, (title, weights) in zip(axes[0], panels.items(), strict=True):
        shown = ax.imshow(weights.tolist(), cmap=HEAT, vmin=0, vmax=1)
        ax.set_title(title, fontsize=9.5)
        ax.set_xticks(places, words, rotation=90, fontsize=7.5)
        ax.set_yticks(places, words, fontsize=7.5)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(np.arange(len(words) + 1) - 0.5, minor=True)
        ax.grid(which="minor", color=FAINT, lw=0.5)
        ax.spines[:].set_visible(False)
        if half is not None:
            ax.axhline(half - 0.5, color=RED, lw=1.2)
            ax.axvline(half - 0.5, color=RED, lw=1.2)
        ax.tick_params(which="both", length=0)
        ax.set_xlabel("who is asked", fontsize=9)
    axes[0, 0].set_ylabel("who asks", fontsize=9)
    bar = fig.colorbar(shown, ax=axes, ticks=[0, 0.5, 1], aspect=25, shrink=0.7)
    bar.outline.set_visible(False)
    bar.set_label("share", fontsize=9)
    bar.ax.tick_params(labelsize=7.5)
    said = "; ".join(title.replace("\n", ", ") for title in panels)
    said += "" if half is None else f"; rules after {half} words, where the text begins again"
    return fig, f"attention weights, each word that asks against the words that it asks: {said}"


@styled
def curves(lines: dict[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str, alt: str):
    """A few functions over one axis."""
    fig, ax = figure(6.4, 2.7)
    for color, (name, (x, y)) in zip(PALETTE, lines.items(), strict=False):
        ax.plot(x, y, color=color, label=name)
    ax.axhline(0, color=SOFT, lw=0.8)
    ax.axvline(0, color=SOFT, lw=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig, alt
