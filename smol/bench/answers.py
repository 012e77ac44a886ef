"""What the shipped models answer about stories that no fine-tuning has met: `answers`.

Each reply is judged to the letter, and beside it stands what answering has cost: the loss on the
held-out stories that the model could tell before.
"""

import torch

from smol.bench.timing import Run
from smol.data import load_corpus
from smol.finetune import Exact, exact
from smol.finetune.data import TEMPLATE
from smol.pretrained import SHIPPED, load_pretrained
from smol.stories.chat import ASKED
from smol.tokenizer import BPETokenizer
from smol.train import LossModel, TrainConfig, evaluate, validation_of

# The base, the checkpoint that notebook 9 goes on from, and what it comes to in the end.
MODELS = ("smol-stories", "smol-stories-halfway", "smol-stories-chat")
COUNT = 1200  # conversations
ANSWERED = tuple(kind for kind in ASKED if kind != "open")


def answers(count: int = COUNT, run: Run | None = None) -> dict[str, list[dict]]:
    """For each model the counts of `exact` in `count` held-out conversations, and its loss on the
    held-out stories, in nats per token."""
    rows = []
    for name in MODELS:
        model = load_pretrained(SHIPPED.with_name(name))
        tokenizer = BPETokenizer.load(SHIPPED.with_name(name))
        tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
        found = exact(model, tokenizer, count)
        row = {"model": name, "conversations": count, **found._asdict()}
        row["story_loss"] = story_loss(model, tokenizer)
        rows.append(row)
        print(f"{name:20}", "  ".join(f"{k} {r}/{n}" for k, (r, n) in together(found).items()))
        print(f"{'':20} held-out stories: {row['story_loss']:.4f} nats per token")
        if run:
            run.note(models=rows)
    return {"models": rows}


def together(found: Exact) -> dict[str, tuple[int, int]]:
    """Right and asked by kind, at the beginning and later; and "questions", all that the story
    answers."""
    parts = [*found]
    kinds = sorted({kind for part in parts for kind in part})
    both = {k: tuple(sum(p.get(k, (0, 0))[i] for p in parts) for i in (0, 1)) for k in kinds}
    asked = [both[kind] for kind in ANSWERED if kind in both]
    return {"questions": tuple(map(sum, zip(*asked, strict=True))), **both}


def story_loss(model, tokenizer: BPETokenizer) -> float:
    """Nats per token of the held-out stories of data/stories.txt, each whole."""
    config = TrainConfig(preset="small", batch_size=16)
    validation = validation_of(load_corpus("stories"), tokenizer, config)
    return evaluate(LossModel(model), validation, torch.device("cpu"))["val_loss"]
