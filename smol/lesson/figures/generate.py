"""The figures of notebook 7: probabilities before and after, surprise, what a cache keeps."""

import numpy as np
from matplotlib.patches import Rectangle

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    RED,
    SOFT,
    figure,
    shade,
    styled,
    written,
)

__all__ = [
    "by_batch",
    "by_temperature",
    "filters",
    "likelihood",
    "next_tokens",
    "one_more_token",
    "token_times",
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
def filters(names: list[str], panels: dict[str, tuple[list[float], list[float]]]):
    """For each panel the probabilities of the same tokens before (grey) and after (blue)."""
    fig, axes = figure(2.3 * len(panels), 0.7 + 0.2 * len(names), len(panels), sharey=True)
    rows = range(len(names))
    for ax, (title, (before, after)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        ax.barh(rows, before, color="#c9c9c9", height=0.85)
        ax.barh(rows, after, color=BLUE, height=0.45)
        ax.set(title=title, xticks=[0, 0.2, 0.4], xlim=(0, 0.52), xlabel="probability")
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes = np.atleast_1d(axes)
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    return fig, f"next-token probabilities before and after: {', '.join(panels)}"


@styled
def by_temperature(shares: dict[float, float], level: float):
    """The share of stories that the grammar can read, by the temperature they were drawn at."""
    fig, ax = figure(6.4, 2.6)
    ax.axhline(level, color=SOFT, ls="--", lw=1.2)
    ax.text(max(shares), level, "the grammar's own", ha="right", va="bottom", color=SOFT)
    drawn = {T: share for T, share in shares.items() if T > 0}
    ax.plot(list(drawn), list(drawn.values()), "o-", color=BLUE)
    if 0.0 in shares:  # one story, whatever the seed: no share
        ax.plot([0], [shares[0.0]], "o", color=BLUE, mfc="white")
        ax.annotate(" greedy: one story", (0, shares[0.0]), va="bottom", fontsize=9)
    ax.set(xlabel="temperature", ylabel="stories read", ylim=(-0.03, 1.12))
    ax.set_yticks([0, 0.5, 1], ["none", "half", "all"])
    ax.grid(axis="y")
    return fig, f"share of stories that the grammar can read at {len(shares)} temperatures"


@styled
def one_more_token(words: list[str]):
    """What is computed in the step that reads the last of `words`, without a cache and with one:
    keys and values (a strip), and scores (a grid; rows = queries)."""
    n, parts = len(words), []
    fig, axes = figure(4.2 * 2, 0.62 * n + 1.5, 2, sharey=True)
    for ax, cached in zip(axes, (False, True), strict=True):
        first = n - 1 if cached else 0  # the first token that this step computes anything for
        for column in range(n):
            _square(ax, column, -1.35, BLUE if column >= first else "#bdbdbd", 0.7)
            for row in range(n):
                done = column <= row >= first
                _square(ax, column, row, BLUE if done else "white", 1)
        name = "with a cache" if cached else "without a cache"
        ax.set_title(f"{name}: {'grey is kept' if cached else 'all is computed again'}")
        scores = sum(range(first + 1, n + 1))
        parts.append(f"{name} the keys and values of {n - first}, and {scores} scores")
        ax.set(xlim=(-0.6, n - 0.4), ylim=(n - 0.4, -2), aspect="equal")
        ax.set(xlabel="token that is looked at", ylabel="token that looks")
        ax.set_xticks(range(n), words)
        ax.set_yticks([-1.35, *range(n)], ["keys, values", *words])
        ax.yaxis.set_tick_params(labelleft=True)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return fig, f"what is computed when token {n} is read: {'; '.join(parts)}"


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
