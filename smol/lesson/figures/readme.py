"""The README's pictures: what the shipped model has learned, and the stored results.

`python -m smol.lesson.figures` draws them.
"""

import json
from pathlib import Path

from matplotlib.colors import to_rgb

from smol.lesson.figures.style import (
    BLUE,
    INK,
    RED,
    SKY,
    SOFT,
    as_png,
    figure,
    lines_of,
    shade,
    write,
)

__all__ = ["learned", "learned_from", "results", "results_from"]


def learned(tokens: list[str], looked: list[float], start: str, names: list[str], p: list[float]):
    """A text, coloured by where a head looks before the last token; next tokens of another."""
    pieces = [
        (text, shade(BLUE, 0.6 * weight), False)
        for text, weight in zip(tokens, looked, strict=False)  # the last one is to be predicted
    ]
    rows, placed = lines_of([*pieces, (tokens[-1], None, True)], 84)
    ratios = {"height_ratios": [rows * 0.235, 1.4]}
    fig, (above, below) = figure(7.7, rows * 0.235 + 2.4, 1, 2, gridspec_kw=ratios)
    write(above, placed, 92, rows)
    above.set_title("Where an attention head looks, to write the last word")
    (x, y, word, *_), (to_x, to_y, there, *_) = placed[-1], max(placed, key=_darkness)
    start_at, end_at = (x + len(word) / 2, y), (to_x + len(there) / 2, to_y + 1)
    look = {"arrowstyle": "-|>", "color": RED, "lw": 1.3, "connectionstyle": "arc3,rad=-0.12"}
    above.annotate("", xy=end_at, xytext=start_at, arrowprops=look)
    level, likely = 1 / 14, sum(x > 1 / 28 for x in p)
    below.bar(range(len(p)), p, color=[BLUE if x > level / 2 else RED for x in p], width=0.75)
    below.axhline(level, color=INK, ls="--", lw=1.2)
    below.text(
        len(p) - 0.4, level * 1.04, "1/14: how the stories are made", ha="right", va="bottom"
    )
    below.set_xticks(range(len(p)), names, rotation=60, ha="right", rotation_mode="anchor")
    below.set(ylabel="probability", xlim=(-0.6, len(p) - 0.4), yticks=[0, 0.05])
    below.tick_params(axis="x", length=0)
    below.set_title(f"What the model expects after “… {start}”")
    target, most = tokens[-1].strip(), max(looked)
    back = len(tokens) - 1 - looked.index(most)
    return fig, (
        f"Above, a story that the model never saw. To write its last word, {target}, one "
        f"attention head looks back {back} tokens to where the {target} was named, with "
        f"{int(100 * most)} % of its attention. Below, the probabilities of the next token after "
        f"“… {start}”: {likely} numbers stand at about 1/14 each, and the rest at next to "
        "nothing. The program that wrote the stories draws one of fourteen there."
    )


def _darkness(word: tuple) -> float:
    """How dark the background of a word of `lines_of` is."""
    return -sum(to_rgb(word[3] or "white"))


def learned_from(root: Path) -> tuple[bytes, str]:
    """The README's first picture and its alt text, from the model in assets/smol-stories."""
    import torch

    from smol import BPETokenizer, load_pretrained, stories
    from smol.data import load_corpus
    from smol.model import eager_attention

    folder = root / "assets/smol-stories"
    model, tokenizer = load_pretrained(folder), BPETokenizer.load(folder)
    story = load_corpus("stories").validation[0]
    ids = [tokenizer.eos_id, *tokenizer.encode(story[: story.rindex(" mouse") + len(" mouse")])]
    weights = []

    def attend(q, k, v, mask=None):
        """The weights themselves come out where the values are unit vectors."""
        unit = torch.eye(k.size(2)).expand(1, k.size(1), -1, -1)
        weights.append(eager_attention(q, k, unit, mask)[0, :, -1])  # (H, T), from the last token
        return eager_attention(q, k, v, mask)

    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.attend = attend
        model(torch.tensor([ids[:-1]]))
        model.set_attn_implementation("sdpa")
        earlier = ids.index(ids[-1])
        looked = max(weights[-1], key=lambda head: head[earlier])
        other = stories.write(3, seed=5)[0]
        other = other[: other.index(" eleven nights")]
        asked = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(other)]])
        top = model(asked)[0, -1].softmax(-1).topk(20)
    tokens = [tokenizer.token_bytes(i).decode(errors="replace") for i in ids[1:]]
    names = [tokenizer.decode([i]) for i in top.indices.tolist()]
    start = other[other.index("had come") :]
    png, alt, _ = as_png(learned, tokens, looked.tolist()[1:], start, names, top.values.tolist())
    return png, alt


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
