"""Broken files by the thousand: `python -m smol.tests.fuzz --cases 10000`.

Valid files (config.json, model.safetensors, tokenizer.json, a training checkpoint) are damaged at
random: bytes cut off, flipped or put in; JSON values swapped for absurd ones, keys dropped. What
reads them must load them or say ValueError or OSError in one short text, within seconds and
without taking much memory (a limit of the process, on Linux). The seed is printed.
"""

import argparse
import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from smol import BPETokenizer, SmolLM2, load_pretrained, save_pretrained
from smol.tests.reference import tiny_config
from smol.train import TrainConfig, load_checkpoint, save_checkpoint

ABSURD = [None, True, -1, 0, 1, 2.5, 10**6, 10**12, 1e308, float("nan"), "", "x", [], [0], {}]
SECONDS, MEMORY = 20, 4 * 2**30


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    kind, at = draw.randrange(5), draw.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:  # a few bits
        spoilt = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            spoilt[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(spoilt)
    if kind == 2:
        return data[:at] + draw.randbytes(draw.randint(1, 20)) + data[at:]
    if kind == 3:
        return data[:at] + data[at + draw.randint(1, 50) :]
    return draw.randbytes(draw.randint(0, 100))


def damaged_json(value, draw: random.Random):
    """One place of a JSON value made absurd, dropped or doubled."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(ABSURD)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        if draw.random() < 0.2:
            return rest
        if draw.random() < 0.1:
            return {**rest, draw.choice(["x", ""]): value[key]}
        return {**value, key: damaged_json(value[key], draw)}
    at = draw.randrange(len(value))
    if draw.random() < 0.2:
        return value[:at] + value[at + 1 :]
    return [*value[:at], damaged_json(value[at], draw), *value[at + 1 :]]


def damage(data: bytes, name: str, draw: random.Random) -> bytes:
    if draw.random() < 0.3 or name.endswith(".pt"):
        return damaged_bytes(data, draw)
    if name.endswith(".json"):
        return json.dumps(damaged_json(json.loads(data), draw)).encode()
    size = struct.unpack("<Q", data[:8])[0]  # of the header of a safetensors file
    header = json.dumps(damaged_json(json.loads(data[8 : 8 + size]), draw)).encode()
    size = len(header) if draw.random() < 0.9 else draw.choice([0, 1, 2**40, 2**63])
    return struct.pack("<Q", size) + header + data[8 + len(header) :]


def targets(folder: Path) -> dict[str, tuple[Path, Callable]]:
    """File -> what reads it."""
    torch.manual_seed(0)
    tokenizer = BPETokenizer.train(["a tale of two tales " * 3], 280, ["<|endoftext|>"])
    model = SmolLM2(tiny_config(vocab_size=len(tokenizer), hidden_size=12))
    save_pretrained(model, folder / "model")
    tokenizer.save(folder / "model")
    config = TrainConfig(steps=4)
    state = {"config": config.deciding(), "torch": torch.get_rng_state()}
    save_checkpoint(folder / "run", 2, state, model, tokenizer, keep=1)
    step = folder / "run" / "step-000002"
    return {
        "config.json": (folder / "model/config.json", lambda: load_pretrained(folder / "model")),
        "model.safetensors": (
            folder / "model/model.safetensors",
            lambda: load_pretrained(folder / "model"),
        ),
        "tokenizer.json": (
            folder / "model/tokenizer.json",
            lambda: BPETokenizer.load(folder / "model").encode("a tale <|endoftext|>"),
        ),
        "training.pt": (step / "training.pt", lambda: load_checkpoint(step, config)),
        "checkpoint weights": (
            step / "model.safetensors",
            lambda: load_checkpoint(step, config) and load_pretrained(step),
        ),
    }


def fuzz(cases: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """How often each file was loaded or refused, and what should not have happened."""
    draw, counts, wrong = random.Random(seed), Counter(), []
    folder = Path(tempfile.mkdtemp())
    try:
        readers = targets(folder)
        for case in range(cases):
            name = list(readers)[case % len(readers)]
            file, read = readers[name]
            whole = file.read_bytes()
            spoilt = damage(whole, file.name, draw)
            file.write_bytes(spoilt)
            start = time.perf_counter()
            try:
                read()
                counts[name, "loaded"] += 1
            except (ValueError, OSError) as error:
                counts[name, "refused"] += 1
                if not 10 < len(str(error)) < 1000:
                    wrong.append(f"case {case}, {name}: a message of {len(str(error))} characters")
            except BaseException as error:
                wrong.append(f"case {case}, {name}: {type(error).__name__}: {str(error)[:200]}")
            if time.perf_counter() - start > SECONDS:
                wrong.append(f"case {case}, {name}: more than {SECONDS} s")
            file.write_bytes(whole)
    finally:
        shutil.rmtree(folder)
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(3600)
    counts, wrong = fuzz(args.cases, args.seed)
    for (name, what), count in sorted(counts.items()):
        print(f"{name:20} {what:8} {count:6,}")
    print(f"seed {args.seed}, {args.cases:,} cases, {len(wrong)} wrong", *wrong[:40], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
