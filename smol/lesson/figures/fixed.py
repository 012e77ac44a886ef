"""The figures of notebook 8's second half: fused operations, launches, shared keys, a ladder."""

from matplotlib.patches import Rectangle

from smol.lesson.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SOFT,
    arrow,
    blank,
    box,
    figure,
    shade,
    styled,
)

__all__ = ["fused_norm", "ladder", "launched", "shared_keys"]

# The norm, kernel by kernel: what is computed, and how often x as a whole is read and written.
NORM = (
    ("x²", 1, 1),
    ("mean", 1, 0),
    ("+ ε", 0, 0),
    ("1/√", 0, 0),
    ("times x", 1, 1),
    ("times weight", 1, 1),
)


@styled(dpi=110)
def fused_norm():
    """A norm as six kernels, each of which fetches and stores, and as one."""
    fig, ax = figure(8.8, 3.1)
    blank(ax, (-1.7, 15.4), (-0.4, 5.6))
    for y, name in ((4.6, "kernels"), (1.2, "memory")):
        ax.text(-1.6, y, name, ha="left", va="center", color=SOFT)
    ax.add_patch(Rectangle((-0.1, 0.7), 15.3, 1.0, facecolor="#efefef", lw=0))
    thick = "six launches; a thick arrow is all of x, a thin one a number for each row"
    ax.text(6.2, 0.35, thick, ha="center", va="top", color=SOFT, fontsize=9)
    ax.text(14.1, 0.35, "one launch", ha="center", va="top", color=SOFT, fontsize=9)
    for k, (name, reads, writes) in enumerate(NORM):
        _kernel(ax, 1.0 + 2.05 * k, 1.75, name, reads, writes, BLUE)
    _kernel(ax, 14.1, 2.0, "all six", 1, 1, GREEN)
    ax.plot([12.7, 12.7], [0.5, 5.4], color=SOFT, lw=1, ls="--")
    reads, writes = (sum(kernel[k] for kernel in NORM) for k in (1, 2))
    total = f"x is read {reads} times and written {writes} times"
    ax.text(6.2, 5.45, f"as written: {total}", ha="center", va="center")
    ax.text(14.1, 5.45, "fused: once, once", ha="center", va="center")
    return fig, f"a norm as six kernels, in which {total}, and as one: once each"


def _kernel(ax, x: float, width: float, name: str, reads: int, writes: int, color: str) -> None:
    """A kernel above the strip of memory; thick arrows are all of x, thin ones a number a row."""
    box(ax, x, 4.4, width, 0.9, name, color, size=9)
    for place, whole, ends in ((x - 0.35, reads, (1.75, 3.9)), (x + 0.35, writes, (3.9, 1.75))):
        look = {"arrowstyle": "-|>", "color": RED if whole else SOFT, "lw": 2.6 if whole else 0.8}
        look |= {"mutation_scale": 13 if whole else 8, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(place, ends[1]), xytext=(place, ends[0]), arrowprops=look)


@styled(dpi=110)
def launched(kernels: int = 7, launch: float = 1.0, work: float = 0.35):
    """Two time lines: each kernel launched by the host in turn, and a graph launched once."""
    fig, axes = figure(8.8, 3.3, 1, 2, sharex=True)
    ends = []
    for ax, replay in zip(axes, (False, True), strict=True):
        starts = [launch * (1 if replay else k + 1) for k in range(kernels)]
        if replay:
            starts = [launch + (work + 0.05) * k for k in range(kernels)]
        sent = [0.0] if replay else [launch * k for k in range(kernels)]
        for start in sent:
            _bar(ax, start, 1, launch - 0.06, SKY, "graph" if replay else "launch")
        for start in starts:
            _bar(ax, start, 0, work, BLUE)
        ends.append(starts[-1] + work)
        if not replay:
            for start in starts[:-1]:
                middle = start + (launch + work) / 2
                ax.text(middle, 0, "waits", ha="center", va="center", color=SOFT, fontsize=8)
        ax.axvline(ends[-1], color=SOFT, lw=1, ls="--")
        ax.set(ylim=(-0.6, 1.6), xlim=(-0.1, launch * (kernels + 1)))
        ax.set_yticks([1, 0], ["host", "GPU"])
        ax.set_title("replayed: one launch" if replay else "launched one by one")
        ax.tick_params(axis="y", length=0)
        ax.set_xticks([])
    axes[1].set_xlabel("time →")
    part = ends[1] / ends[0]
    return fig, f"{kernels} short kernels: launched one by one the GPU waits; replayed: {part:.0%}"


def _bar(ax, start: float, y: float, width: float, color: str, text: str = "") -> None:
    ax.add_patch(Rectangle((start, y - 0.38), width, 0.76, facecolor=color, lw=0))
    if text:
        ax.text(start + width / 2, y, text, ha="center", va="center", color=INK, fontsize=8)


@styled(dpi=110)
def shared_keys(heads: int = 9, groups: int = 3):
    """Which query reads which keys: each its own copy, or a group of rows the one key head."""
    fig, axes = figure(8.8, 3.0, 2)
    per = heads // groups
    colors = [(BLUE, ORANGE, GREEN, PURPLE, SKY)[g % 5] for g in range(groups)]
    for ax, copied in zip(axes, (True, False), strict=True):
        blank(ax, (-0.7, heads - 0.3), (-0.9, 3.6))
        ax.set_title("keys copied for each query" if copied else "the queries of a group as rows")
        for head in range(heads):
            color = colors[head // per]
            if copied:
                box(ax, head, 2.9, 0.7, 0.6, f"q{head}", color, 8.5)
                place = head, 0.6
                arrow(ax, (head, 2.55), (head, 1.15))
            else:
                middle = (head // per) * per + (per - 1) / 2
                box(ax, middle, 3.1 - 0.62 * (head % per), 1.5, 0.52, f"q{head}", color, 8.5)
                place = middle, 0.6
            if copied or head % per == 0:
                tall = Rectangle((place[0] - 0.34, 0.05), 0.68, 1.05)
                tall.set(facecolor=shade(color, 0.35), edgecolor=color, lw=1.4)
                ax.add_patch(tall)
                ax.text(*place, f"k{head // per}", ha="center", va="center", fontsize=8.5)
            if not copied and head % per == per - 1:
                arrow(ax, (place[0], 1.55), (place[0], 1.15))
        said = f"{heads} reads of all keys" if copied else f"{groups} reads of all keys"
        ax.text((heads - 1) / 2, -0.45, said, ha="center", va="center", color=SOFT, fontsize=9)
    return fig, f"{heads} queries: with copies {heads} reads of the keys, as rows {groups}"


@styled(dpi=110)
def ladder(steps: dict[str, float], what: str, bound: tuple[str, float] | None = None):
    """Milliseconds of each step of a ladder, and what no step can go below; a log scale where
    they are far apart."""
    fig, ax = figure(8.8, 0.36 * len(steps) + 1.0)
    names, times = list(steps), list(steps.values())
    best, most = min(times), max(times)
    least = bound[1] if bound else best
    colors = [ORANGE if k == 0 else GREEN if t == best else BLUE for k, t in enumerate(times)]
    ax.barh(range(len(names)), times, color=colors, height=0.66)
    for k, t in enumerate(times):
        ax.annotate(f" {t:.3g} ms", (t, k), va="center", fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=what, xlim=(0, 1.12 * most))
    if most > 20 * least:
        ax.set(xscale="log", xlim=(least / 1.5, 2 * most))
        ax.xaxis.set_major_formatter(lambda t, _: f"{t:g}")
    if bound:
        ax.axvline(bound[1], color=RED, lw=1.4, ls="--")
        said = f" {bound[0]}: {bound[1]:.2g} ms"
        ax.text(bound[1], -0.62, said, color=RED, va="bottom", fontsize=9)
    ax.set_ylim(len(names) - 0.4, -1.25 if bound else -0.6)
    ax.tick_params(axis="y", length=0)
    told = ", ".join(f"{name} {t:.3g}" for name, t in steps.items())
    return fig, f"{what}: {told}" + (f"; {bound[0]} {bound[1]:.2g}" if bound else "")
