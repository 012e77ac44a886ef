"""What models answer about stories that no fine-tuning has met: `answers`, for the shipped ones.

Each reply is judged to the letter, and beside it stands what answering has cost: the loss on the
held-out stories that the model could tell before. For models of your own, the checkpoints of a run
for instance: `python -m smol.bench.answers runs/chat/step-* [--json FILE]`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from smol.bench.timing import Run, machine
from smol.checks import path, whole
from smol.data import load_corpus
from smol.files import writable, written_beside
from smol.finetune import Exact, exact
from smol.finetune.data import TEMPLATE
from smol.pretrained import SHIPPED, load_pretrained
from smol.stories.chat import ASKED
from smol.terminal import command
from smol.tokenizer import BPETokenizer
from smol.train import LossModel, TrainConfig, evaluate, validation_of

# The base, a checkpoint on the way, and what was fine-tuned from it.
MODELS = ("smol-stories", "smol-stories-halfway", "smol-stories-chat")
COUNT = 1200  # conversations
ANSWERED = tuple(kind for kind in ASKED if kind != "open")


def answers(count: int = COUNT, run: Run | None = None) -> dict[str, list[dict]]:
    """`judged` of the shipped models, in `count` conversations each."""
    return {"models": judged([SHIPPED.with_name(name) for name in MODELS], count, run)}


def judged(folders: Sequence[Path], count: int, run: Run | None = None) -> list[dict]:
    """For each model the counts of `exact` in `count` held-out conversations, and its loss on the
    held-out stories, in nats per token."""
    count, rows = whole("conversations", count), []
    for folder in folders:
        model, tokenizer = load_pretrained(folder).eval(), BPETokenizer.load(folder)
        tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
        found = exact(model, tokenizer, count)
        row = {"model": _name(folder), "conversations": count, **found._asdict()}
        row["story_loss"] = story_loss(model, tokenizer)
        rows.append(row)
        counts = "  ".join(f"{k} {r:,}/{n:,}" for k, (r, n) in together(found).items())
        print(
            f"{row['model']:20} {counts}  held-out stories {row['story_loss']:.4f} nats per token"
        )
        if run:
            run.note(models=rows)
    return rows


def _name(folder: Path) -> str:
    """Of a checkpoint with its run's, since all runs name theirs alike."""
    return "/".join(folder.parts[-2:] if folder.name.startswith("step-") else folder.parts[-1:])


def together(found: Exact) -> dict[str, tuple[int, int]]:
    """Right and asked by kind, at the beginning and later; and "questions", all that the story
    answers."""
    parts = list(found)
    kinds = sorted({kind for part in parts for kind in part})
    both = {k: tuple(sum(p.get(k, (0, 0))[i] for p in parts) for i in (0, 1)) for k in kinds}
    asked = [both[kind] for kind in ANSWERED if kind in both]
    return {"questions": tuple(map(sum, zip(*asked, strict=True))), **both}


def story_loss(model, tokenizer: BPETokenizer) -> float:
    """Nats per token of the held-out stories of data/stories.txt, each whole."""
    config = TrainConfig(preset="small", batch_size=16)
    validation = validation_of(load_corpus("stories"), tokenizer, config)
    return evaluate(LossModel(model), validation, torch.device("cpu"))["val_loss"]


@command("smol.bench.answers")
def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.bench.answers", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "models", nargs="+", type=lambda given: path("models", given), help="folders of models"
    )
    parser.add_argument(
        "--conversations",
        type=int,
        default=COUNT,
        help=f"so many held-out ones, some five questions each (default: {COUNT:,})",
    )
    parser.add_argument("--json", type=lambda given: path("--json", given), help="write into FILE")
    args = parser.parse_args()
    if args.json:
        writable(args.json.parent)
    names = " ".join(folder.name for folder in args.models)
    about = {
        "command": f"python -m smol.bench.answers {names} --conversations {args.conversations}",
        "date": str(date.today()),
        "machine": machine(),
    }

    def write(figures: dict) -> None:
        if args.json:
            with written_beside(args.json.parent, args.json.name) as (part,):
                part.write_text(json.dumps(about | figures) + "\n", encoding="utf-8")

    judged(args.models, args.conversations, Run(write=write))
    return 0


if __name__ == "__main__":
    sys.exit(main())
