"""The figures of notebook 5: learning rates, losses, what training does to the layers."""

from matplotlib.ticker import LogFormatter

from smol.lesson.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    PALETTE,
    PURPLE,
    RED,
    SKY,
    SOFT,
    blank,
    box,
    figure,
    shade,
    styled,
    written,
)

__all__ = [
    "attended",
    "by_depth",
    "checkpoint_parts",
    "looking_back",
    "schedules",
    "stopped_at",
    "sweep",
    "training",
]


@styled(dpi=96)
def schedules(rates: dict[str, list[float]]):
    """Each schedule's part of the full learning rate, step by step."""
    fig, ax = figure(6.4, 2.3)
    for color, (name, values) in zip(PALETTE, rates.items(), strict=False):
        ax.plot(values, color=color, label=name)
    ax.set(xlabel="step", ylabel="part of the full rate", ylim=(0, 1.05))
    ax.legend(loc=(0.3, 0.1))
    return fig, f"learning rates by step: {' and '.join(rates)} warm up and end near 0"


@styled(dpi=96)
def sweep(rates: list[float], losses: list[float]):
    """The loss that each learning rate came to."""
    fig, ax = figure(6.4, 2.4)
    ax.plot(rates, losses, "o-", color=BLUE)
    ax.set(xscale="log", xlabel="learning rate", ylabel="nats per token")
    ax.grid(axis="y")
    return fig, f"the loss against {len(rates)} learning rates, on a log scale"


@styled(dpi=96)
def training(log: list[dict], lines: dict[str, float], top: float | None = None):
    """A run's loss and held-out loss against what knows less, or all there is to know."""
    fig, ax = figure(7.6, 3.6)
    held_out = [row for row in log if "val_loss" in row]
    rows = [row for row in log if "loss" in row]
    for style, part, key in (("-", rows, "loss"), ("o-", held_out, "val_loss")):
        name = "training" if key == "loss" else "held out"
        color = SKY if key == "loss" else BLUE
        ax.plot(
            [row["step"] for row in part],
            [row[key] for row in part],
            style,
            color=color,
            label=name,
        )
    for name, value in lines.items():
        ax.axhline(value, color=RED if "floor" in name else SOFT, lw=1.2, ls="--")
        ax.annotate(
            f" {name} {value:.{3 if value < 1 else 2}f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    ax.set(xlabel="step", ylabel="nats per token", ylim=(0, top), xlim=(0, None))
    ax.legend(loc="best")
    named = f", with lines for {', '.join(lines)}" if lines else ""
    return fig, f"training and held-out loss by step{named}"


@styled(dpi=96)
def attended(tokenizer, ids: list[int], weights):
    """Tokens coloured by how much a head attends to them at the last place but one, where it has
    to predict the last token, which is underlined."""
    looks = [*weights.tolist()[: len(ids) - 1], 0.0]
    pieces = [
        (
            tokenizer.token_bytes(i).decode(errors="replace"),
            shade(BLUE, 0.6 * weight),  # dark text stays readable
            k == len(ids) - 1,
        )
        for k, (i, weight) in enumerate(zip(ids, looks, strict=True))
    ]
    next_one = tokenizer.decode(ids[-1:])
    alt = f"where a head looks, at the place where {next_one!r} comes next, in {len(ids)} tokens"
    return written(pieces), alt


@styled(dpi=100)
def by_depth(sizes: dict[str, list[float]], gradients: dict[str, list[float]]):
    """The stream's size after each block, and the length of each block's gradient; log scales."""
    fig, axes = figure(8.4, 2.9, 2)
    for ax, lines, title in (
        (axes[0], sizes, "size of the stream after the block"),
        (axes[1], gradients, "length of the block's gradient"),
    ):
        for color, (name, values) in zip((BLUE, RED), lines.items(), strict=False):
            ax.plot(range(1, len(values) + 1), values, "o-", ms=3, color=color, label=name)
        ax.set(yscale="log", xlabel="block", title=title)
        for axis_ticks in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            axis_ticks(LogFormatter(minor_thresholds=(2, 0.5)))
        ax.grid(axis="y")
    axes[1].legend(loc="upper right")
    return fig, f"stream and gradient, first block to last, for: {', '.join(gradients)}"


@styled(dpi=96)
def stopped_at(curves: dict[str, list[float]], name: str, line: float):
    """Losses by step, and the line at which one of them stops."""
    fig, ax = figure(7.2, 2.8)
    for color, (label, losses) in zip((BLUE, RED), curves.items(), strict=False):
        ax.plot(range(1, len(losses) + 1), losses, color=color, label=label)
    ax.axhline(line, color=SOFT, lw=1.2, ls="--")
    place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
    ax.annotate(f" {name} {line:.2f}", (1, line), **place)
    ax.set(xlabel="step", ylabel="nats per token", xlim=(0, None))
    ax.legend(loc="upper right")
    return fig, f"losses by step, {' and '.join(curves)}, and the {name} line"


@styled(dpi=96)
def looking_back(rows: list[dict]):
    """A run, checkpoint by checkpoint: the held-out loss, the loss where a token comes again, the
    attention of the last layer's heads to where it stood."""
    fig, axes = figure(7.6, 5.2, 1, 3, sharex=True)
    steps = [row["step"] for row in rows]
    axes[0].plot(steps, [row["val_loss"] for row in rows], "o-", ms=4, color=BLUE)
    axes[0].set(title="held-out loss, nats per token")
    axes[1].plot(steps, [row["again"] for row in rows], "o-", ms=4, color=RED)
    axes[1].set(title="loss on rare tokens that come again", ylim=(0, None))
    for number, color in zip(range(len(rows[0]["scores"])), (GREEN, ORANGE, PURPLE), strict=False):
        shares = [100 * row["scores"][number] for row in rows]
        axes[2].plot(steps, shares, "o-", ms=4, color=color, label=f"head {number}")
    axes[2].set(title="attention of the last layer's heads to where it stood, in %", xlabel="step")
    axes[2].set(ylim=(0, None))
    axes[2].legend(loc="upper left", ncols=3)
    for ax in axes:
        ax.grid(axis="y")
    return fig, (
        "held-out loss, loss on tokens that come again, and attention to where they stood, "
        f"step {steps[0]:,} to {steps[-1]:,}"
    )


@styled(dpi=96)
def checkpoint_parts(sizes: dict[str, int]):
    """What is in a checkpoint, file by file, and what each part is for."""
    fig, ax = figure(8.2, 2.9)
    blank(ax, (0, 10), (0, 4.1))
    parts = [
        ("config.json", BLUE, ["the shape of the model"]),
        ("tokenizer.json", BLUE, ["the tokens"]),
        ("model.safetensors", BLUE, ["the weights: what any program needs", "to use the model"]),
        (
            "training.pt",
            RED,
            [
                "the optimizer's two means of each weight (m, v)",
                "the step: where the schedule stands",
                "the place in the data: which batch is next",
                "settings, random numbers, a hash of the weights",
            ],
        ),
    ]
    for k, (name, color, lines) in enumerate(parts):
        y = 3.6 - 0.78 * k if k < 3 else 0.95
        mb = sizes.get(name, 0) / 1e6
        size = f"{mb:.1f} MB" if mb >= 0.05 else "small"
        box(ax, 1.6, y, 3.0, 0.62, f"{name}   {size}", color)
        ax.text(3.35, y, "\n".join(lines), va="center", fontsize=9.5)
    for y, low, high, text, color in (
        (2.82, 1.75, 3.95, "to use it", BLUE),
        (0.95, 0.35, 1.55, "to go on with it", RED),
    ):
        ax.plot((8.05, 8.05), (low, high), color=color, lw=2)
        ax.text(8.2, y, text, va="center", color=color)
    return fig, f"what is in a checkpoint: {', '.join(name for name, _, _ in parts)}"
