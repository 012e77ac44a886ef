"""Text by name: what there is to train on and to validate on, from a file, a folder, the web."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smol.checks import whole
from smol.data.formats import JSON_LINES, documents_of, files_of, read_text, stream_of
from smol.files import cache_folder, cached, check_hash, written_beside
from smol.terminal import reason, say

if TYPE_CHECKING:
    from datasets import IterableDataset

DATA = Path(__file__).parents[2] / "data"
NAMES = ("stories", "shakespeare", "cosmopedia")
COSMOPEDIA = "cosmopedia", "HuggingFaceTB/smollm-corpus", "cosmopedia-v2"
FRESH = "fresh"  # which smol.train takes as well: stories that are written as they are wanted
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TIMEOUT = 5  # seconds for a server to answer
HELD_OUT = 1000  # documents at the start of a stream that are never trained on


class Corpus(NamedTuple):
    """Documents, as strings, to train on and to validate on. Neither part is empty.

    From `open_stream`, `train` is a datasets.IterableDataset with a column "text" instead.
    """

    name: str
    train: "list[str] | IterableDataset"
    validation: list[str]


def load_corpus(name: str | Path) -> Corpus:
    """The corpus "stories" or "shakespeare", or the text of a file or of a folder of files.

    Tiny Shakespeare is looked for in the folder that SMOL_DATA names, then in the cache
    (`smol.files.cache_folders`), and is downloaded to the latter (1.1 MB, checked by its sha256)
    unless SMOL_OFFLINE=1.

    A .jsonl file holds a document a line (in its field "text"), a .parquet file one a row (in its
    column "text"); any other file is one document, except that the stories end at blank lines.
    A folder's .jsonl, .md, .parquet, .py and .txt files are read in the order of their paths,
    folders and links in it included, hidden ones not. Documents of nothing but white space are
    left out, and those whose "text" is null.

    The last tenth of the documents is for validation; of a single one, that of its characters.

    Raises FileNotFoundError for what is not there (nor can be downloaded) and ValueError for what
    is no text (a table, what is packed, a damaged line: by name), or too little to split.
    """
    if name == "stories":
        file = DATA / "stories.txt"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: it is part of the repository, fetch that")
        # Git on Windows may have made every \n into \r\n.
        documents = read_text(file).replace("\r\n", "\n").strip().split("\n\n")
    elif name == "shakespeare":
        documents = [_shakespeare()]
    elif name == "cosmopedia":
        raise ValueError(f"{name} is too large to load: stream it with open_stream({name!r})")
    else:
        documents = [text for file in files_of(name, NAMES) for text in documents_of(file)]
    documents = [text for text in documents if text and text.strip()]
    if not documents:
        raise ValueError(f"{name} holds no text: name a file or folder with some")
    whole = documents if len(documents) > 1 else documents[0]
    cut = len(whole) * 9 // 10
    parts = (whole[:cut], whole[cut:])
    if len(documents) == 1 and not all(part.strip() for part in parts):
        raise ValueError(
            f"{name} is too small to split: nine tenths, or one, have no text in them"
        )
    return Corpus(str(name), *(parts if len(documents) > 1 else ([part] for part in parts)))


def statistics(corpus: Corpus) -> dict[str, dict[str, int]]:
    """How many documents, bytes (of UTF-8), characters and distinct characters each part has.

    Raises ValueError for a stream, of which that is not known.
    """
    if not isinstance(corpus, Corpus) or not isinstance(corpus.train, list):
        raise ValueError("statistics are of a corpus that is loaded whole: use load_corpus")
    return {
        part: {
            "documents": len(documents),
            "bytes": sum(len(text.encode()) for text in documents),
            "characters": sum(map(len, documents)),
            "distinct characters": len(set().union(*documents)),
        }
        for part, documents in zip(Corpus._fields[1:], corpus[1:], strict=True)
    }


def open_stream(name: str | Path, held_out: int = HELD_OUT) -> Corpus:
    """A corpus that is read as it is needed and never stored: "cosmopedia", or a local folder.

    "cosmopedia" is Cosmopedia v2 on the hub; a folder (or file) has only .jsonl or only .parquet
    files of the shape that `load_corpus` reads. The first `held_out` documents are for validation,
    and read at once; `train` is the rest, for `Stream`, with nothing but the column "text".

    Raises FileNotFoundError where it cannot be reached, and ValueError for what is no text: now
    or, of what is read later, then.
    """
    held_out = whole("held_out", held_out)
    if name == "cosmopedia":
        dataset = hub_stream(*COSMOPEDIA, "a folder of parquet")
    else:
        if name in NAMES:
            raise ValueError(f"{name} is small: load_corpus({name!r}) reads it")
        files = files_of(name, ("cosmopedia",))
        suffixes = {file.suffix.lower() for file in files}
        if suffixes != {".parquet"} and not suffixes <= {*JSON_LINES}:
            names = ", ".join(sorted(suffixes))
            raise ValueError(
                f"{name} cannot be streamed: it needs only .jsonl or only .parquet files and has "
                f"{names}: name a folder inside it, or move the others away"
            )
        dataset = stream_of(files)
    try:
        rows = list(dataset.take(held_out + 1))
    except Exception as error:
        if name == "cosmopedia":
            raise unreachable(name, error, "a folder of parquet") from error
        raise
    validation = [text for row in rows[:held_out] if (text := row.get("text")) and text.strip()]
    if len(rows) <= held_out or not validation:
        raise ValueError(
            f"{name} has no documents beyond the {held_out} to hold out, or none of those has a "
            '"text": add some, or hold out another number'
        )
    return Corpus(str(name), dataset.skip(held_out), validation)


def _offline() -> bool:
    return os.environ.get("SMOL_OFFLINE") == "1"


def _shakespeare() -> str:
    """Tiny Shakespeare from the folder SMOL_DATA or from the cache, where it is downloaded to."""
    name, own = "tinyshakespeare.txt", os.environ.get("SMOL_DATA")
    file = Path(own, name) if own and Path(own, name).is_file() else cached(name)
    if file:
        check_hash(file, SHAKESPEARE_SHA256)
        return read_text(file)
    try:
        folder, trouble = cache_folder(), None
        remedy = f"put the file at {folder / name}"
    except OSError as error:
        folder, trouble = None, error
        remedy = f"put {name} in a folder and name that in SMOL_DATA"
    if _offline():
        why = "is not downloaded, for SMOL_OFFLINE=1 is set"
        raise FileNotFoundError(f"shakespeare {why}: unset it or {remedy}")
    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:  # the latter when it breaks off
        why = f"cannot be downloaded ({error})"
        raise FileNotFoundError(f"{SHAKESPEARE_URL} {why}: go online or {remedy}") from error
    if (got := hashlib.sha256(content).hexdigest()) != SHAKESPEARE_SHA256:
        why = f"gave other bytes than the published file (sha256 {got[:16]}…)"
        raise ValueError(f"{SHAKESPEARE_URL} {why}: try again or {remedy}")
    if folder:
        try:
            with written_beside(folder, name) as (file,):
                file.write_bytes(content)
        except OSError as error:
            trouble = error
    if trouble:  # the text is there all the same
        why = trouble.strerror or trouble
        say(f"tiny Shakespeare is not kept, and downloaded again next time: {why}")
    return content.decode("utf-8")


def hub_stream(name: str, repo_id: str, config: str | None, instead: str) -> "IterableDataset":
    """The training split of a data set on the hub, read as it is needed and never stored.

    FileNotFoundError where it cannot be reached: that `name` cannot be had, why, and to take
    `instead`.
    """
    if _offline():
        raise FileNotFoundError(f"{name} is not streamed, for SMOL_OFFLINE=1 is set: unset it")
    try:
        from huggingface_hub import HfApi

        # One quick question first: without a network load_dataset retries for 23 seconds.
        HfApi().dataset_info(repo_id, timeout=TIMEOUT)
        from datasets import load_dataset

        return load_dataset(repo_id, config, split="train", streaming=True)
    except Exception as error:  # whatever keeps the hub away (its own errors, httpx's, OSError)
        raise unreachable(name, error, instead) from error


def unreachable(name: str, error: Exception, instead: str) -> FileNotFoundError:
    """What `hub_stream` raises, for an error that comes later, too."""
    return FileNotFoundError(
        f"{name} cannot be streamed ({reason(error)}): go online, or name {instead}"
    )
