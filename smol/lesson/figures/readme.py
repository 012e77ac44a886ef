"""The README's picture, from stored results; `python -m smol.lesson.figures` draws it."""

import json
from pathlib import Path

from smol.lesson.figures.style import BLUE, RED, SKY, SOFT, as_png, figure

__all__ = ["results", "results_from"]


def results(bugs: int, caught: dict[str, int], log: list[dict]):
    """How many of the planted bugs each check catches; how near the floor a model came."""
    fig, (left, right) = figure(9.4, 2.7, 2)
    colors = [SOFT] * (len(caught) - 1) + [BLUE]
    named = {"count": "parameter count", "one argmax": "one right answer", "ladder": "our ladder"}
    names = [named.get(name, name) for name in caught]
    bars = left.barh(names, list(caught.values()), color=colors, height=0.7)
    left.bar_label(bars, padding=4)
    left.invert_yaxis()
    left.set(title=f"{bugs} bugs planted: caught by", xticks=[], xlim=(0, 1.15 * bugs))
    left.spines["bottom"].set_visible(False)
    left.tick_params(length=0)
    held_out = [row for row in log if "val_loss" in row]
    last = held_out[-1]
    floor = last["val_loss"] / (1 + last["val_over_floor"])
    for rows, key, style, color, name in (
        (log, "loss", "-", SKY, "training"),
        (held_out, "val_loss", "o-", BLUE, "held out"),
    ):
        points = [(row["step"], row[key]) for row in rows if key in row]
        right.plot(*zip(*points, strict=True), style, color=color, ms=3.5, label=name)
    right.axhline(floor, color=RED, lw=1.4, ls="--", label="the floor: the corpus' entropy")
    right.set(title="a loss that cannot be beaten", xlabel="step", ylabel="nats per token")
    right.set(ylim=(0, 1.5), xlim=(0, None), xticks=range(0, log[-1]["step"], 2000))
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.legend()
    found = ", ".join(f"{n} {k}" for n, k in zip(names, caught.values(), strict=True))
    return fig, (
        f"Left, how many of {bugs} planted bugs each check catches: {found}. Right, training and "
        f"held-out loss come down to {last['val_over_floor']:.1%} above the floor of {floor:.2f} "
        "nats per token."
    )


def results_from(root: Path) -> tuple[bytes, str]:
    """The README's picture and its alt text, from the stored results of `python -m smol.bench`."""
    measured = json.loads((root / "assets/results/parity.json").read_text())["parity"]
    lines = (root / "assets/smol-stories/metrics.jsonl").read_text().splitlines()
    log = list(map(json.loads, lines))
    png, alt, _ = as_png(results, measured["bugs"], measured["caught"], log)
    return png, alt
