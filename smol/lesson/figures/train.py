"""The figures of notebook 5: learning rates, losses, what training does to the layers."""

from matplotlib.ticker import LogFormatter

from smol.lesson.figures.style import BLUE, PALETTE, RED, SKY, SOFT, figure, shade, styled, written

__all__ = ["attended", "by_depth", "schedules", "sweep", "training"]


@styled
def schedules(rates: dict[str, list[float]]):
    """Each schedule's part of the full learning rate, step by step."""
    fig, ax = figure(6.4, 2.3)
    for color, (name, values) in zip(PALETTE, rates.items(), strict=False):
        ax.plot(values, color=color, label=name)
    ax.set(xlabel="step", ylabel="part of the full rate", ylim=(0, 1.05))
    ax.legend(loc=(0.3, 0.1))
    return fig, f"learning rates by step: {' and '.join(rates)} warm up and end near 0"


@styled
def sweep(rates: list[float], losses: list[float]):
    """The loss that each learning rate came to."""
    fig, ax = figure(6.4, 2.4)
    ax.plot(rates, losses, "o-", color=BLUE)
    ax.set(xscale="log", xlabel="learning rate", ylabel="nats per token")
    ax.grid(axis="y")
    return fig, f"the loss against {len(rates)} learning rates, on a log scale"


@styled
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
            f" {name} {value:.2f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    ax.set(xlabel="step", ylabel="nats per token", ylim=(0, top), xlim=(0, None))
    ax.legend(loc="best")
    named = f", with lines for {', '.join(lines)}" if lines else ""
    return fig, f"training and held-out loss by step{named}"


@styled
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


@styled
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
