"""The figures of notebook 9's first half: what is learned of a text, how a habit grows, what
mistakes cost, and how LoRA goes beside a weight."""

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
    SOFT,
    arrow,
    blank,
    box,
    figure,
    shade,
    styled,
    written,
)

__all__ = [
    "answers_by_step",
    "answers_of_a_run",
    "lora",
    "ranks",
    "three_lessons",
    "traps",
    "what_is_learned",
]

LEARNED, BETTER, WORSE = shade(ORANGE, 0.55), shade(GREEN, 0.45), shade(RED, 0.4)


@styled(dpi=110)
def three_lessons():
    """The same words for pretraining, fine-tuning and preferences: what counts in each."""
    question = ["‹user›", "Which", "animal", "had", "Lotte", "?", "‹end›", "‹assistant›"]
    answer, other = ["A", "mouse", ".", "‹end›"], ["A", "bear", ".", "‹end›"]
    rows = (
        ("pretraining: every token is learned", question + answer, [LEARNED] * 12),
        (
            "fine-tuning: only the answer and its end",
            question + answer,
            [None] * 8 + [LEARNED] * 4,
        ),
        ("a preference: this answer", question + answer, [None] * 8 + [BETTER] * 4),
        ("rather than that one", question + other, [None] * 8 + [WORSE] * 4),
    )
    fig, ax = figure(8.8, 3.0)
    blank(ax, (0, 96), (len(rows) * 2, -0.1))
    for y, (title, words, colors) in enumerate(rows):
        ax.text(0, 2 * y + 0.35, title, fontsize=9, color=SOFT, va="center")
        x = 0.0
        for word, color in zip(words, colors, strict=True):
            wide = 1.25 * len(word) + 1.6
            look = {"facecolor": color or "white", "edgecolor": FAINT if color is None else INK}
            ax.add_patch(Rectangle((x, 2 * y + 0.75), wide, 0.9, lw=0.8, **look))
            ax.text(x + wide / 2, 2 * y + 1.2, word, ha="center", va="center", fontsize=9)
            x += wide + 0.5
    alt = (
        "one conversation, three times: in pretraining every token is learned, in fine-tuning the "
        "answer and its end, and of a preference one answer rather than another"
    )
    return fig, alt


@styled(dpi=110)
def what_is_learned(tokens: list[str], mask: list[bool]):
    """A conversation as text: what is learned has a colour, the rest is only read."""
    pieces = [
        (text, LEARNED if here else None, False) for text, here in zip(tokens, mask, strict=True)
    ]
    said = "".join(text for text, here in zip(tokens, mask, strict=True) if here)
    alt = f"a conversation of {len(tokens)} tokens, of which {sum(mask)} are learned: {said!r}"
    return written(pieces), alt


@styled(dpi=110)
def answers_by_step(steps: list[int], shares: dict[str, list[float]]):
    """Shares of right answers, from 0 to 1, as the training goes: a line for each kind."""
    fig, ax = figure(7.2, 3.1)
    for (name, values), color in zip(shares.items(), PALETTE, strict=False):
        ax.plot(steps, [100 * share for share in values], "o-", ms=4, color=color, label=name)
    ax.set(xlabel="steps", ylabel="right answers, %", ylim=(-3, 103), xlim=(0, None))
    ax.grid(axis="y")
    ax.legend(title="the question is about", loc="best")
    told = ", ".join(f"{name} {100 * values[-1]:.0f} %" for name, values in shares.items())
    return fig, f"right answers over {steps[-1]} steps; at the end: {told}"


ASKED = {
    "who": "who",
    "what": "what",
    "where": "where",
    "count": "how many",
    "last": "who, what came last",
    "open": "what is left open",
}


@styled(dpi=110)
def answers_of_a_run(rows: list[dict], start: float):
    """Right answers of each kind at a run's checkpoints, and what it has forgotten: the loss on
    held-out stories, which was `start` in the base. Rows are those of `smol.bench.answers`."""
    fig, (left, right) = figure(9.0, 3.6, 2)
    steps, ends = [int(row["model"].rpartition("-")[2]) for row in rows], []
    for (kind, name), color in zip(ASKED.items(), PALETTE, strict=True):
        counts = [[row[part].get(kind, (0, 0)) for part in ("first", "later")] for row in rows]
        shares = [100 * (a + c) / (b + d) for (a, b), (c, d) in counts]
        left.plot(steps, shares, "o-", ms=3, lw=1.5, color=color, label=name)
        ends.append(f"{name} {shares[-1]:.0f} %")
    left.set(title="right answers, %", ylim=(-3, 103))
    left.legend(loc="lower right", fontsize=8, title="the question is", title_fontsize=8)
    losses = [row["story_loss"] for row in rows]
    right.plot(steps, losses, "o-", ms=3, lw=1.5, color=INK, label="the run")
    right.axhline(start, color=SOFT, ls="--", lw=1.4, label="the base")
    right.set(title="loss on held-out stories, nats per token")
    right.legend(loc="best", fontsize=8)
    for ax in (left, right):
        ax.set(xlabel="steps of the third run", xlim=(0, None))
        ax.grid(axis="y")
    alt = (
        f"right answers over {steps[-1]} steps, at the end: {', '.join(ends)}; the loss on "
        f"held-out stories goes from {losses[0]:.3f} to {losses[-1]:.3f}, the base has {start:.3f}"
    )
    return fig, alt


@styled(dpi=110)
def ranks(left: list[int], shares: dict[str, list[float]]):
    """Shares of right answers, from 0 to 1, of a model whose change by fine-tuning was cut to
    ranks, the smallest first: a line for each kind."""
    fig, ax = figure(7.2, 3.1)
    for (name, values), color in zip(shares.items(), PALETTE, strict=False):
        ax.plot([100 * share for share in values], "o-", ms=5, color=color, label=name)
    ax.set_xticks(range(len(left)), map(str, left))
    ax.set(xlabel="rank that is left of the change of each matrix", ylabel="right answers, %")
    ax.set_ylim(-3, 103)
    ax.grid(axis="y")
    ax.legend(title="the question is about", loc="best")
    told = "; ".join(
        f"{name} " + ", ".join(f"{r}: {100 * y:.0f} %" for r, y in zip(left, values, strict=True))
        for name, values in shares.items()
    )
    return fig, f"right answers by the rank that is left of the change: {told}"


@styled(dpi=110)
def lora():
    """The two ways through a LoRA layer: W above, A and B below."""
    fig, ax = figure(7.6, 2.9)
    blank(ax, (0, 15), (0, 5.6))
    ax.text(0.5, 2.8, "x", fontsize=13, ha="center", va="center")
    box(ax, 6.2, 4.1, 4.4, 1.9, "W\nstands still", SOFT)
    box(ax, 4.0, 1.3, 1.1, 1.2, "A", ORANGE)
    box(ax, 8.2, 1.3, 1.1, 1.9, "B", PURPLE)
    ax.text(6.1, 1.62, "r numbers", ha="center", fontsize=9, color=SOFT)
    ax.text(4.0, 0.3, "r rows, drawn", ha="center", fontsize=9, color=SOFT)
    ax.text(8.2, 0.02, "r columns, zero", ha="center", fontsize=9, color=SOFT)
    for start, end in (
        ((0.9, 2.9), (3.95, 4.1)),
        ((0.9, 2.7), (3.4, 1.3)),
        ((4.6, 1.3), (7.6, 1.3)),
        ((8.8, 1.3), (10.1, 1.3)),
        ((8.45, 4.1), (12.1, 3.05)),
        ((11.3, 1.3), (12.1, 2.55)),
    ):
        arrow(ax, start, end)
    box(ax, 10.7, 1.3, 1.1, 0.9, "× α/r", SOFT, size=9)
    box(ax, 12.5, 2.8, 0.7, 0.7, "+", INK, size=12)
    arrow(ax, (12.9, 2.8), (14.0, 2.8))
    ax.text(14.4, 2.8, "y", fontsize=13, ha="center", va="center")
    alt = (
        "x goes two ways, by W, which stands still, and by A, which makes r numbers of it, and B, "
        "which makes an output of these; the second, times α/r, is added to the first"
    )
    return fig, alt


@styled(dpi=110)
def traps(rows: dict[str, dict]):
    """Right answers by mistake, as `python -m smol.bench traps` stores its rows: their mean as a
    bar, each seed as a point. The first is the run without one, in green."""
    shares = {name: _right(row["runs"]) for name, row in rows.items() if _right(row["runs"])}
    fig, ax = figure(8.8, 0.3 * len(shares) + 0.9)
    told = []
    for y, (name, points) in enumerate(shares.items()):
        mean = sum(points) / len(points)
        ax.barh(y, mean, color=BLUE if y else GREEN, height=0.66)
        ax.plot(points, [y] * len(points), "o", color=INK, ms=4, mec="white", mew=0.6, zorder=3)
        ended = [run["ended"] for run in rows[name]["runs"]]
        ended = 100 * sum(ended) / len(ended)
        said = f"  {mean:.0f} %" + (f"; {ended:.0f} % of the replies end" if ended < 90 else "")
        ax.annotate(said, (max(points), y), va="center", fontsize=9)
        told.append(f"{name} {mean:.0f} %")
    ax.set_yticks(range(len(shares)), [rows[name]["says"] for name in shares])
    ax.set(xlabel="right answers of all questions, %", xlim=(0, 108))
    ax.set_ylim(len(shares) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    return fig, f"right answers by mistake, the mean of all seeds: {', '.join(told)}"


def _right(runs: list[dict]) -> list[float]:
    """Per cent of all questions, for each run in which some were asked."""
    counts = [[run[k] for k in ("plain", "open", "long") if k in run] for run in runs]
    return [100 * sum(c[0] for c in run) / sum(c[1] for c in run) for run in counts if run]
