"""The README's picture, from stored results; `python -m smol.lesson.figures` draws it."""

import json
from pathlib import Path

from smol.lesson.figures.style import BLUE, RED, SKY, SOFT, as_png, figure

__all__ = ["results", "results_from"]


def _spans(patients: list[dict]) -> dict[str, tuple[int, int]]:
    """check -> the least and the most bugs that it catches, over all small models and prompts."""
    found = {
        check: [patient[check] for patient in patients]
        for check in ("shapes", "count", "loss", "ladder")
    }
    found["argmax"] = [p["argmax"][end] for p in patients for end in ("least", "most")]
    named = {
        "shapes": "shapes",
        "parameter count": "count",
        "one right answer": "argmax",
        "loss ± 1 %": "loss",
        "our ladder": "ladder",
    }
    return {name: (min(found[key]), max(found[key])) for name, key in named.items()}


def _said(low: int, high: int, to: str = "–") -> str:
    """ "4–27", and "50" where both are."""
    return f"{low}" if low == high else f"{low}{to}{high}"


def results(bugs: int, patients: list[dict], log: list[dict]):
    """How many of the planted bugs each check catches; how near the floor a model came."""
    fig, (left, right) = figure(9.4, 2.7, 2)
    caught, whose = _spans(patients), f"{len(patients)} small models"
    for name, (low, high) in caught.items():
        color = BLUE if name == "our ladder" else SOFT
        left.barh(name, low, color=color, height=0.7)
        left.barh(name, high - low, left=low, color=color, alpha=0.35, height=0.7)
        left.text(high + 0.02 * bugs, name, _said(low, high), va="center")
    left.invert_yaxis()
    left.set(title=f"{bugs} bugs planted: caught by", xticks=[], xlim=(0, 1.15 * bugs))
    prompts = f"{patients[0]['prompts']} prompts"
    left.set_xlabel(f"{whose} × {prompts}: the least to the most", fontsize=8.5, color=SOFT)
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
    found = ", ".join(f"{name} {_said(*ends, to=' to ')}" for name, ends in caught.items())
    return fig, (
        f"Left, how many of {bugs} planted bugs each check catches in {whose} with {prompts} "
        f"each, from the least to the most: {found}. Right, training and held-out loss come down "
        f"to {last['val_over_floor']:.1%} above the floor of {floor:.2f} nats per token."
    )


def results_from(root: Path) -> tuple[bytes, str]:
    """The README's picture and its alt text, from the stored results of `python -m smol.bench`."""
    measured = json.loads((root / "assets/results/parity.json").read_text())["parity"]
    lines = (root / "assets/smol-stories/metrics.jsonl").read_text().splitlines()
    log = list(map(json.loads, lines))
    png, alt, _ = as_png(results, measured["bugs"], measured["patients"], log)
    return png, alt
