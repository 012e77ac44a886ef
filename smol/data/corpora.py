"""Text by name: what there is to train on and to validate on, from a file, a folder, the web."""

import glob
import hashlib
import http.client
import json
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smol.files import check_hash, written_beside

if TYPE_CHECKING:
    from datasets import IterableDataset

DATA = Path(__file__).parents[2] / "data"
CACHE = DATA / "cache"
NAMES = ("stories", "shakespeare", "cosmopedia")
SUFFIXES = (".jsonl", ".md", ".parquet", ".py", ".txt")  # what is read in a folder
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

    Tiny Shakespeare is looked for in the folder that SMOL_DATA names, then in data/cache, and is
    downloaded to the latter (1.1 MB, checked by its sha256) unless SMOL_OFFLINE=1.

    A .jsonl file holds a document a line (in its field "text"), a .parquet file one a row (in its
    column "text"); any other file is one document, except that the stories end at blank lines.
    A folder's .jsonl, .md, .parquet, .py and .txt files are read in the order of their paths,
    folders in it included, hidden ones not. Documents of nothing but white space are left out.

    The last tenth of the documents is for validation; of a single one, that of its characters.

    Raises FileNotFoundError for what is not there (nor can be downloaded) and ValueError for what
    is no text, or too little to split.
    """
    if name == "stories":
        file = DATA / "stories.txt"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: it is part of the repository, fetch that")
        # Git on Windows may have made every \n into \r\n.
        documents = _read_text(file).replace("\r\n", "\n").strip().split("\n\n")
    elif name == "shakespeare":
        documents = [_read_text(_shakespeare())]
    elif name == "cosmopedia":
        raise ValueError(f"{name} is too large to load: stream it with open_stream({name!r})")
    else:
        documents = [text for file in _files(name) for text in _read_documents(file)]
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
    """How many documents, bytes (of UTF-8), characters and distinct characters each part has."""
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
    files of that shape. The first `held_out` documents are for validation, and read at once;
    `train` is the rest, for `Stream`. Raises FileNotFoundError where it cannot be reached.
    """
    if name == "cosmopedia":
        dataset = _cosmopedia()
    else:
        files = _files(name)
        builder = {".jsonl": "json", ".parquet": "parquet"}.get(files[0].suffix.lower())
        if builder is None or len({file.suffix.lower() for file in files}) > 1:
            raise ValueError(f"{name} cannot be streamed: it needs only .jsonl or only .parquet")
        from datasets import load_dataset

        paths = [glob.escape(str(file)) for file in files]  # datasets takes them for patterns
        dataset = load_dataset(builder, data_files=paths, split="train", streaming=True)
    rows = list(dataset.take(held_out + 1))
    validation = [text for row in rows[:held_out] if (text := row.get("text")) and text.strip()]
    if len(rows) <= held_out or not validation:
        raise ValueError(
            f"{name} has no documents beyond the {held_out} to hold out, or none of those has a "
            '"text": add some, or hold out another number'
        )
    return Corpus(str(name), dataset.skip(held_out), validation)


def _files(name: str | Path) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(
            f"{name} is no file or folder here nor one of {', '.join(NAMES)}: check the name"
        )
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    if not files:
        raise FileNotFoundError(
            f"{name} holds no file that ends in {', '.join(SUFFIXES)}: name a folder that does"
        )
    return files


def _read_text(file: Path) -> str:
    """As it stands in the file (text mode would change its line ends), less a byte-order mark."""
    try:
        return file.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 at byte {error.start}: convert it first") from error


def _read_documents(file: Path) -> list[str | None]:
    if file.suffix.lower() == ".parquet":
        return _read_parquet(file)
    if file.suffix.lower() != ".jsonl":
        return [_read_text(file)]
    documents = []
    # Not splitlines(), for which U+2028 within a string is a line's end too.
    for number, line in enumerate(_read_text(file).split("\n"), 1):
        if line.strip():
            try:
                documents.append(json.loads(line)["text"])
                documents[-1].encode()  # half of a surrogate pair is no text
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                form = '{"text": "…"}'
                raise ValueError(f"{file}, line {number} is no {form}: mend or drop it") from error
    return documents


def _read_parquet(file: Path) -> list[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            columns = {field.name: str(field.type) for field in table.schema_arrow}
            if columns.get("text") not in ("string", "large_string"):
                raise ValueError(f'{file} has no column "text" of strings, only {columns}: add it')
            return table.read(columns=["text"])["text"].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a whole parquet file: fetch it again") from error


def _offline() -> bool:
    return os.environ.get("SMOL_OFFLINE") == "1"


def _shakespeare() -> Path:
    """Tiny Shakespeare in the folder SMOL_DATA or in the cache, where it is downloaded to."""
    name = "tinyshakespeare.txt"
    for folder in (os.environ.get("SMOL_DATA"), CACHE):
        if folder and (file := Path(folder, name)).is_file():
            check_hash(file, SHAKESPEARE_SHA256)
            return file
    remedy = f"put the file at {CACHE / name}"
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
    CACHE.mkdir(parents=True, exist_ok=True)
    with written_beside(CACHE, name) as (file,):
        file.write_bytes(content)
    return CACHE / name


def _cosmopedia() -> "IterableDataset":
    repo_id = "HuggingFaceTB/smollm-corpus"
    if _offline():
        raise FileNotFoundError("cosmopedia is not streamed, for SMOL_OFFLINE=1 is set: unset it")
    try:
        from huggingface_hub import HfApi

        # One quick question first: without a network load_dataset retries for 23 seconds.
        HfApi().dataset_info(repo_id, timeout=TIMEOUT)
        from datasets import load_dataset

        return load_dataset(repo_id, "cosmopedia-v2", split="train", streaming=True)
    except Exception as error:  # whatever keeps the hub away (its own errors, httpx's, OSError)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"cosmopedia cannot be streamed ({reason}): go online, or name a folder of parquet"
        ) from error
