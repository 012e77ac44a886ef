"""The loop: rate, batch, gradients, step; and now and then a look, a line, a checkpoint."""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import torch

from smol.data import FreshStories, Stream, Windows
from smol.device import choose_device, choose_precision
from smol.model import SmolLM2
from smol.pretrained import load_pretrained
from smol.train.checkpoint import save_checkpoint, start_from
from smol.train.data import Reading, reading_of
from smol.train.evaluation import sample
from smol.train.learner import Learner
from smol.train.log import Log, Progress
from smol.train.ranks import Ranks
from smol.train.schedule import SCHEDULES
from smol.train.settings import PRESETS, TrainConfig


def train(config: TrainConfig, out: str | Path, resume: bool = False) -> SmolLM2:
    """Trains as `config` says and gives the model. Logs and checkpoints go to the folder `out`.

    With `resume` it goes on from the newest checkpoint there. SIGINT and SIGTERM save and stop
    after the step at hand. Under torchrun every process draws the same batch and takes its share;
    the first one evaluates, logs and saves, and any number of them may resume.

    Raises ValueError for settings that do not fit each other, the device or the checkpoint, and
    for a loss that is not finite; FileExistsError for an `out` that holds a run already,
    FileNotFoundError for one that holds none to resume, OSError for a full disk. With `fsdp` the
    model that comes back is in shards.
    """
    out, ranks = Path(out), Ranks.of_torchrun()
    device = choose_device(config.device)
    if config.batch_size % (ranks.size * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {ranks.size} processes in "
            f"{config.accumulate} parts each: take a multiple of {ranks.size * config.accumulate}"
        )
    with ranks.joined(device) as device:
        precision = choose_precision(device, config.dtype)
        torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
        folder, state = start_from(out, config, resume)
        reading = reading_of(config, ranks)
        model = load_pretrained(folder) if state else new_model(config, len(reading.tokenizer))
        learner = Learner(model, config, device, precision, ranks)
        if state:
            reading.batches.load_state_dict(state["batches"])
            learner.load_state_dict(state)
            torch.set_rng_state(state["rng"])
        _loop(config, out, learner, reading, step=state["step"] if state else 0)
        ranks.barrier()
    return model.eval()


def new_model(config: TrainConfig, vocab_size: int) -> SmolLM2:
    """The preset's model with random weights from the seed, for so many tokens."""
    torch.manual_seed(config.seed)
    return SmolLM2(dataclasses.replace(PRESETS[config.preset].config, vocab_size=vocab_size))


def _loop(config: TrainConfig, out: Path, learner: Learner, reading: Reading, step: int) -> None:
    """Steps from `step` to the last one, or to a signal."""
    ranks, batches, first = learner.ranks, reading.batches, learner.ranks.rank == 0
    if first:
        out.mkdir(parents=True, exist_ok=True)
        log = Log(out / "metrics.jsonl", after=step)
    with _stopped_by_signals() as stopped, Progress(config, step, shown=first) as progress:
        while step < config.steps:
            rate = config.learning_rate * SCHEDULES[config.schedule](step, config)
            nats, targets = learner.gradients(*next(batches))
            norm = learner.update(rate)
            step += 1
            progress.step(targets)

            last, row = step == config.steps, {}
            if step % config.log_every == 0 or last:
                row = {
                    "loss": ranks.sum(nats).item() / targets,
                    "lr": rate,
                    "grad_norm": norm.item(),
                    "tokens": batches.tokens_seen,
                    "unique_tokens": batches.unique_tokens,
                    "tokens_per_second": progress.tokens_per_second(),
                }
                progress.show_loss(row["loss"])
            if step % config.eval_every == 0 or last:
                row |= _look(learner, reading, progress, step)
            if row:
                if first:
                    log.add({"step": step, **row})
                _check_finite(row, step)
                progress.restart_clock()
            # A signal may reach one process before this step's end, another after it.
            stop = ranks.any(bool(stopped), learner.device)
            if step % config.save_every == 0 or last or stop:
                _save(config, out, learner, reading, step)
            if stop and not last:
                why = stopped[0] if stopped else "another process"
                progress.say(f"stopped by {why} after step {step}, saved: --resume goes on")
                break
    progress.say(_seen(batches))


def _look(learner: Learner, reading: Reading, progress: Progress, step: int) -> dict:
    """The held-out loss, and a sample where one process has the whole model; said and returned."""
    if not learner.wanted:
        return {}
    row = learner.evaluate(reading.validation)
    if not learner.sharded:
        row["sample"] = sample(learner.model, reading.tokenizer)
        said = f"held out {row['val_loss']:.3f}: {' '.join(row['sample'].split())}"
        progress.say(f"step {step}, {said}")
    return row


def _check_finite(row: dict, step: int) -> None:
    if not math.isfinite(row.get("loss", 0.0)):
        raise ValueError(
            f"the loss is {row['loss']} at step {step}: take a lower learning rate "
            "(the last checkpoint still stands)"
        )


def _save(config: TrainConfig, out: Path, learner: Learner, reading: Reading, step: int) -> None:
    """A checkpoint by the first process; the others give their shards to it."""
    if not learner.wanted:
        return
    state = {
        "config": config.deciding(),
        **learner.state_dict(),
        "batches": reading.batches.state_dict(),
        "rng": torch.get_rng_state(),  # nothing in a step draws, on the CPU or on a GPU
    }
    model = learner.whole_model()
    if learner.ranks.rank == 0:
        save_checkpoint(out, step, state, model, reading.tokenizer, config.keep)


def _seen(batches: Windows | Stream | FreshStories) -> str:
    said = f"{batches.tokens_seen:,} tokens seen, {batches.unique_tokens:,} of them unique"
    if batches.corpus_tokens:
        return f"{said}: {batches.tokens_seen / batches.corpus_tokens:.2f} epochs"
    return said


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[list[str]]:
    """Yields a list that gets the name of a SIGINT or SIGTERM; a second one stops at once."""
    stopped: list[str] = []

    def note(number, frame):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        old = [signal.signal(number, note) for number in numbers]
    except ValueError:  # not in the main thread, where signals do not arrive
        yield stopped
        return
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)
