"""The figures of notebook 3: the ladder, where models part, which check catches which bug, how a
bug is told from another, what the logit lens shows."""

from itertools import groupby

import numpy as np
from matplotlib.patches import Rectangle

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    HEAT,
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

__all__ = ["bug_table", "bugs_by_prompt", "divergence", "lens", "questions", "rungs"]

RUNGS = (  # from the bottom; what is compared, and of which kind the comparison is
    ("weights", "every name, shape and number of the two checkpoints", 0),
    ("modules", "each module alone, on the inputs that the reference's module had", 0),
    ("modules in bf16", "the same once more with numbers of two bytes", 0),
    ("hidden states", "the stream after each block, while the model runs by itself", 1),
    ("logits", "what comes out at the end, for this text", 1),
    ("long logits", "the same for 1,100 tokens", 1),
    ("greedy", "the next eight tokens", 1),
    ("loss", "the mean surprise at the text", 2),
    ("gradients", "how the loss would move each parameter", 2),
    ("causality", "our model with itself: change a token, and nothing before it moves", 3),
    ("cache", "our model with itself: the text in pieces, and in one go", 3),
)
KINDS = (
    ("part by part", BLUE),
    ("the whole", ORANGE),
    ("learning", GREEN),
    ("no reference needed", PURPLE),
)


@styled
def rungs():
    """The ladder, its first rung at the bottom, with what each rung compares."""
    fig, ax = figure(8.8, 4.0)
    blank(ax, (0, 16), (-0.6, 11.4))
    for rail in (3.5, 5.3):
        ax.plot([rail, rail], [-0.5, 11.1], color=SOFT, lw=4, solid_capstyle="round")
    for y, (name, compares, kind) in enumerate(RUNGS):
        color = KINDS[kind][1]
        ax.plot([3.5, 5.3], [y, y], color=color, lw=6, solid_capstyle="round")
        ax.text(3.2, y, name, ha="right", va="center", fontsize=10, weight="bold")
        ax.text(5.65, y, compares, ha="left", va="center", fontsize=9.5)
    for kind, (words, color) in enumerate(KINDS):
        here = [y for y, rung in enumerate(RUNGS) if rung[2] == kind]
        ax.plot([14.35, 14.35], [min(here) - 0.35, max(here) + 0.35], color=color, lw=3)
        ax.text(14.5, np.mean(here), words.replace(" needed", "\nneeded"), va="center", fontsize=9)
    names = ", ".join(name for name, *_ in RUNGS)
    return fig, f"a ladder of eleven rungs, from the bottom: {names}; beside each what it compares"


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


@styled(dpi=120)
def bug_table(caught: dict[str, dict[str, float]], mutants: dict):
    """Each bug with its story, by the part of the model that it is in, and how much of each check
    catches it: dark is caught. A share between 0 and 1 (of several prompts) is written down."""
    checks = list(next(iter(caught.values())))
    groups = [(part, list(names)) for part, names in groupby(caught, lambda n: mutants[n].part)]
    height = len(caught) + 1.7 * len(groups)
    fig, ax = figure(8.6, 0.165 * height + 0.6)
    left = 11.05  # where the checks' columns begin
    blank(ax, (0, left + len(checks)), (height, -2.9))
    for column, check in enumerate(checks):
        total = sum(row[check] for row in caught.values())
        said = f"{total:.0f} of {len(caught)}" if total == round(total) else f"mean {total:.1f}"
        words = f"{check}\n{said}"
        ax.text(left + column + 0.5, -0.3, words, ha="center", va="bottom", fontsize=6)
    y = 0.0
    for part, names in groups:
        ax.text(0, y + 1.05, part, fontsize=8, weight="bold", color=BLUE, va="center")
        y += 1.7
        for name in names:
            ax.text(0.1, y + 0.5, name, fontsize=6.3, va="center", family="DejaVu Sans Mono")
            ax.text(3.45, y + 0.5, mutants[name].story, fontsize=6.5, va="center")
            for column, check in enumerate(checks):
                _caught(ax, left + column, y, float(caught[name][check]))
            y += 1
    return fig, (
        f"{len(caught)} bugs with a line each on what is wrong, by part of the model "
        f"({', '.join(part for part, _ in groups)}), against {len(checks)} checks: "
        f"{', '.join(checks)}"
    )


def _caught(ax, x: float, y: float, share: float) -> None:
    color = HEAT(0.12 + 0.63 * share) if share else "#f0f0f0"
    ax.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, facecolor=color, lw=0))
    if 0 < share < 1:
        ink = "white" if share > 0.6 else INK
        ax.text(x + 0.5, y + 0.5, f"{share:.0%}", ha="center", va="center", fontsize=6, color=ink)


@styled
def bugs_by_prompt(counts: list[int], bugs: int):
    """How many prompts catch how many of the bugs."""
    fig, ax = figure(7.6, 2.5)
    heights = np.bincount(counts, minlength=bugs + 1)
    ax.bar(range(bugs + 1), heights, color=BLUE)
    ax.set(xlabel=f"how many of the {bugs} bugs change the answer to a prompt", xlim=(-0.6, bugs))
    ax.set(ylabel="how many prompts")
    ax.yaxis.get_major_locator().set_params(integer=True)
    return fig, f"how many of {bugs} bugs each of {len(counts)} prompts catches"


@styled
def questions():
    """The questions by which a bug in an attention module is told from the others."""
    fig, ax = figure(8.8, 5.3)
    blank(ax, (0, 20.8), (0.3, 12.7))
    asked = {  # number: where, the question, and what to do about it
        0: (2.9, 12.0, "0  as it is", "does a plain pass show it at all?"),
        1: (2.9, 9.9, "1  one token alone", "no angle, one key"),
        2: (2.9, 7.8, "2  no rotation", "cos = 1, sin = 0"),
        3: (2.9, 4.5, "3  no rotation, the last row", "a right mask hides nothing from it"),
        4: (2.9, 1.8, "4  no rotation, equal tokens", "then the shares do not matter"),
        5: (13.2, 7.8, "5  all at one position", "q and k turned by one angle"),
        6: (13.2, 5.3, "6  one token, at position 9", "its share is 1: only v is left"),
        7: (13.2, 2.8, "7  no sine", "cos as it is, sin = 0"),
    }
    ends = (
        (9.9, 12.0, 5.2, "not the plain pass: look at the\nrung (cache, bf16, gradients)"),
        (
            10.4,
            9.9,
            6.2,
            "values, o_proj, which key/value head;\nor a mask hides a token from itself",
        ),
        (8.6, 4.0, 2.4, "the mask"),
        (8.9, 2.5, 3.0, "how the heads\nare put together"),
        (9.1, 0.9, 3.4, "the scores: their factor,\nor the heads of q"),
        (18.6, 8.4, 4.0, "the rotation itself:\npairs, direction"),
        (18.6, 5.9, 4.0, "v is rotated too"),
        (18.6, 3.5, 4.0, "the sine is lost"),
        (18.6, 1.7, 4.0, "q and k are rotated\ndifferently"),
    )
    for x, y, what, why in asked.values():
        box(ax, x, y, 5.2 if x < 10 else 4.6, 1.2, f"{what}\n{why}", BLUE, 7.5)
    for x, y, width, what in ends:
        box(ax, x, y, width, 1.0, what, RED, 7.5)
    for a, b, said, (dx, dy) in (
        ((5.5, 12.0), (7.3, 12.0), "agree", (-0.4, 0.25)),
        ((2.9, 11.4), (2.9, 10.5), "differ", (0.12, 0)),
        ((2.9, 9.3), (2.9, 8.4), "agree", (0.12, 0)),
        ((5.5, 9.9), (7.3, 9.9), "differ", (-0.4, 0.25)),
        ((5.5, 7.8), (10.9, 7.8), "agree: it is RoPE", (-1.3, 0.25)),
        ((2.9, 7.2), (2.9, 5.1), "differ: it is not RoPE", (0.12, 0)),
        ((5.5, 4.5), (7.4, 4.1), "agree", (-0.3, 0.4)),
        ((2.9, 3.9), (2.9, 2.4), "differ", (0.12, 0)),
        ((5.5, 2.0), (7.4, 2.5), "differ", (-0.5, 0.4)),
        ((5.5, 1.6), (7.4, 1.0), "agree", (-0.5, -0.45)),
        ((15.5, 7.9), (16.6, 8.3), "agree", (-0.6, 0.4)),
        ((13.2, 7.2), (13.2, 5.9), "differ", (0.12, 0)),
        ((15.5, 5.4), (16.6, 5.8), "differ", (-0.6, 0.4)),
        ((13.2, 4.7), (13.2, 3.4), "agree", (0.12, 0)),
        ((15.5, 3.0), (16.6, 3.4), "agree", (-0.6, 0.4)),
        ((15.5, 2.6), (16.6, 1.9), "differ", (-0.6, -0.45)),
    ):
        arrow(ax, a, b)
        x, y = (a[0] + b[0]) / 2 + dx, (a[1] + b[1]) / 2 + dy
        ax.text(x, y, said, fontsize=7.5, color=INK, va="center")
    said = "; ".join(what.replace("  ", ": ", 1) for _, _, what, _ in asked.values())
    return fig, f"a tree of questions for an attention module with a bug in it: {said}"


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
