"""The published models, and how one comes from the hub."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from smol.checks import named, path
from smol.config import SmolLM2Config
from smol.terminal import reason

REPO_ID = "HuggingFaceTB/SmolLM2-135M"
INSTRUCT = f"{REPO_ID}-Instruct"


class Published(NamedTuple):
    """A model on the hub: its config, and where known the revision and the weights' sha256."""

    config: SmolLM2Config
    revision: str | None = None
    sha256: str | None = None


# The configs are those of the repositories' config.json. "Known" means checked, not looked up:
# without a revision the newest is taken, without a sha256 the hub's own check has to do.
PUBLISHED = {
    REPO_ID: Published(
        SmolLM2Config(),
        revision="93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
        sha256="80521b40281d6ce74e35c9282c22539e75aa0ac8578892b2a59955ef78d55da1",
    ),
    INSTRUCT: Published(SmolLM2Config(bos_token_id=1, eos_token_id=2, pad_token_id=2)),
    "HuggingFaceTB/SmolLM2-360M": Published(
        SmolLM2Config(
            hidden_size=960,
            intermediate_size=2560,
            num_hidden_layers=32,
            num_attention_heads=15,
            num_key_value_heads=5,
            initializer_range=0.02,
        ),
    ),
    "HuggingFaceTB/SmolLM2-1.7B": Published(
        SmolLM2Config(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=24,
            num_attention_heads=32,
            num_key_value_heads=32,
            rope_theta=130_000.0,
            initializer_range=0.02,
        ),
    ),
}


WHOLE = ("*.json", "*.safetensors")  # of a repository: its weights and what belongs to them


def offline() -> bool:
    """Whether nothing is to be fetched: SMOL_OFFLINE=1 is set."""
    return os.environ.get("SMOL_OFFLINE") == "1"


def fetch(directory_or_repo_id: str | Path, patterns: tuple[str, ...] = WHOLE) -> Path:
    """The folder of a checkpoint: a local one as it is, a hub repository downloaded or cached.

    Of a repository only the files that `patterns` match are fetched. With SMOL_OFFLINE=1 the hub
    is not asked, and what it gave once is still there.

    Raises FileNotFoundError, with the remedy, where it is neither on disk nor to be had.
    """
    name = named("the model", directory_or_repo_id)
    folder = path("the model", name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise FileNotFoundError(
            f"{name} is a file: name a .gguf, or the folder that holds config.json"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise FileNotFoundError(f"there is no folder {name}, and it is no owner/name of the hub")
    from huggingface_hub import HfApi, snapshot_download

    wanted = {
        "revision": PUBLISHED[name].revision if name in PUBLISHED else None,
        "allow_patterns": list(patterns),
    }
    try:
        if offline():
            raise FileNotFoundError("SMOL_OFFLINE=1 is set (unset it)")
        # One quick question first: without a network snapshot_download retries for 23 seconds.
        HfApi().model_info(name, revision=wanted["revision"], timeout=5)
        return Path(snapshot_download(name, **wanted))
    except Exception as error:  # whatever keeps the hub away (its own errors, httpx's, OSError)
        # Somebody else may have fetched another commit, whose weights are checked all the same.
        for revision in dict.fromkeys((wanted["revision"], None)):
            with suppress(OSError, ValueError):
                cached = {**wanted, "revision": revision, "local_files_only": True}
                found = Path(snapshot_download(name, **cached))
                # Somebody may have fetched the tokenizer alone.
                if "*.safetensors" not in patterns or any(found.glob("*.safetensors")):
                    return found
        if offline():
            raise FileNotFoundError(
                f"{name} is not fetched: {reason(error)}, and it is not in the hub's cache"
            ) from error
        raise FileNotFoundError(
            f"{name} is neither a folder here nor in the hub's cache, and the hub says: "
            f"{reason(error)}. Go online once, or pass a folder with config.json and "
            "model.safetensors"
        ) from error
