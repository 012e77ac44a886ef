"""The figures of notebook 3: where models part, which check catches which bug, what the logit lens
shows."""

import numpy as np
from matplotlib.colors import ListedColormap

from smol.lesson.figures.style import BLUE, FAINT, INK, PALETTE, SOFT, figure, styled

__all__ = ["bug_table", "divergence", "lens"]


@styled
def divergence(lines: dict[str, list[float]]):
    """How far each broken model is from the reference, on a log scale: after the embedding, then
    after every layer. No difference at all stands at the bottom, as 0."""
    fig, ax = figure(7.6, 3.0)
    floor = 1e-9
    dashes = ("-", "-", (0, (2, 2)), ":")  # the third often hides the second
    for color, dash, (name, values) in zip(PALETTE, dashes, lines.items(), strict=False):
        layers, heights = np.arange(len(values)) - 1, np.maximum(values, floor)
        ax.semilogy(layers, heights, "o", ls=dash, ms=3.5, color=color, label=name)
    ax.axhline(floor, color=SOFT, lw=1, ls="--")
    ax.text(-1, floor * 1.6, "exact", fontsize=9, color=SOFT)
    powers = range(-8, 1, 2)
    ax.set_yticks([floor, *(10.0**n for n in powers)], ["0", *(f"$10^{{{n}}}$" for n in powers)])
    ax.minorticks_off()
    last = max(map(len, lines.values())) - 2
    shown = [*range(5, last - 1, 5), last]
    ax.set_xticks([-1, *shown], ["embedding", *map(str, shown)])
    ax.set(xlabel="after layer", ylabel="largest difference / largest value")
    ax.grid(axis="y")
    ax.legend(fontsize=9)
    return fig, f"difference from the reference after each layer, for {', '.join(lines)}"


@styled
def bug_table(caught: dict[str, dict[str, bool]]):
    """Which check catches which bug: rows are bugs, columns checks, filled is caught."""
    bugs, checks = list(caught), list(next(iter(caught.values())))
    matrix = np.array([[caught[bug][check] for check in checks] for bug in bugs])
    half = (len(bugs) + 1) // 2
    fig, axes = figure(9.6, 0.2 * half + 1.2, 2)
    totals = [
        f"{name.replace(' ', chr(10), 1)}\n{int(n)} / {len(bugs)}"
        for name, n in zip(checks, matrix.sum(0), strict=True)
    ]
    for ax, rows in zip(axes, (slice(half), slice(half, None)), strict=True):
        part = matrix[rows]
        ax.imshow(part, cmap=ListedColormap(["#f0f0f0", BLUE]), vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(len(part)), bugs[rows], fontsize=8.5)
        ax.set_xticks(range(len(checks)), totals, fontsize=8.5)
        ax.xaxis.tick_top()
        ax.set_xticks(np.arange(len(checks) - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(len(part) - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", lw=1.2)
        ax.tick_params(which="both", length=0)
        ax.spines[:].set_visible(False)
    return fig, f"{len(bugs)} bugs against {len(checks)} checks: {', '.join(checks)}"


@styled
def lens(first: list[str], places: list[int], answer: str):
    """The first choice after each layer, and the place of the last layer's choice among all."""
    fig, ax = figure(9.6, 3.6)
    layers = range(len(first))
    ax.semilogy(layers, places, "o-", color=BLUE, ms=4)
    ax.set_ylim(100_000, 0.6)  # the first place is on top
    ticks = [1, 10, 100, 1000, 10_000]
    ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xticks(layers, [str(i) for i in layers], fontsize=8.5)
    ax.set(xlabel="after layer", ylabel=f"place of “{answer.strip()}”")
    ax.grid(axis="y")
    above = ax.get_xaxis_transform()
    for i, word in enumerate(first):
        text = _visible(word)
        slant = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
        look = slant if len(text) > 3 else {"ha": "center"}
        look |= {
            "fontsize": 14 if text == "·" else 10,
            "color": BLUE if word == answer else INK,
            "va": "bottom",
        }
        ax.text(i, 1.03, text, transform=above, **look)
        ax.axvline(i, color=FAINT, lw=0.6, zorder=0)
    caption = "first choice after each layer (· stands for a space, “.” is a full stop)"
    ax.set_title(caption, pad=50, fontsize=9.5, color=SOFT)
    runs = [[first[0], 0, 0]]  # a choice, and the layers from and to which it stays
    for i, word in enumerate(first[1:], 1):
        if word == runs[-1][0]:
            runs[-1][2] = i
        else:
            runs.append([word, i, i])
    said = ", ".join(f"“{_visible(word).strip('“”')}” after {_span(a, b)}" for word, a, b in runs)
    return fig, f"first choice: {said}; place of the last: {places[0]:,} to {places[-1]:,}"


def _visible(word: str) -> str:
    """A space as "·"; another lone sign in quotes, or it would be a speck."""
    shown = word.replace(" ", "·").replace("\n", "↵")
    return f"“{shown}”" if len(word) == 1 and not word.isalnum() and word != " " else shown


def _span(a: int, b: int) -> str:
    return str(a) if a == b else f"{a}–{b}"
