"""Checkpoints: whole or not there, and refused where they are not of the run that resumes them."""

import os
import re
import shutil
from pathlib import Path

import torch

from smol.files import on_disk, sha256_of
from smol.model import SmolLM2
from smol.pretrained import save_pretrained
from smol.train.settings import TrainConfig


def save_checkpoint(
    out: Path, step: int, state: dict, model: SmolLM2, tokenizer, keep: int
) -> None:
    """Writes out/step-NNNNNN, whole or not at all, and deletes all but the last `keep`.

    Each file is on the disk before the folder gets its name, so a power cut leaves no torn one.
    """
    folder, part = out / f"step-{step:06}", out / f".step-{step:06}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        save_pretrained(model, part)
        tokenizer.save(part)
        weights = sha256_of(part / "model.safetensors")
        torch.save({**state, "step": step, "weights": weights}, part / "training.pt")
        on_disk(part / "training.pt")
        os.replace(part, folder)
    except (OSError, RuntimeError) as error:  # the latter is how torch.save says "disk full"
        raise OSError(
            f"{folder} could not be written ({error}); the last one still stands"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old)


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    folders = (f for f in out.glob("step-*") if re.fullmatch(r"step-\d+", f.name) and f.is_dir())
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def load_checkpoint(folder: Path, config: TrainConfig) -> dict:
    """What `save_checkpoint` was given as `state`, with "step"; the weights' file is whole.

    ValueError, naming the checkpoint, where it is torn or was made with other settings.
    """
    remedy = "delete it, and --resume takes the one before it"
    try:
        state = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        whole = state["weights"] == sha256_of(folder / "model.safetensors")
        made = dict(state["config"])
    except Exception as error:  # a cut file fails in many ways
        raise ValueError(f"{folder} is torn ({type(error).__name__}): {remedy}") from error
    if not whole:
        raise ValueError(
            f"{folder} is torn (the weights are not those it was saved with): {remedy}"
        )
    now = config.deciding()
    if changed := [k for k in now if made.get(k) != now[k]]:
        what = ", ".join(f"{k} {made.get(k)!r}, not {now[k]!r}" for k in changed)
        raise ValueError(
            f"{folder} was made with {what}: resume with the same, or take another --out"
        )
    return state


def start_from(
    out: Path, config: TrainConfig, resume: bool
) -> tuple[Path, dict] | tuple[None, None]:
    """The newest checkpoint in `out` and what is in it, or two Nones for a run that begins.

    FileExistsError where a run is there that is not to be resumed, FileNotFoundError where one is
    to be and is not, ValueError where it is past the steps of this one (see `load_checkpoint`).
    """
    old = checkpoints(out)
    if old and not resume:
        raise FileExistsError(
            f"{out} holds a run up to {old[-1].name}: --resume it, or another --out"
        )
    if resume and not old:
        raise FileNotFoundError(f"{out} holds no checkpoint to resume: start without --resume")
    if not resume:
        return None, None
    state = load_checkpoint(old[-1], config)
    if state["step"] > config.steps:
        raise ValueError(
            f"{out} is at step {state['step']}, past {config.steps}: take more --steps"
        )
    return old[-1], state
