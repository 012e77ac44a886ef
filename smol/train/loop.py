"""The loop: rate, batch, gradients, step; and now and then a look, a line, a checkpoint."""

import contextlib
import dataclasses
import gc
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from smol.checks import flag, path, shown
from smol.data import FreshStories, Stream, Windows
from smol.device import check_compiler, choose_device, choose_precision
from smol.files import locked, writable
from smol.model import SmolLM2
from smol.terminal import say
from smol.tokenizer import BPETokenizer
from smol.train.checkpoint import (
    last_of,
    load_weights,
    rehearse,
    save_checkpoint,
    save_whole,
    start_from,
)
from smol.train.compiled import will_compile
from smol.train.data import Reading, Validation, reading_of
from smol.train.evaluation import evaluate, sample
from smol.train.learner import Learner
from smol.train.log import Log, Progress
from smol.train.loss import LossModel
from smol.train.ranks import Ranks
from smol.train.schedule import SCHEDULES
from smol.train.settings import PRESETS, TrainConfig


def train(config: TrainConfig, out: str | Path, resume: bool = False) -> SmolLM2:
    """Trains as `config` says and gives the model. Logs and checkpoints go to the folder `out`.

    With `resume` it goes on from the newest checkpoint there, or begins where there is none, so
    that the same call may be made again after any interruption. SIGINT, SIGTERM and SIGHUP save
    and stop after the step at hand. Under torchrun every process draws the same batch and takes
    its share; the first one evaluates, logs and saves, and any number of them may resume.

    Raises ValueError for settings that do not fit each other, the device or the checkpoint, and
    for a loss that is not finite; FileExistsError for an `out` that holds a run already, OSError
    for one that cannot be written, and for a full disk. What fails in one process fails in all.
    With `fsdp` the model that comes back is in shards.
    """
    return run(config, out, resume)[0]


class Task:
    """What a run is about: what it reads, what it begins with, and what is kept of that. Here it
    is to train from random weights; fine-tuning is another."""

    def reading(self, config: TrainConfig, ranks: Ranks) -> Reading:
        """What the settings name, in each of the processes."""
        return reading_of(config, ranks)

    def begin(self, config: TrainConfig, tokenizer: BPETokenizer) -> SmolLM2:
        """The model before its first step."""
        return new_model(config, tokenizer)

    def load(self, config: TrainConfig, folder: Path) -> SmolLM2:
        """The model of a checkpoint."""
        return load_weights(folder)

    def save(self, config: TrainConfig, model: SmolLM2, tokenizer, folder: Path) -> None:
        """Writes what `load` needs: see `save_checkpoint`."""
        save_whole(model, tokenizer, folder)

    def loss_model(self, config: TrainConfig, model: SmolLM2) -> nn.Module:
        """The model with what it is to make small: see `Learner`."""
        return LossModel(model)

    def evaluate(self, loss_model: nn.Module, held_out: Validation, device: torch.device) -> dict:
        """What it is worth on held-out data, "val_loss" and more: a part of a row of the log."""
        return evaluate(loss_model, held_out, device)

    def sample(self, model: SmolLM2, tokenizer: BPETokenizer) -> str:
        """What shows, now and then, how far it has come."""
        return sample(model, tokenizer)


def run(
    config: TrainConfig, out: str | Path, resume: bool = False, task: Task | None = None
) -> tuple[SmolLM2, int]:
    """What `train` does and gives, and the last step that was taken: of that task, or another."""
    task = task or Task()
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config must be a TrainConfig, got {shown(config)}")
    out, resume, ranks = path("out", out), flag("resume", resume), Ranks.of_torchrun()
    _check_shares(config, ranks)
    with ranks.joined(), contextlib.ExitStack() as held:
        with ranks.agreed():
            device = ranks.own(choose_device(config.device))
            precision = choose_precision(device, config.dtype)
            if config.compile:
                check_compiler(device)
            folder, state = start_from(out, config, resume)
        begin = state["step"] if state else 0
        if len(steps := set(ranks.gathered(begin))) > 1:
            raise ValueError(
                f"the processes find runs of {sorted(steps)} steps in {out}: it must be one "
                "folder, on a disk that all of them share"
            )
        torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
        with ranks.agreed():
            if ranks.rank == 0:
                writable(out)
                held.enter_context(locked(out))
                if resume and not state:
                    say(f"{out} holds no checkpoint to resume: the run begins")
        reading = task.reading(config, ranks)
        with ranks.agreed():
            rehearse({"config": config.deciding(), "batches": reading.batches.state_dict()})
            if state:
                model = task.load(config, folder)
                reading.batches.load_state_dict(state["batches"])
            else:
                model = task.begin(config, reading.tokenizer)
            log = _opened(out, begin) if ranks.rank == 0 else None  # last: it drops rows
        loss_model = task.loss_model(config, model)
        learner = Learner(model, config, device, precision, ranks, loss_model)
        if state:
            learner.load_state_dict(state)
            torch.set_rng_state(state["rng"])
        if will_compile(config, device, learner.model, begin, ranks):
            held.enter_context(learner.compiling())
        step = _loop(config, out, learner, reading, log, begin, task)
    return model.eval(), step


def new_model(config: TrainConfig, tokenizer: BPETokenizer) -> SmolLM2:
    """The preset's model with random weights from the seed, for this tokenizer."""
    torch.manual_seed(config.seed)
    end = tokenizer.eos_id
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": tokenizer.pad_for(end)}
    shape = PRESETS[config.preset].config
    return SmolLM2(dataclasses.replace(shape, vocab_size=len(tokenizer), **ends))


def _check_shares(config: TrainConfig, ranks: Ranks) -> None:
    if config.fsdp and "RANK" not in os.environ:
        raise ValueError("fsdp shares a model among processes: start them with torchrun")
    if config.batch_size % (ranks.size * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {ranks.size} processes in "
            f"{config.accumulate} parts each: take a multiple of {ranks.size * config.accumulate}"
        )


def _opened(out: Path, step: int) -> Log:
    """The log in `out` up to a step, freed of what a killed run was in the midst of writing."""
    for left in (*out.glob(".step-*.part"), *out.glob(".metrics.jsonl.*.part")):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    return Log(out / "metrics.jsonl", after=step)


def _loop(
    config: TrainConfig,
    out: Path,
    learner: Learner,
    reading: Reading,
    log: Log | None,
    step: int,
    task: Task,
) -> int:
    """Steps from `step` to the last one, or to a signal: gives which that was."""
    ranks, batches = learner.ranks, reading.batches
    begin, progress = step, Progress(config, step, shown=bool(log))
    with _stopped_by_signals() as stopped, progress, _garbage_when_asked() as collect:
        while step < config.steps:
            rate = config.learning_rate * SCHEDULES[config.schedule](step, config)
            seen = batches.tokens_seen
            nats, count, norm = learner.step(*next(batches), rate)
            step += 1
            progress.step(batches.tokens_seen - seen)
            last, every = step == config.steps, (config.log_every, config.eval_every)
            to_log, to_look = (last or step % often == 0 for often in every)
            to_save = last or step % config.save_every == 0
            row, due = {}, to_log or to_look or to_save
            if due:
                measured = _measured(learner, nats, count, norm, step, out)
                progress.show_loss(measured["loss"])
            if to_log:
                row = {
                    **measured,
                    "lr": rate,
                    "tokens": batches.tokens_seen,
                    "unique_tokens": batches.unique_tokens,
                    "tokens_per_second": progress.tokens_per_second(),
                }
            if to_look:
                row |= _look(learner, reading, progress, step, out, task)
            if row and log:
                log.add({"step": step, **row})
            # A signal may reach one process before this step's end, another after it.
            stop = ranks.any(bool(stopped))
            if stop and not due:
                _measured(learner, nats, count, norm, step, out)
            if log and (to_save or stop):
                log.flush()
            if to_save or stop:
                _save(config, out, learner, reading, step, task)
            if due or step == begin + 1:
                collect()
            if due:
                progress.restart_clock()
            if stop and not last:
                why = stopped[0] if stopped else "another process"
                progress.say(f"stopped by {why} after step {step}, saved: --resume goes on")
                break
        progress.say(_seen(batches))
    return step


def _look(
    learner: Learner, reading: Reading, progress: Progress, step: int, out: Path, task: Task
) -> dict:
    """The held-out loss, and a sample where one process has the whole model; said and returned."""
    row = learner.evaluate(reading.validation, task.evaluate) if learner.wanted else {}
    with learner.ranks.agreed():
        if row:
            _check_finite("held-out loss", row["val_loss"], step, out)
        if row and not learner.sharded:
            with learner.uncompiled():
                row["sample"] = task.sample(learner.model, reading.tokenizer)
            said = f"held out {row['val_loss']:.3f}: {' '.join(row['sample'].split())}"
            progress.say(f"step {step}, {said}")
    return row


def _measured(
    learner: Learner, nats: Tensor, count: int, norm: Tensor, step: int, out: Path
) -> dict[str, float]:
    """The step's loss and norm, the same in all processes. Asked for before anything is looked
    at, logged or saved, which a step that was not finite has spoilt: ValueError then."""
    loss, grad_norm = learner.ranks.sum(nats).item() / count, norm.item()
    _check_finite("loss", loss, step, out)
    if not learner.precision.scaler:  # which leaves out steps that are too large for fp16
        _check_finite("norm of the gradients", grad_norm, step, out)
    return {"loss": loss, "grad_norm": grad_norm}


def _check_finite(what: str, value: float, step: int, out: Path) -> None:
    if not math.isfinite(value):
        raise ValueError(
            f"the {what} is {value} at step {step}: take a lower learning rate ({last_of(out)})"
        )


def _save(
    config: TrainConfig, out: Path, learner: Learner, reading: Reading, step: int, task: Task
) -> None:
    """A checkpoint by the first process; the others give their shards to it."""
    if learner.wanted:
        state = {
            "config": config.deciding(),
            **learner.state_dict(),
            "batches": reading.batches.state_dict(),
            "rng": torch.get_rng_state(),  # nothing in a step draws, on the CPU or on a GPU
        }
        model = learner.whole_model()
    with learner.ranks.agreed():
        if learner.ranks.rank == 0:
            # The step's own loss and norm were finite; of what it made of the weights they say
            # nothing.
            for name, weight in model.named_parameters():
                if not weight.isfinite().all():
                    _check_finite(f"weight {name}", weight.abs().max().item(), step, out)
            save = partial(task.save, config)
            save_checkpoint(out, step, state, model, reading.tokenizer, config.keep, save)


@contextlib.contextmanager
def _garbage_when_asked() -> Iterator[Callable[[], None]]:
    """Within, Python looks for garbage only when the function that this yields is called.

    By itself it would do so in the middle of a step, for up to half a second. What is there at the
    first call, and what a compiler has left is much, is not looked at again.
    """
    on, frozen = gc.isenabled(), gc.get_freeze_count()

    def collect() -> None:
        gc.collect()
        if gc.get_freeze_count() == frozen:
            gc.freeze()

    gc.disable()
    try:
        yield collect
    finally:
        if not frozen:  # what others have frozen stays so
            gc.unfreeze()
        if on:
            gc.enable()


def _seen(batches: Windows | Stream | FreshStories) -> str:
    said = f"{batches.tokens_seen:,} tokens seen, {batches.unique_tokens:,} of them unique"
    if batches.corpus_tokens:
        return f"{said}: {batches.tokens_seen / batches.corpus_tokens:.2f} epochs"
    return said


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[list[str]]:
    """Yields a list that gets the name of a signal to stop. A second Ctrl-C stops at once: not
    what comes within a second, for torchrun sends its processes once more what the terminal sent.

    SIGHUP comes when the terminal goes, and is left to nohup where that has it ignored.
    """
    stopped: list[str] = []
    since = 0.0

    def note(number, frame):
        nonlocal since
        if stopped and number == signal.SIGINT and time.monotonic() - since > 1:
            raise KeyboardInterrupt
        if not stopped:
            stopped.append(signal.Signals(number).name)
            since = time.monotonic()

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one not on Windows
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    try:
        old = {number: signal.signal(number, note) for number in numbers}
    except ValueError:  # not in the main thread, where signals do not arrive
        yield stopped
        return
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
