"""The figures of notebook 8's first half and of its end: what waits, and what each idea gave."""

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
    arrow,
    blank,
    box,
    figure,
    styled,
)

__all__ = [
    "falling",
    "gained",
    "logits_in_chunks",
    "one_product",
    "own_gradient",
    "phases",
    "slope",
    "waits",
]

WAITING = "#f2f2f2"


@styled(dpi=110)
def waits():
    """Python's line and the chip's, for work that waits for launches, for memory, for nothing."""
    fig, axes = figure(8.4, 3.5, rows=3)
    rows = (
        ("1  waits for launches", [(0.3 + k, 0.8) for k in range(8)], 0.3, 0),
        ("2  waits for memory", [(0.3 + 0.3 * k, 0.25) for k in range(8)], 1.1, 0.75),
        ("3  computes all the time", [(0.3 + 0.3 * k, 0.25) for k in range(8)], 1.1, 0),
    )
    for ax, (title, launches, took, fetching) in zip(axes, rows, strict=True):
        blank(ax, (-1.1, 9.4), (-0.15, 2.15))
        ax.set_title(title)
        ax.text(-0.05, 1.5, "Python", ha="right", va="center", fontsize=9)
        ax.text(-0.05, 0.4, "chip", ha="right", va="center", fontsize=9)
        ax.add_patch(Rectangle((0.3, 0.05), 9, 0.7, color=WAITING, lw=0))
        free = 0.0
        for start, wide in launches:
            ax.add_patch(Rectangle((start, 1.15), wide - 0.05, 0.7, color=SKY, lw=0))
            begin = free = max(start + wide, free)
            fetch = took * fetching
            ax.add_patch(Rectangle((begin, 0.05), fetch, 0.7, color=ORANGE, lw=0))
            ax.add_patch(
                Rectangle((begin + fetch, 0.05), took - fetch - 0.05, 0.7, color=BLUE, lw=0)
            )
            free = begin + took
    legend = (("launch", SKY), ("fetch from memory", ORANGE), ("arithmetic", BLUE))
    marks = [Rectangle((0, 0), 1, 1, color=color) for _, color in (*legend, ("", WAITING))]
    names = [*(name for name, _ in legend), "stands still"]
    fig.legend(marks, names, loc="outside lower center", ncols=4, fontsize=9)
    fig.text(0.985, 0.095, "time →", ha="right", color=SOFT, fontsize=9)
    alt = (
        "Python's line and the chip's: the chip waits for launches, its arithmetic waits for "
        "memory, or it computes all the time"
    )
    return fig, alt


@styled(dpi=100)
def one_product(rows: list[int], seconds: list[float], bounds: dict[str, list[float]]):
    """Measured seconds of a product against its rows, and the three bounds that it cannot beat."""
    fig, ax = figure(7.2, 3.5)
    ax.plot(rows, [1e6 * s for s in seconds], "o-", color=INK, label="measured")
    colors = dict(zip(bounds, (SKY, ORANGE, BLUE), strict=True))
    for name, values in bounds.items():
        ax.plot(rows, [1e6 * s for s in values], "--", color=colors[name], label=name)
    ax.set(xscale="log", yscale="log", xlabel="rows of the product", ylabel="microseconds")
    ax.set_xticks(rows, [f"{n:,}" for n in rows])
    ax.minorticks_off()
    ax.grid(axis="y")
    ax.legend(loc="upper left")
    return fig, f"microseconds of one product by rows, measured, with bounds: {', '.join(bounds)}"


@styled(dpi=100)
def phases(found: dict[str, tuple[int, float]]):
    """Of each phase of a step its calls on the left, its milliseconds on the right."""
    fig, axes = figure(8.2, 2.2, 2, sharey=True)
    names = list(found)
    for ax, part, title, digits in (
        (axes[0], 0, "operations that Python asked for", 0),
        (axes[1], 1, "milliseconds", 1),
    ):
        values = [found[name][part] for name in names]
        bars = ax.barh(names, values, color=PALETTE[: len(names)], height=0.65)
        ax.bar_label(bars, [f"{value:,.{digits}f}" for value in values], padding=3, fontsize=9)
        ax.set(xticks=[], xlim=(0, 1.2 * max(values)), title=title)
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(length=0)
    axes[0].invert_yaxis()
    return fig, f"calls and milliseconds of each phase: {', '.join(names)}"


@styled(dpi=100)
def logits_in_chunks(chunks: int = 4):
    """The logits of a batch whole, and chunk by chunk, of which one is held at a time."""
    fig, axes = figure(7.6, 2.3, 2)
    for ax, title in zip(axes, ("all at once", "in chunks: one is held at a time"), strict=True):
        blank(ax, (0, 10), (0, 4.4))
        ax.set_title(title)
        whole = ax is axes[0]
        for k in range(chunks):
            y, held = 3.4 - 0.95 * k, whole or k == 1
            word = "logits" if held else "used, forgotten" if k == 0 else "to come"
            for x, wide, text, on in (
                (0.9, 1.6, "hidden", True),
                (4.7, 4.6, word, held),
                (8.9, 1.4, "loss", whole or k < 2),
            ):
                color = (BLUE if x < 1 else RED if x < 5 else GREEN) if on else FAINT
                box(ax, x, y, wide, 0.72, text, color, size=8.5)
            ax.annotate("→", (2.05, y), ha="center", va="center", color=SOFT)
            ax.annotate("→", (7.6, y), ha="center", va="center", color=SOFT)
    return fig, f"the logits of a batch all at once, and in {chunks} chunks, one held at a time"


@styled(dpi=100)
def slope(p: list[float], label: int):
    """What the model believes, the truth, and their difference, token by token."""
    fig, axes = figure(8.2, 2.4, 3, sharey=True)
    truth = [float(k == label) for k in range(len(p))]
    difference = [a - b for a, b in zip(p, truth, strict=True)]
    for ax, values, title, color in (
        (axes[0], p, "p: what the model believes", BLUE),
        (axes[1], truth, "onehot: the truth", GREEN),
        (axes[2], difference, "p − onehot: the gradient", RED),
    ):
        bars = ax.bar(range(len(p)), values, color=color, width=0.7)
        ax.bar_label(bars, [f"{v:.2f}".replace("-", "−") for v in values], padding=2, fontsize=8)
        ax.axhline(0, color=SOFT, lw=0.8)
        ax.set(title=title, xlabel="token", xticks=range(len(p)), ylim=(-0.95, 1.2), yticks=[])
        ax.spines["left"].set_visible(False)
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(length=0)
    return fig, f"for {len(p)} tokens p, the onehot of token {label}, and their difference"


@styled(dpi=100)
def own_gradient():
    """One chunk's way through the loss: logits, slope, two gradients; what is kept, what not."""
    fig, ax = figure(8.4, 2.7)
    blank(ax, (0, 16), (0, 5))
    for x, y, wide, text, color in (
        (1.5, 3.6, 2.4, "h: a chunk's rows\n(n, D)", BLUE),
        (1.5, 1.2, 2.4, "W: the head\n(V, D)", BLUE),
        (5.4, 2.4, 2.3, "logits (n, V)\nforgotten", RED),
        (9.0, 3.9, 2.3, "loss\nadded up", GREEN),
        (9.0, 1.6, 2.5, "g = p − onehot\n(n, V), forgotten", RED),
        (13.9, 3.0, 3.3, "d_h = g W,  (n, D)\nthis chunk's, kept", GREEN),
        (13.9, 0.8, 3.3, "d_W += gᵀ h,  (V, D)\nadded up over chunks", GREEN),
    ):
        box(ax, x, y, wide, 1.15, text, color, size=8.5)
    for start, end in (
        ((2.7, 3.6), (4.25, 2.65)),
        ((2.7, 1.2), (4.25, 2.15)),
        ((6.55, 2.65), (7.85, 3.7)),
        ((6.55, 2.15), (7.75, 1.7)),
        ((10.25, 1.85), (12.25, 2.85)),
        ((10.25, 1.4), (12.25, 0.95)),
    ):
        arrow(ax, start, end)
    for x, y, text in ((3.45, 2.4, "1"), (11.2, 2.75, "2"), (11.2, 0.8, "3")):
        ax.text(x, y, text, color=PURPLE, fontsize=12, weight="bold", ha="center", va="center")
    ax.text(0.3, 4.65, "purple: the three products with the head", color=PURPLE, fontsize=8.5)
    alt = (
        "a chunk's rows and the head make logits, these the loss and g, and g the gradients of "
        "the rows and of the head; logits and g are forgotten"
    )
    return fig, alt


@styled(dpi=96)
def falling(losses: dict[str, list[float]]):
    """Losses by step, one line each."""
    fig, ax = figure(6.8, 2.8)
    for (name, values), color in zip(losses.items(), (INK, ORANGE, RED, PURPLE), strict=False):
        ax.plot(values, color=color, label=name, lw=3 if color == INK else 1.8)
    ax.set(xlabel="step", ylabel="nats per token", ylim=(0, None), xlim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig, f"losses by step: {', '.join(losses)}"


@styled(dpi=100)
def gained(ladders: dict[str, list[tuple[str, float]]], where: str):
    """For each kind of work the milliseconds of one rung after the other, and the limit."""
    fig, axes = figure(
        8.4,
        0.5 + 0.3 * sum(len(rows) + 1.6 for rows in ladders.values()),
        1,
        len(ladders),
        height_ratios=[len(rows) for rows in ladders.values()],
    )
    for ax, (title, rows) in zip(axes, ladders.items(), strict=True):
        names, values = zip(*rows, strict=True)
        colors = [
            ORANGE if "transformers" in n else FAINT if "limit" in n else BLUE for n in names
        ]
        bars = ax.barh(range(len(names)), values, color=colors, height=0.7)
        ax.bar_label(bars, [f"{v:.3g} ms" for v in values], padding=4, fontsize=9)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set(title=title, xticks=[], xlim=(0, 1.15 * max(values)))
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(length=0)
    said = "; ".join(
        f"{title}: {', '.join(f'{n} {v:.3g} ms' for n, v in rows)}"
        for title, rows in ladders.items()
    )
    return fig, f"{where}, {said}"
