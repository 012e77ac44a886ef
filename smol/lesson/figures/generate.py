"""The figures of notebook 7: the loop, probabilities, draws, what a cache keeps, who sees whom."""

import numpy as np
from matplotlib.patches import Rectangle

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
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
    "by_batch",
    "by_temperature",
    "drawn_counts",
    "filters",
    "likelihood",
    "next_tokens",
    "one_more_token",
    "padded_masks",
    "speculation",
    "token_times",
    "writing_loop",
]


@styled
def next_tokens(names: list[str], p: list[float], level: float | None = None, what: str = ""):
    """Probabilities of the likeliest next tokens and, where it is known, the level that the true
    ones have."""
    fig, ax = figure(8.2, 2.5)
    border = 0 if level is None else level / 2
    ax.bar(range(len(p)), p, color=[BLUE if x > border else RED for x in p], width=0.75)
    if level is not None:
        ax.axhline(level, color=INK, ls="--", lw=1.2)
        ax.text(len(p) - 0.4, level * 1.04, what, ha="right", va="bottom")
    ax.set_xticks(range(len(p)), names, rotation=60, ha="right", rotation_mode="anchor")
    ax.set(ylabel="probability", xlim=(-0.6, len(p) - 0.4))
    ax.tick_params(axis="x", length=0)
    line = f", and a line for {what}" if what else ""
    return fig, f"probability of the {len(p)} likeliest next tokens{line}"


@styled
def likelihood(tokenizer, ids: list[int], logprobs: list[float]):
    """A text whose tokens are the darker the less likely the model found them."""
    pieces = [
        (
            tokenizer.token_bytes(i).decode(errors="replace"),
            shade(ORANGE, min(1.0, max(0.0, -logprob / 6))),
            False,
        )
        for i, logprob in zip(ids, logprobs, strict=True)
    ]
    total = -sum(logprobs)
    return written(pieces), f"{len(ids)} tokens and their {total:.0f} nats of surprise"


@styled
def writing_loop(text: str, token: str):
    """The loop that writes: from a text to a token, and back with one token more."""
    fig, ax = figure(9.2, 2.2)
    blank(ax, (0, 18.4), (0, 4.4))
    steps = (
        (2.0, 3.4, text, INK, "the text so far"),
        (6.0, 2.2, "model", BLUE, "notebooks 1 to 3"),
        (9.6, 2.6, "logits", BLUE, "one for each token"),
        (13.2, 2.8, "temperature,\nfilters", ORANGE, "7.1, 7.4"),
        (16.7, 2.2, "softmax,\ndraw", ORANGE, "7.4"),
    )
    for (x, width, name, color, below), after in zip(steps, [*steps[1:], None], strict=True):
        box(ax, x, 2.9, width, 1.1, name, color)
        ax.text(x, 2.05, below, ha="center", va="center", color=SOFT, fontsize=8.5)
        if after:
            arrow(ax, (x + width / 2, 2.9), (after[0] - after[1] / 2, 2.9))
    ax.plot([16.7, 16.7, 2.0], [1.7, 0.7, 0.7], color=SOFT, lw=1.3)
    arrow(ax, (2.0, 0.7), (2.0, 1.7))
    said = f"append the new token, here “{token}”, and go round again"
    ax.text(9.3, 0.95, said, ha="center", va="bottom", color=INK, fontsize=9.5)
    names = " → ".join(step[2].replace("\n", " ") for step in steps)
    return fig, f"{names} → append “{token}”, and round again"


@styled
def filters(names: list[str], panels: dict[str, tuple[list[float], list[float]]]):
    """For each panel the probabilities of the same tokens before (grey) and after (blue)."""
    columns, n = min(3, len(panels)), len(panels)
    rows, largest = -(-n // columns), max(max(a + b) for a, b in panels.values())
    height = rows * (0.75 + (0.2 if len(names) > 8 else 0.28) * len(names))
    fig, axes = figure(2.6 * columns + 0.4, height, columns, rows, sharex=True, sharey=True)
    axes = np.atleast_1d(axes).flatten()
    for ax, (title, (before, after)) in zip(axes, panels.items(), strict=True):
        ax.barh(range(len(names)), before, color="#c9c9c9", height=0.85)
        ax.barh(range(len(names)), after, color=BLUE, height=0.45)
        ax.set(title=title, xticks=np.arange(0, largest, 0.2), xlim=(0, 1.08 * largest))
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    for ax in axes[-columns:]:
        ax.set_xlabel("probability")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    return fig, f"next-token probabilities before and after: {', '.join(panels)}"


@styled
def drawn_counts(names: list[str], expected: list[float], counts: list[int]):
    """How often each token was drawn (dots) beside how often it was to be expected (bars); the
    bar's line is two standard deviations of such a count to either side."""
    fig, ax = figure(8.2, 2.7)
    x, e = range(len(names)), np.array(expected)
    ax.bar(x, e, color="#c9c9c9", width=0.75, label="expected, ± 2 standard deviations")
    ax.errorbar(x, e, yerr=2 * e**0.5, fmt="none", ecolor=SOFT, capsize=3, lw=1.2)
    ax.plot(x, counts, "o", color=BLUE, ms=5, label="drawn")
    ax.set_xticks(x, names, rotation=60, ha="right", rotation_mode="anchor")
    ax.set(ylabel="times drawn", xlim=(-0.6, len(names) - 0.4))
    ax.tick_params(axis="x", length=0)
    ax.legend()
    return fig, f"how often each of {len(names)} tokens was drawn, and how often it was expected"


@styled
def by_temperature(shares: dict[float, float], level: float, stories: int):
    """The share of stories that the grammar can read, by the temperature they were drawn at; a
    bar is one standard error of a share of so many stories to either side."""
    fig, ax = figure(6.4, 2.6)
    ax.axhline(level, color=SOFT, ls="--", lw=1.2)
    ax.text(max(shares), level, "the grammar's own", ha="right", va="bottom", color=SOFT)
    drawn = {t: share for t, share in shares.items() if t > 0}
    y = np.array(list(drawn.values()))
    error = (y * (1 - y) / stories) ** 0.5
    ax.errorbar(list(drawn), y, yerr=error, fmt="o-", color=BLUE, capsize=3, elinewidth=1.2)
    if 0.0 in shares:  # one story, whatever the seed: no share
        ax.plot([0], [shares[0.0]], "o", color=BLUE, mfc="white")
        ax.annotate(" greedy: one story", (0, shares[0.0]), va="bottom", fontsize=9)
    ax.set(xlabel="temperature τ", ylabel="stories read", ylim=(-0.03, 1.12))
    ax.set_yticks([0, 0.5, 1], ["none", "half", "all"])
    ax.grid(axis="y")
    return fig, f"share of stories that the grammar can read at {len(shares)} temperatures"


@styled
def one_more_token(words: list[str]):
    """What is computed in the step that reads the last of `words`, without a cache and with one:
    keys and values (a strip), and scores (a grid; rows = queries)."""
    n, parts = len(words), []
    fig, axes = figure(4.4 * 2, 0.62 * n + 1.9, 2, sharey=True)
    for ax, cached in zip(axes, (False, True), strict=True):
        first = n - 1 if cached else 0  # the first token that this step computes anything for
        for column in range(n):
            _square(ax, column, -1.35, BLUE if column >= first else "#bdbdbd", 0.7)
            for row in range(n):
                done = column <= row >= first
                _square(ax, column, row, BLUE if done else "white", 1)
        if cached:
            ax.set_title(f"With a cache: 1 new column, {n - 1} kept")
            spans = ((0, n - 2, "kept since prefill"), (n - 1, n - 1, "decode"))
        else:
            ax.set_title(f"Without a cache: all {n} columns again")
            spans = ((0, n - 1, "all computed in this step"),)
        for start, end, what in spans:
            ax.plot([start - 0.4, end + 0.4], [-1.95, -1.95], color=SOFT, lw=1.2)
            ax.text((start + end) / 2, -2.05, what, ha="center", va="bottom", fontsize=9)
        scores = sum(range(first + 1, n + 1))
        name = "with a cache" if cached else "without a cache"
        parts.append(f"{name} the keys and values of {n - first}, and {scores} scores")
        ax.set(xlim=(-0.6, n - 0.4), ylim=(n - 0.4, -2.6), aspect="equal")
        ax.set(xlabel="token that is looked at", ylabel="token that looks")
        ax.set_xticks(range(n), words)
        ax.set_yticks([-1.35, *range(n)], ["keys, values", *words])
        ax.yaxis.set_tick_params(labelleft=True)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return fig, f"what is computed when token {n} is read: {'; '.join(parts)}"


@styled
def padded_masks(masks: dict[str, tuple[list[str], int, np.ndarray]]):
    """For each row of a batch who may look at whom; `tokens, padding, mask` of a row: the first
    `padding` of its tokens are padding, and greyed."""
    fig, axes = figure(2.95 * len(masks), 3.2, len(masks))
    for ax, (title, (tokens, padding, mask)) in zip(
        np.atleast_1d(axes), masks.items(), strict=True
    ):
        n, names = len(tokens), ["pad"] * padding + tokens[padding:]
        for row in range(n):
            for column in range(n):
                pads = row < padding or column < padding
                look = "#9a9a9a" if pads else BLUE
                color = look if mask[row][column] else "#eeeeee" if pads else "white"
                _square(ax, column, row, color, 1)
        ax.set(title=title, xlim=(-0.6, n - 0.4), ylim=(n - 0.4, -0.6), aspect="equal")
        ax.set(xlabel="is looked at", ylabel="looks")
        ax.set_xticks(range(n), names, rotation=90, fontsize=7.5)
        ax.set_yticks(range(n), names, fontsize=7.5)
        for label in (*ax.get_xticklabels()[:padding], *ax.get_yticklabels()[:padding]):
            label.set_color("#9a9a9a")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    told = "; ".join(f"{title}, {padding} of padding" for title, (_, padding, _) in masks.items())
    return fig, f"who may look at whom in each row of a padded batch: {told}"


@styled
def speculation(p: list[float], q: list[float]):
    """Two distributions over a few tokens: what the draft q gives to p, and what is missing."""
    fig, ax = figure(6.4, 2.6)
    x, low = np.arange(len(p)), np.minimum(p, q)
    ax.bar(x - 0.2, low, 0.36, color=BLUE, label="kept drafts: min(p, q)")
    rest = np.array(p) - low
    ax.bar(x - 0.2, rest, 0.36, bottom=low, color=ORANGE, label="drawn anew: max(p − q, 0)")
    ax.bar(x + 0.2, q, 0.36, color="#c9c9c9", label="the draft, q")
    ax.set_xticks(x, [f"token {i}" for i in range(len(p))])
    ax.set(ylabel="probability")
    ax.tick_params(axis="x", length=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9)
    kept = low.sum()
    return fig, f"p in two parts: {kept:.2f} are kept drafts, {1 - kept:.2f} are drawn anew"


def _square(ax, x: float, y: float, color: str, height: float) -> None:
    corner = x - 0.5, y - height / 2
    ax.add_patch(Rectangle(corner, 1, height, facecolor=color, edgecolor=FAINT, lw=1))


@styled
def token_times(lines: dict[str, tuple[list[int], list[float]]]):
    """Milliseconds for one more token against how many stand before it."""
    fig, ax = figure(6.4, 2.7)
    for color, (name, (x, seconds)) in zip((RED, BLUE), lines.items(), strict=False):
        ax.plot(x, [1000 * s for s in seconds], color=color, label=name, lw=1.4)
    ax.set(xlabel="tokens before it", ylabel="ms per token", ylim=(0, None))
    ax.grid(axis="y")
    ax.legend()
    return fig, f"time of one more token against those before it: {', '.join(lines)}"


@styled
def by_batch(seconds: dict[int, float]):
    """Time of one decode step against the conversations it serves, beside what it would be if
    they took turns."""
    fig, ax = figure(6.4, 2.7)
    names, times = [str(B) for B in seconds], [1000 * s for s in seconds.values()]
    turns = [B * times[0] for B in seconds]
    ax.bar(names, turns, color="#dddddd", width=0.7, label="one after another (computed)")
    ax.bar(names, times, color=BLUE, width=0.45, label="together (measured)")
    ax.set(xlabel="conversations in the batch", ylabel="ms per step")
    ax.legend()
    return fig, f"time of a decode step for {', '.join(names)} conversations at once"
