"""The figures of notebook 1: what a transformer does, where the parameters are, and how large
the numbers become."""

from matplotlib.patches import Circle, Rectangle

from smol.lesson.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALETTE,
    PURPLE,
    RED,
    SOFT,
    arrow,
    blank,
    box,
    figure,
    styled,
)

__all__ = ["attention_to_first", "parameter_bars", "residual_growth", "transformer"]

LEFT, APART = 4.9, 2.15  # of the picture of a transformer: its first column, and the next


@styled
def transformer(tokens: list[str], predicted: list[tuple[str, float]], config):
    """A text on its way up: a column for each token, the first and the last block as rows, and on
    top of each column what the model holds likeliest next, with its probability."""
    fig, ax = figure(8.6, 7.0)
    columns = [LEFT + APART * i for i in range(len(tokens))]
    blank(ax, (0, columns[-1] + 1.6), (-0.3, 11.4))
    last = config.num_hidden_layers - 1
    for x, token, (text, chance) in zip(columns, tokens, predicted, strict=True):
        ax.text(x, 0, token, ha="center", fontsize=12)
        arrow(ax, (x, 0.4), (x, 0.72))
        box(ax, x, 1, 1.5, 0.52, f"{config.hidden_size} numbers", BLUE, 8)
        _stream(ax, x, 1.28, 5.15)
        ax.plot([x, x], [5.15, 5.85], color=INK, lw=2.6, ls=(0, (0.4, 1.6)))
        _stream(ax, x, 5.85, 9.18)
        box(ax, x, 9.46, 1.5, 0.52, "head", BLUE, 8.5)
        arrow(ax, (x, 9.74), (x, 10.2))
        ax.text(x, 10.42, text, ha="center", fontsize=12, color=RED, weight="bold")
        ax.text(x, 10.98, f"{chance:.0%}" if chance >= 0.01 else "< 1%", ha="center", fontsize=9)
    for bottom in (1.55, 5.85):
        _block(ax, columns, bottom)
    _words_beside(ax, config, last)
    said = ", ".join(
        f"after {token} {text} {chance:.0%}"
        for token, (text, chance) in zip(tokens, predicted, strict=True)
    )
    alt = (
        f"{len(tokens)} columns of tokens through {last + 1} blocks: in each block attention, "
        "arrows from each column to itself and to those on its right, then an MLP on each column "
        f"alone; on top the likeliest next token: {said}"
    )
    return fig, alt


def _stream(ax, x: float, low: float, high: float) -> None:
    ax.plot([x, x], [low, high - 0.2], color=INK, lw=2.6, solid_capstyle="butt", zorder=3)
    arrow(ax, (x, high - 0.3), (x, high), INK)


def _block(ax, columns: list[float], bottom: float) -> None:
    """One block: arrows from column to column, and an MLP beside each stream."""
    width = columns[-1] - columns[0] + 2.1
    ax.add_patch(
        Rectangle((LEFT - 0.6, bottom), width, 3.1, facecolor="#fffaf6", edgecolor=RED, lw=1.3)
    )
    low, high, mlp = bottom + 0.2, bottom + 1.35, bottom + 2.2
    for j, x in enumerate(columns):
        for source in columns[: j + 1]:  # from itself and from earlier columns only
            look = {"color": PURPLE, "lw": 1.3, "arrowstyle": "-|>", "mutation_scale": 11}
            look |= {"shrinkA": 0, "shrinkB": 4}
            if source == x:
                look["connectionstyle"] = "arc3,rad=-0.55"
            ax.annotate("", (x, high), (source, low), arrowprops=look, zorder=2)
        _plus(ax, x, high)
        ax.plot([x, x + 0.72], [mlp - 0.42] * 2, color=SOFT, lw=1.2)
        arrow(ax, (x + 0.72, mlp - 0.42), (x + 0.72, mlp - 0.18))
        box(ax, x + 0.72, mlp, 0.78, 0.38, "MLP", ORANGE, 7.5)
        ax.plot([x + 0.72, x + 0.72], [mlp + 0.19, mlp + 0.5], color=SOFT, lw=1.2)
        arrow(ax, (x + 0.72, mlp + 0.5), (x + 0.14, mlp + 0.5))
        _plus(ax, x, mlp + 0.5)


def _plus(ax, x: float, y: float) -> None:
    ax.add_patch(Circle((x, y), 0.15, facecolor="white", edgecolor=INK, lw=1.2, zorder=5))
    ax.text(x, y - 0.01, "+", ha="center", va="center", fontsize=9, zorder=6)


def _words_beside(ax, config, last: int) -> None:
    """What each row is, to the left of the columns."""
    rows = [
        (0.1, "the text, token by token", INK),
        (1.0, "embedding: look up the\ntoken's row of numbers", BLUE),
        (5.5, f"{last - 1} more blocks of the same form", SOFT),
        (9.46, f"head: a score for each of\nthe {config.vocab_size:,} possible tokens", BLUE),
        (10.75, "likeliest next token,\nand its probability", RED),
    ]
    for number, which, bottom in ((0, "first", 1.55), (last, "last", 5.85)):
        rows += [
            (bottom + 2.9, f"layer {number}, the {which} block", RED),
            (
                bottom + 0.75,
                "attention: each column takes\nfrom itself and those to its left",
                "#a8457a",
            ),
            (bottom + 2.2, "MLP: each column\nworks by itself", "#a06b00"),
        ]
    for y, text, color in rows:
        ax.text(LEFT - 0.95, y, text, ha="right", va="center", fontsize=8.5, color=color)


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
