"""The figures of notebook 9's last part: what is preferred, how far one may go for it, and what
dies on the way."""

from smol.lesson.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SOFT,
    figure,
    styled,
)

__all__ = ["overdone", "reward_and_distance", "reward_of_stories"]


@styled(dpi=100)
def reward_and_distance(
    frontier: list[tuple[float, float]], reached: dict[str, list[tuple[float, float]]]
):
    """Mean reward against distance: the frontier, above which there is nothing, and what was
    reached; each point, or each way of points, is (KL in nats, reward)."""
    fig, ax = figure(7.2, 3.6)
    far = 1.1 * max(0.5, *(d for way in reached.values() for d, _ in way))
    d, r = zip(*sorted(frontier), strict=True)
    d, r = (*d, max(far, d[-1])), (*r, r[-1])  # who has all that there is gets no more far away
    ax.fill_between(d, r, 1.06 * r[-1], color=FAINT, lw=0)
    ax.plot(d, r, color=INK, label="the best there is: π*, for each β")
    marks = zip(reached.items(), (BLUE, RED, GREEN, ORANGE, PURPLE, SKY), "oxs^Dv", strict=False)
    for (name, way), color, mark in marks:
        look = "-" if len(way) > 9 else ""
        ax.plot(*zip(*way, strict=True), mark + look, color=color, ms=5, lw=1, label=name)
    ax.set(
        xlabel="how far from the reference: KL in nats",
        ylabel="mean reward",
        xlim=(-0.02 * far, far),
        ylim=(None, 1.06 * r[-1]),
    )
    ax.text(0.02 * far, 1.03 * r[-1], "nothing can lie here", color=SOFT, va="top", fontsize=9)
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.42), fontsize=9)
    said = "; ".join(
        f"{name}: {way[-1][1]:.2f} at {way[-1][0]:.2f} nats" for name, way in reached.items()
    )
    return fig, f"the best mean reward at each distance from the reference; {said}"


@styled(dpi=100)
def overdone(rows: list[dict[str, float]]):
    """Few pairs, round after round: what the training shows, what it does to both answers, and
    what is true. Rows have round, margin, right, chosen, rejected, reward and best."""
    fig, axes = figure(8.8, 2.9, 3)
    rounds = [row["round"] for row in rows]

    def line(ax, key: str, color: str, label: str, **look) -> None:
        ax.plot(rounds, [row[key] for row in rows], color=color, label=label, **look)

    line(axes[0], "margin", BLUE, "margin")
    # In round 0 both are alike, and nothing is ranked.
    axes[0].plot(rounds[1:], [row["right"] for row in rows[1:]], color=GREEN, label="pairs right")
    line(axes[1], "chosen", BLUE, "chosen")
    line(axes[1], "rejected", RED, "rejected")
    line(axes[2], "best", INK, "the best at this distance", ls="--", lw=1.4)
    line(axes[2], "reward", ORANGE, "true reward")
    line(axes[2], "else", PURPLE, "no animal at all")
    titles = ("what the training shows", "ln p of its answers", "what is true, elsewhere")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="rounds", xlim=(0, rounds[-1]))
        ax.legend(loc="best", fontsize=8)
    axes[0].set_ylim(0, None)
    axes[2].set_ylim(0, 1.05)
    alt = (
        f"few pairs, {rounds[-1]} rounds: the margin grows to {rows[-1]['margin']:.2f}; the true "
        f"reward goes from {rows[0]['reward']:.2f} to {rows[-1]['reward']:.2f}, where "
        f"{rows[-1]['best']:.2f} could be had; ln p of the chosen answers goes from "
        f"{rows[0]['chosen']:.1f} down to {min(row['chosen'] for row in rows):.1f}, and comes to "
        f"{rows[-1]['chosen']:.1f}"
    )
    return fig, alt


@styled(dpi=100)
def reward_of_stories(rows: list[dict[str, float]], start: dict[str, float]):
    """The policy gradient on whole stories: what it is paid for, and what it is not. Rows, and
    `start` for the reference, have step, read, tokens, plots and loss."""
    fig, axes = figure(8.8, 2.7, 3)
    steps = [row["step"] for row in rows]
    for ax, key, color, title, scale in (
        (axes[0], "read", GREEN, "stories that can be read, %", 100),
        (axes[1], "plots", PURPLE, "how many plots (exp of entropy)", 1),
        (axes[2], "loss", RED, "held-out loss, nats per token", 1),
    ):
        ax.plot(steps, [scale * row[key] for row in rows], "o-", color=color, ms=3.5)
        ax.axhline(scale * start[key], color=SOFT, lw=1, ls="--")
        ax.set(title=title, xlabel="step")
    axes[0].set_ylim(0, 100)
    axes[1].set_ylim(0, None)
    last = rows[-1]
    alt = (
        f"after {last['step']} steps {last['read']:.0%} of the stories can be read (before: "
        f"{start['read']:.0%}), with {last['plots']:.1f} plots ({start['plots']:.1f}), and the "
        f"held-out loss is {last['loss']:.3f} ({start['loss']:.3f})"
    )
    return fig, alt
