"""SmolLM2-135M's shape, trained for a minute or two: `python -m smol.bench gpu_train`.

What the last section of notebook 5 runs where there is a CUDA GPU. It is `smol.train.train`, on
Tiny Shakespeare where that is in reach, else on the stories, with SmolLM2's own tokenizer where
that is. How many windows a step has comes from the GPU's free memory, how many steps from the
speed of the first ones.
"""

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from smol.count import training_memory
from smol.data import load_corpus, tokenise
from smol.device import choose_device, choose_precision
from smol.pretrained import SHIPPED, instruct_files
from smol.tokenizer import TOKENIZER_FILES
from smol.train import PRESETS, TrainConfig, read_log, tokenizer_of, train

SECONDS = 90.0
EPOCHS = 8  # at most: on a fast GPU a minute is many times through a megabyte
FIRST_STEPS = 10
SEQ_LEN, SIZES = 256, (16, 8, 4, 2, 1)  # tokens of a window, windows of a step
RESERVE = 0.7  # of the free memory: autocast keeps copies that the estimate does not have


def train_on_gpu(
    out: str | Path,
    seconds: float = SECONDS,
    preset: str = "135m",
    device: str = "cuda",
    **changes,
) -> dict:
    """Trains the preset for about so many seconds; settings, speed, memory, and the log's rows.
    `changes` are settings of `TrainConfig` that shall be others.

    The folder `out` gets the log and one checkpoint, 1.6 GB for SmolLM2-135M.
    """
    where, out = choose_device(device), Path(out)
    config = dataclasses.replace(settings(preset, where), **changes)
    tokens = len(tokenise(corpus := load_corpus(config.data), tokenizer_of(corpus, config)).train)
    with tempfile.TemporaryDirectory() as folder:
        first = dataclasses.replace(config, steps=FIRST_STEPS, log_every=FIRST_STEPS // 2)
        print(
            f"{FIRST_STEPS} steps of {config.batch_size} × {config.seq_len} tokens, for the speed"
        )
        train(first, folder)
        rate = read_log(Path(folder, "metrics.jsonl"))[-1]["tokens_per_second"]
    steps = steps_for(seconds, rate, config.batch_size * config.seq_len, tokens)
    config = dataclasses.replace(
        config, steps=steps, log_every=max(1, steps // 60), eval_every=max(FIRST_STEPS, steps // 6)
    )
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    model = train(config, out)
    log = read_log(out / "metrics.jsonl")
    expected = training_memory(model.config, config.batch_size, config.seq_len, 4096)["total"]
    return {
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" else None,
        "precision": str(choose_precision(where).autocast or torch.float32).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": model.config.vocab_size,
        **{key: getattr(config, key) for key in ("data", "steps", "batch_size", "seq_len")},
        "epochs": log[-1]["tokens"] / tokens,
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in log if "lr" in r),
        "memory": torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None,
        "memory_expected": expected,
        "log": log,
    }


def settings(preset: str, device: torch.device) -> TrainConfig:
    """What to train on, with which tokenizer, and as many windows a step as there is room for."""
    config = TrainConfig(
        preset=preset,
        data="shakespeare" if _reached(load_corpus, "shakespeare") else "stories",
        tokenizer=None,
        device=device.type,
        batch_size=SIZES[0],
        seq_len=SEQ_LEN,
        learning_rate=PRESETS[preset].learning_rate,
        eval_every=10**9,
        save_every=10**9,
        keep=1,
    )
    if PRESETS[preset].vocab_size is None and not _reached(instruct_files, TOKENIZER_FILES):
        config = dataclasses.replace(config, tokenizer=str(SHIPPED))
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        config = dataclasses.replace(config, batch_size=batch_size_for(preset, free))
    return config


def batch_size_for(preset: str, free: float) -> int:
    """The largest of SIZES whose step fits into RESERVE of the free bytes. ValueError: none."""
    shape = PRESETS[preset].config
    for size in SIZES:
        if training_memory(shape, size, SEQ_LEN, 4096)["total"] <= RESERVE * free:
            return size
    least = training_memory(shape, SIZES[-1], SEQ_LEN, 4096)["total"] / RESERVE
    raise ValueError(
        f"{free / 1e9:.1f} GB of the GPU are free, {least / 1e9:.1f} are needed: end what else "
        "runs on it (another notebook?)"
    )


def steps_for(seconds: float, rate: float, tokens_a_step: int, tokens: int) -> int:
    """Steps for so many seconds at `rate` tokens a second, but at most EPOCHS times through."""
    return max(FIRST_STEPS, int(min(seconds * rate, EPOCHS * tokens) / tokens_a_step))


def _reached(ask: Callable, *args) -> bool:
    try:
        ask(*args)
    except (OSError, ValueError):
        return False
    return True


def told(run: dict | None) -> str:
    """The run in words."""
    if run is None:
        return "not measured: no GPU here, and no run of one is stored"
    rows = [row for row in run["log"] if "val_loss" in row]
    best = min(rows, key=lambda row: row["val_loss"])
    memory = f"{run['memory'] / 1e9:.1f} GB at its peak" if run["memory"] else "not measured"
    return "\n".join(
        (
            f"{run['gpu'] or 'no GPU'}, products in {run['precision']}",
            f"{run['parameters']:,} parameters, {run['vocabulary']:,} tokens in the vocabulary",
            f"{run['steps']:,} steps of {run['batch_size']} × {run['seq_len']} tokens: "
            f"{run['epochs']:.1f} times through {run['data']}",
            f"{run['tokens_per_second']:,.0f} tokens/s",
            f"memory: {memory}; expected in fp32, {run['memory_expected'] / 1e9:.1f} GB",
            f"held-out loss: {rows[0]['val_loss']:.2f} at step {rows[0]['step']}, best "
            f"{best['val_loss']:.2f} at step {best['step']}, last {rows[-1]['val_loss']:.2f}",
            f"sample: {' '.join(rows[-1]['sample'].split())[:300]}",
        )
    )


def train_and_tell(seconds: float = SECONDS, **changes) -> dict:
    """`train_on_gpu` in a folder that goes again, told; what it gives."""
    with tempfile.TemporaryDirectory() as folder:
        run = train_on_gpu(folder, seconds, **changes)
    print(told(run))
    return run


def stored(file: Path) -> dict | None:
    """The run that a file of `bench gpu_train` holds; None where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8"))["gpu_train"] if file.is_file() else None
