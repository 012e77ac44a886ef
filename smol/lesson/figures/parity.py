"""The figures of notebook 3: where models part, and which check catches which bug."""

import numpy as np
from matplotlib.colors import ListedColormap

from smol.lesson.figures.style import BLUE, PALETTE, SOFT, figure, styled

__all__ = ["bug_table", "divergence"]


@styled
def divergence(lines: dict[str, list[float]]):
    """How far each broken model is from the reference after every block, on a log scale."""
    fig, ax = figure(7.6, 3.0)
    floor = 1e-9
    dashes = ("-", "-", (0, (2, 2)), ":")  # the third often hides the second
    for color, dash, (name, values) in zip(PALETTE, dashes, lines.items(), strict=False):
        ax.semilogy(np.maximum(values, floor), "o", ls=dash, ms=3.5, color=color, label=name)
    ax.axhline(floor, color=SOFT, lw=1, ls="--")
    ax.text(0, floor * 1.6, "0: exact", fontsize=9, color=SOFT)
    ax.set(xlabel="blocks passed", ylabel="largest difference / largest value")
    ax.grid(axis="y")
    ax.legend(fontsize=9)
    return fig, f"difference from the reference after each block, for {', '.join(lines)}"


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
