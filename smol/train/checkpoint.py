"""Checkpoints: whole or not there, and refused where they are not of the run that resumes them."""

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from smol.checks import path
from smol.checks import whole as whole_number
from smol.data import FRESH, NAMES
from smol.files import on_disk, sha256_of, written_beside
from smol.model import SmolLM2
from smol.pretrained import load_pretrained, save_pretrained
from smol.terminal import out_of_memory, reason
from smol.tokenizer import BPETokenizer
from smol.train.settings import TrainConfig

WEIGHTS = ("model.safetensors", "adapter_model.safetensors")  # a model, or LoRA's part of one
REMEDY = "move it away, and --resume takes the one before it"


def save_whole(
    model: SmolLM2,
    tokenizer: BPETokenizer,
    folder: str | Path,
    chat_template: str | None = None,
) -> None:
    """Writes a model's folder as transformers takes it: `save_pretrained`'s files, the tokenizer,
    and for both which token ends and which fills rows, as the model's config has them.

    What the config leaves open stays open: a tokenizer without padding refuses to pad, which is
    better than padding by the end.
    """
    folder, config = path("the folder", folder), model.config
    added = {**tokenizer.special_tokens, **tokenizer.added_tokens}
    names = {i: text for text, i in added.items()}
    ends = {"eos": config.eos_token_id, "pad": config.pad_token_id}
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{kind}_token": names[i] for kind, i in ends.items() if i in names},
        "model_max_length": config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": chat_template} if chat_template else {}),
    }
    ends = {"bos": config.bos_token_id, **ends}
    generation = {f"{kind}_token_id": i for kind, i in ends.items() if i is not None}
    save_pretrained(model, folder)
    tokenizer.save(folder)
    files = {"tokenizer_config.json": about, "generation_config.json": generation}
    with written_beside(folder, *files) as parts:
        for part, content in zip(parts, files.values(), strict=True):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            part.write_text(text, encoding="utf-8")


def save_checkpoint(
    out: Path,
    step: int,
    state: dict,
    model: SmolLM2,
    tokenizer,
    keep: int,
    save: Callable = save_whole,
) -> None:
    """Writes out/step-NNNNNN, whole or not at all, and deletes all but the last `keep`.

    `save` writes all but training.pt, the weights into one file of WEIGHTS.
    Each file is on the disk before the folder gets its name, so a power cut leaves no torn one.
    """
    folder, part = out / f"step-{step:06}", out / f".step-{step:06}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        save(model, tokenizer, part)
        weights = sha256_of(_weights_in(part))
        torch.save({**state, "step": step, "weights": weights}, part / "training.pt")
        on_disk(part / "training.pt")
        os.replace(part, folder)
    except (OSError, RuntimeError) as error:  # the latter is how torch.save says "disk full"
        why = reason(error.__cause__ or error)
        raise OSError(f"{folder} could not be written ({why}); {last_of(out)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)  # a link, or in somebody's hands: it stays


def rehearse(state: dict) -> None:
    """Saves and loads what does not change in kind as the run goes, in memory, so that nothing
    stands in the way of the first checkpoint, hours later. Raises ValueError where it does."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # pickle has many
        what = f"what this run would save cannot be saved and loaded: {reason(error)}"
        raise ValueError(what) from error


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, the newest last: not what else is called step-something."""

    def ours(folder: Path) -> bool:
        files = (folder / "training.pt", _weights_in(folder))  # one of them: it is torn
        return bool(re.fullmatch(r"step-\d{6,}", folder.name)) and any(f.is_file() for f in files)

    folders = filter(ours, out.glob("step-*"))
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def _weights_in(folder: Path) -> Path:
    """The first of WEIGHTS that is there; where none is, the usual one."""
    files = [folder / name for name in WEIGHTS]
    return next((file for file in files if file.is_file()), files[0])


def last_of(out: Path) -> str:
    """In words, what a run that fails now leaves."""
    old = checkpoints(out)
    return f"the last checkpoint is {old[-1].name}" if old else "no checkpoint was made yet"


def load_checkpoint(folder: Path, config: TrainConfig) -> dict:
    """What `save_checkpoint` was given as `state`, with "step"; the weights' file is whole.

    ValueError, naming the checkpoint, where it is torn or was made with other settings; OSError
    where it cannot be read for another reason, and may be whole.
    """
    try:
        state = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        whole = state["weights"] == sha256_of(_weights_in(folder))
        made, state["step"] = dict(state["config"]), whole_number("step", state["step"], least=0)
    except Exception as error:  # a cut file fails in many ways
        elsewhere = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        if elsewhere or out_of_memory(error):
            raise
        raise ValueError(f"{folder} is torn ({type(error).__name__}): {REMEDY}") from error
    if not whole:
        raise ValueError(
            f"{folder} is torn (the weights are not those it was saved with): {REMEDY}"
        )
    now = config.deciding()
    if changed := [k for k in now if made.get(k) != now[k] and not _moved(k, made.get(k), now[k])]:
        what = ", ".join(f"{k} {made.get(k)!r}, not {now[k]!r}" for k in changed)
        raise ValueError(
            f"{folder} was made with {what}: resume with the same, or take another --out"
        )
    return state


def load_weights(folder: Path) -> SmolLM2:
    """The model of a checkpoint. ValueError where it is torn."""
    try:
        return load_pretrained(folder)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{folder} is torn ({error}): {REMEDY}") from error


def _moved(setting: str, made, now) -> bool:
    """Whether a file was named in another way, or lies elsewhere by now. What it holds is compared
    as well: by `load_state_dict` of the batches."""
    return setting in ("data", "tokenizer") and not {made, now} & {*NAMES, FRESH, None}


def start_from(
    out: Path, config: TrainConfig, resume: bool
) -> tuple[Path, dict] | tuple[None, None]:
    """The newest checkpoint in `out` and what is in it, or two Nones for a run that begins: with
    `resume` too, so that one command starts a run and goes on with it.

    FileExistsError where a run is there that is not to be resumed, ValueError where it is past
    the steps of this one (see `load_checkpoint`).
    """
    old, log = checkpoints(out), out / "metrics.jsonl"
    if not resume and (old or (log.is_file() and log.stat().st_size)):
        upto = f"up to {old[-1].name}" if old else "before its first checkpoint"
        raise FileExistsError(f"{out} holds a run {upto}: --resume it, or another --out")
    if not old:
        return None, None
    state = load_checkpoint(old[-1], config)
    if state["step"] > config.steps:
        raise ValueError(
            f"{out} is at step {state['step']}, past {config.steps}: take more --steps"
        )
    return old[-1], state
