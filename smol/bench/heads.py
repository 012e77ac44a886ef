"""When does a model learn to look back? `python -m smol.bench.heads RUN [--json FILE]`.

RUN is a folder of `smol.train`, of a run on the stories (`--data stories` or `fresh`) with a
checkpoint wherever it was evaluated: `--eval-every 250 --save-every 250 --keep 60`. For each of
them: the held-out loss and the sample of the log; each head of the last layer's attention to where
the coming token stood before (`remembering`); the loss on rare tokens that come again, and on all
others (`loss_again`). Notebook 5 builds these functions, and draws the file.
"""

import argparse
import json
import sys
from collections import Counter
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.bench.timing import machine
from smol.checks import path
from smol.data import Corpus, load_corpus
from smol.files import writable, written_beside
from smol.model import SmolLM2, eager_attention
from smol.pretrained import load_pretrained
from smol.terminal import command
from smol.tokenizer import BPETokenizer
from smol.train import checkpoints, read_log


def attention_weights(model: SmolLM2, ids: list[int]) -> Tensor:
    """(L, H, T, T): what each head of each layer attends to, recorded on the way."""
    recorded = []

    def attend(q, k, v, mask=None):
        eye = torch.eye(k.size(2)).expand(1, k.size(1), -1, -1)  # values that are unit vectors
        recorded.append(eager_attention(q, k, eye, mask)[0])
        return eager_attention(q, k, v, mask)

    for layer in model.layers:
        layer.self_attn.attend = attend
    with torch.no_grad():
        model(torch.tensor([ids]))
    model.set_attn_implementation("sdpa")
    return torch.stack(recorded)


def rare_tokens(tokenizer: BPETokenizer, corpus: Corpus) -> set[int]:
    """Those that are less than 0.2 % of the text: names, animals, things."""
    often = Counter(i for story in corpus.train[:400] for i in tokenizer.encode(story))
    return {i for i, n in often.items() if n < 0.002 * sum(often.values())}


def comes_again(ids: list[int], rare: set[int]) -> list[int]:
    """Places t where token t + 1 is a rare one that stood there before."""
    return [t for t in range(len(ids) - 1) if ids[t + 1] in rare and ids[t + 1] in ids[:t]]


def remembering(
    model: SmolLM2, tokenizer: BPETokenizer, corpus: Corpus, count: int = 20
) -> Tensor:
    """(L, H): each head's mean attention to earlier occurrences of what comes next."""
    rare, found = rare_tokens(tokenizer, corpus), []
    for story in corpus.validation[:count]:
        ids = [0, *tokenizer.encode(story)]
        weights = attention_weights(model, ids)
        for t in comes_again(ids, rare):
            earlier = [s for s in range(t) if ids[s] == ids[t + 1]]
            found.append(weights[:, :, t, earlier].sum(-1))
    return torch.stack(found).mean(0)


def loss_again(
    model: SmolLM2, tokenizer: BPETokenizer, corpus: Corpus, count: int = 20
) -> list[float]:
    """Mean -ln p of rare tokens that come again, and of all others."""
    rare, nats = rare_tokens(tokenizer, corpus), ([], [])
    for story in corpus.validation[:count]:
        ids = [0, *tokenizer.encode(story)]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, :-1]
        losses = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()
        again = set(comes_again(ids, rare))
        for t, value in enumerate(losses):
            nats[t not in again].append(value)
    return [sum(part) / len(part) for part in nats]


def measured(run: Path, corpus: Corpus) -> list[dict]:
    """A row for each checkpoint at which the run was evaluated. ValueError where none was."""
    rows = {row["step"]: row for row in read_log(run / "metrics.jsonl") if "val_loss" in row}
    found = []
    for folder in checkpoints(run):
        step = int(folder.name.removeprefix("step-"))
        if step not in rows:  # where a signal stopped it
            continue
        model, tokenizer = load_pretrained(folder).eval(), BPETokenizer.load(folder)
        scores = remembering(model, tokenizer, corpus)
        again, others = loss_again(model, tokenizer, corpus)
        row = {
            "step": step,
            "val_loss": rows[step]["val_loss"],
            "scores": scores[-1].tolist(),
            "earlier_layers": scores[:-1].max().item() if len(scores) > 1 else None,
            "again": again,
            "others": others,
            "sample": rows[step]["sample"],
        }
        found.append(rounded(row))
        best = scores[-1].max().item()
        print(f"step {step:6,}  heads {best:4.0%}  again {again:.2f}  others {others:.2f} nats")
    if not found:
        raise ValueError(
            f"{run} holds no checkpoint of an evaluated step: take --eval-every for --save-every"
        )
    return found


def rounded(value):
    """To four places: what a file of results is to hold."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


@command("smol.bench.heads")
def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.bench.heads", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=lambda given: path("run", given), help="folder of smol.train")
    parser.add_argument("--made", default="", help="the command that made the run, to be kept")
    parser.add_argument("--json", type=lambda given: path("--json", given), help="write into FILE")
    args = parser.parse_args()
    if args.json:
        writable(args.json.parent)
    rows = measured(args.run, load_corpus("stories"))
    if args.json:
        result = {
            "command": f"python -m smol.bench.heads {args.run.name}",
            "run": args.made,
            "date": str(date.today()),
            "machine": machine(),
            "heads": rows,
        }
        with written_beside(args.json.parent, args.json.name) as (part,):
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
