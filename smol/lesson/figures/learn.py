"""The figures of notebook 5's first half: what a loss is, how it falls, and the loop as a map."""

import math

from matplotlib.patches import Ellipse

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    SKY,
    SOFT,
    arrow,
    blank,
    box,
    figure,
    styled,
)

__all__ = ["bowl", "downhill", "loop_map", "noisy_slopes", "predictions", "settling"]


@styled(dpi=96)
def predictions(words: list[str], labels: list[str], models: dict[str, list[float]]):
    """Tokens, under each the one that comes next, and what each model gave that one: p, -ln p."""
    fig, ax = figure(9.2, 1.7 + 0.8 * len(models))
    bottom = -1.3 * len(models) - 1.0
    blank(ax, (-2.1, len(words) + 1.25), (bottom, 1.6))
    for y, name in ((1.0, "it reads"), (-0.25, "the label")):
        ax.text(-0.75, y, name, ha="right", va="center", fontsize=9.5)
    for x, (word, label) in enumerate(zip(words, labels, strict=True)):
        box(ax, x, 1.0, 0.94, 0.62, word, SOFT, 9)
        box(ax, x, -0.25, 0.94, 0.62, label, BLUE, 9)
        arrow(ax, (x, 0.66), (x, 0.1))
    ax.text(len(words) + 0.3, -1.0, "mean = loss", ha="center", fontsize=9, weight="bold")
    means = []
    for row, (name, shares) in enumerate(models.items()):
        y, nats = -1.55 - 1.3 * row, [-math.log(share) for share in shares]
        means.append(sum(nats) / len(nats))
        ax.text(-0.75, y, f"{name}:  p", ha="right", va="center", fontsize=9.5)
        ax.text(-0.75, y - 0.5, "−ln p", ha="right", va="center", fontsize=9.5)
        for x, (share, surprise) in enumerate(zip(shares, nats, strict=True)):
            digits = 4 if share < 0.001 else 3 if share < 0.1 else 2
            ax.text(x, y, f"{share:.{digits}f}", ha="center", va="center", fontsize=9, color=SOFT)
            strength = min(1.0, surprise / 9)
            ax.text(
                x, y - 0.5, f"{surprise:.1f}", ha="center", va="center", fontsize=9.5
            ).set_bbox(
                {"facecolor": (*_rgb(ORANGE), 0.9 * strength), "edgecolor": "none", "pad": 2.5}
            )
        ax.text(
            len(words) + 0.3,
            y - 0.5,
            f"{means[-1]:.1f}",
            ha="center",
            va="center",
            fontsize=12,
            weight="bold",
        )
    said = "; ".join(f"{name}: {mean:.1f}" for name, mean in zip(models, means, strict=True))
    return fig, f"{len(words)} tokens, the label under each, p and -ln p of it; mean, {said}"


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))


def _coin(w: float, share: float = 0.8) -> float:
    """The loss of one weight on a text of which that share is the first of two words."""
    return math.log1p(math.exp(-w)) * share + math.log1p(math.exp(w)) * (1 - share)


def _valley(ax, low: float, high: float) -> None:
    ws = [low + (high - low) * k / 200 for k in range(201)]
    ax.plot(ws, [_coin(w) for w in ws], color=SOFT, lw=1.5)
    ax.set(xlabel="the weight w")


@styled(dpi=96)
def downhill(paths: dict[str, list[float]]):
    """The loss as a valley, and the steps that each learning rate takes in it."""
    fig, axes = figure(9.2, 2.7, len(paths), sharey=True)
    for ax, color, (name, ws) in zip(axes, (SKY, GREEN, RED), paths.items(), strict=True):
        _valley(ax, -1.5, 6.5)
        ax.plot(ws, [_coin(w) for w in ws], "o-", color=color, ms=5, lw=1, alpha=0.9)
        ax.plot(ws[0], _coin(ws[0]), "o", color=INK, ms=6)
        ax.set(title=name, ylim=(0.4, 1.8))
    axes[0].set_ylabel("loss")
    return fig, f"the loss as a valley over one weight, with the steps for {', '.join(paths)}"


@styled(dpi=96)
def noisy_slopes(slopes: dict[str, list[float]], right: float):
    """How often batches of each size say which slope."""
    fig, axes = figure(9.2, 2.3, len(slopes), sharex=True)
    for ax, (name, values) in zip(axes, slopes.items(), strict=True):
        ax.hist(values, bins=[k / 20 - 0.5 for k in range(21)], color=BLUE, rwidth=0.9)
        ax.axvspan(0, 0.5, color=FAINT, zorder=0)
        ax.axvline(right, color=RED, lw=2)
        ax.set(title=name, xlabel="slope", yticks=[], xlim=(-0.5, 0.5))
    axes[0].text(0.03, 0.93, "wrong way", transform=axes[0].get_xaxis_transform(), fontsize=8.5)
    axes[0].set_ylabel("how many batches")
    return fig, f"the slopes that batches of {', '.join(slopes)} give, about the right one"


STATIONS = {
    "windows": "draw a batch\n5.4",
    "model": "logits\nnotebook 2",
    "loss": "mean of −ln p\n5.1, 5.5",
    "backward": "all slopes\n5.2",
    "clip": "not too long\n5.7",
    "AdamW": "the step\n5.6",
}


@styled(dpi=96)
def loop_map(lit: str = ""):
    """The loop of training as stations, one of them lit."""
    fig, ax = figure(9.0, 1.85)
    blank(ax, (-0.6, len(STATIONS) - 0.4), (-1.35, 1.35))
    for x, (name, does) in enumerate(STATIONS.items()):
        box(ax, x, 0, 0.78, 0.62, name, RED if name == lit else BLUE, 10.5, filled=name == lit)
        ax.text(x, -0.42, does, ha="center", va="top", fontsize=8.5, color=SOFT, linespacing=1.3)
        if x:
            arrow(ax, (x - 0.6, 0), (x - 0.4, 0))
    last, mark = len(STATIONS) - 1, lit == "schedule"
    box(ax, last, 1.0, 1.02, 0.5, "η: schedule 5.7", RED if mark else GREEN, 8.5, filled=mark)
    arrow(ax, (last, 0.74), (last, 0.33))
    ax.plot([last + 0.4, last + 0.57, last + 0.57], [0, 0, -1.27], color=SOFT, lw=1.3)
    ax.plot([last + 0.57, -0.5, -0.5], [-1.27, -1.27, 0], color=SOFT, lw=1.3)
    arrow(ax, (-0.5, 0), (-0.4, 0))
    ax.text(2.5, -1.2, "again: that was one step", ha="center", fontsize=8.5, color=SOFT)
    return fig, f"the loop, station by station{f'; here: {lit}' if lit else ''}"


@styled(dpi=96)
def bowl(paths: dict[str, list[tuple[float, float]]], steep: float):
    """A valley that is steep in one direction and flat in the other, seen from above."""
    fig, axes = figure(9.2, 2.6, len(paths), sharey=True)
    for ax, color, (name, path) in zip(axes, (ORANGE, RED, BLUE), paths.items(), strict=False):
        for size in range(1, 9, 2):
            width, height = 2 * size, 2 * size / math.sqrt(steep)
            ax.add_patch(Ellipse((0, 0), width, height, fill=False, color=FAINT, lw=1.2))
        ax.plot(*zip(*path, strict=True), "o-", color=color, ms=3, lw=1)
        ax.plot(*path[0], "o", color=INK, ms=6)
        ax.plot(0, 0, "+", color=INK, ms=9)
        ax.set(title=name, xlim=(-5, 2.5), ylim=(-1.3, 1.3), xlabel="the flat weight")
    axes[0].set_ylabel("the steep weight")
    return (
        fig,
        f"a stretched bowl from above, its bottom marked, and the steps of {', '.join(paths)}",
    )


@styled(dpi=96)
def settling(paths: dict[str, list[float]], last: int):
    """Where the last steps of each path lie in the valley of `downhill`."""
    fig, axes = figure(9.2, 2.5, len(paths), sharey=True)
    for ax, color, (name, ws) in zip(axes, (RED, GREEN), paths.items(), strict=True):
        _valley(ax, 0.0, 3.2)
        ends = ws[-last:]
        ax.plot(ends, [_coin(w) for w in ends], "o", color=color, ms=5, alpha=0.6)
        ax.set(title=name, ylim=(0.48, 0.66))
    axes[0].set_ylabel("loss")
    return fig, f"the bottom of the valley and the last {last} steps: {', '.join(paths)}"
