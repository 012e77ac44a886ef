"""Text in, batches out: a corpus by name, its tokens made once, and exact resume.

What is validated on must never be trained on, so every corpus comes in two parts. Tokens are cut
into windows one longer than the model sees: labels are the inputs one token on. What has been
drawn so far is a small state, and a run that loads it sees the very batches it would have seen.

    corpus = load_corpus("stories")
    tokens = tokenise(corpus, tokenizer)
    windows = Windows(tokens.train, batch_size=8, seq_len=256)
    inputs, labels = next(windows)                            # (B, T) each, int64

A corpus too large to store is streamed: open_stream and Stream. Stories need not be stored at all:
FreshStories has new ones written as it goes. B and T as in smol/model.py.
"""

import contextlib
import copy
import glob
import hashlib
import http.client
import json
import os
import random
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from smol import stories
from smol.pretrained import check_hash, written_beside

if TYPE_CHECKING:
    from datasets import IterableDataset

DATA = Path(__file__).parents[1] / "data"
CACHE = DATA / "cache"
NAMES = ("stories", "shakespeare", "cosmopedia")
SUFFIXES = (".jsonl", ".md", ".parquet", ".py", ".txt")  # what is read in a folder
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TIMEOUT = 5  # seconds for a server to answer
HELD_OUT = 1000  # documents at the start of a stream that are never trained on
BLOCK = 1000  # documents of a stream that are shuffled together


class Corpus(NamedTuple):
    """Documents, as strings, to train on and to validate on. Neither part is empty.

    From `open_stream`, `train` is a datasets.IterableDataset with a column "text" instead.
    """

    name: str
    train: "list[str] | IterableDataset"
    validation: list[str]


class Tokens(NamedTuple):
    """The token ids of a corpus, each part one flat array mapped from disk, read-only."""

    train: np.ndarray
    validation: np.ndarray


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


def encode(documents: Iterable[str], tokenizer) -> np.ndarray:
    """The ids of the documents in one flat array, each followed by the end of text.

    uint16 where the vocabulary fits, else uint32. A special token that is spelled out in a
    document is text like any other.
    """
    from tqdm import tqdm

    documents = [documents] if isinstance(documents, str) else documents
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    bar = tqdm(documents, desc="tokenise", unit=" documents", delay=1)
    arrays = [np.array(_ids(text, tokenizer), dtype) for text in bar]
    return np.concatenate([np.empty(0, dtype), *arrays])


def tokenise(corpus: Corpus, tokenizer, directory: str | Path = CACHE) -> Tokens:
    """The corpus through `encode`, kept in `directory` and reused.

    The files' names carry a hash of the texts and of the tokenizer, so what is reused is what
    would be made. Files that are not whole are made anew. Raises OSError on a full disk.
    """
    if not isinstance(corpus.train, list):
        raise ValueError(f"{corpus.name} is a stream: give its train to Stream")
    digest = hashlib.sha256(f"{tokenizer.fingerprint} {tokenizer.eos_id}".encode())
    for documents in corpus[1:]:
        digest.update(b"%d documents\n" % len(documents))
        for content in map(str.encode, documents):
            digest.update(b"%d bytes\n" % len(content))  # so that no border moves unseen
            digest.update(content)
    directory, key = Path(directory), f"{Path(corpus.name).stem}-{digest.hexdigest()[:16]}"
    names = [f"{key}.{part}.npy" for part in Tokens._fields]
    with contextlib.suppress(OSError, EOFError, ValueError):  # not there, or torn
        return Tokens(*(np.load(directory / name, mmap_mode="r") for name in names))
    directory.mkdir(parents=True, exist_ok=True)
    arrays = [encode(documents, tokenizer) for documents in corpus[1:]]
    with written_beside(directory, *names) as files:
        for file, array in zip(files, arrays, strict=True):
            with file.open("wb") as f:  # given a path, np.save would add .npy to it
                np.save(f, array)
    return Tokens(*(np.load(directory / name, mmap_mode="r") for name in names))


class Windows:
    """Batches from tokens on disk, without end: windows of T + 1 tokens, drawn uniformly.

    `next()` gives inputs and labels, (B, T) int64 on the CPU; labels are the inputs one token on.
    A window may reach over the end of a document into the next. `tokens_seen` counts labels,
    `unique_tokens` each token of the corpus once, and `corpus_tokens` is how many it has.
    The draws depend on `seed` alone, and on no other use of random numbers.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, seq_len: int, seed: int = 0):
        if len(tokens) <= seq_len:
            raise ValueError(
                f"{len(tokens)} tokens are too few for a window of {seq_len} + 1: take a shorter "
                "seq_len or more text"
            )
        crc = zlib.crc32(np.array(tokens[:: len(tokens) // 2**20 + 1], dtype=np.int64))
        self._settings = {"tokens": len(tokens), "crc": crc, **_sizes(batch_size, seq_len)}
        self._tokens, self._seen = tokens, np.zeros(len(tokens), bool)
        self.corpus_tokens, self.tokens_seen, self.unique_tokens = len(tokens), 0, 0
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> "Windows":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        B, T = self._settings["batch_size"], self._settings["seq_len"]
        starts = torch.randint(len(self._tokens) - T, (B,), generator=self._generator).tolist()
        rows = np.stack([self._tokens[start : start + T + 1] for start in starts])
        self.tokens_seen += B * T
        for start in starts:
            window = self._seen[start + 1 : start + T + 1]
            self.unique_tokens += T - int(window.sum())
            window[:] = True
        inputs, labels = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
        return torch.from_numpy(inputs), torch.from_numpy(labels)

    def state_dict(self) -> dict:
        """The position, in numbers and tensors: `torch.load(weights_only=True)` takes it."""
        return {
            **self._settings,
            "tokens_seen": self.tokens_seen,
            "seen": torch.from_numpy(np.packbits(self._seen)),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was taken. ValueError for other data or sizes."""
        _check_settings(self._settings, state)
        self._generator.set_state(state["generator"].cpu())
        self._seen = np.unpackbits(state["seen"].numpy(), count=len(self._tokens)).astype(bool)
        self.tokens_seen, self.unique_tokens = state["tokens_seen"], int(self._seen.sum())


class Stream:
    """Batches from a streamed corpus, without end: all documents, packed one after another.

    `documents` is a datasets.IterableDataset with a column "text". `next()` gives inputs and
    labels, (B, T) int64: B windows in a row, and the next batch begins with this one's last
    label, so that every token is a label once. `tokens_seen` counts them, `epoch` how often the
    source was started over, and `corpus_tokens` how many it has: None before that is known.

    datasets' own shuffle buffer is lost on resume. Here the documents are read in blocks, and
    the order within one depends on `seed` and its number only: to resume, it is read again.
    """

    def __init__(
        self,
        documents: "IterableDataset",
        tokenizer,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        shuffle: bool = True,
    ):
        self._settings = {
            **_sizes(batch_size, seq_len),
            **{"seed": seed, "shuffle": shuffle, "block_size": BLOCK},
            "tokenizer": tokenizer.fingerprint,
        }
        # A dataset holds the position of its iterator, and shares it with what it was made from:
        # so a copy, and skip(0) for a view that is at the start wherever `documents` was.
        self._documents = copy.deepcopy(documents).skip(0)
        self._tokenizer = tokenizer
        self._rows, self._start = None, self._documents.state_dict()
        # The current block: its number (0: none yet), where in the source it begins, its documents
        # and how many of them were used. The next one begins at `_end`.
        self._number, self._at, self._block, self._used = 0, self._start, [], 0
        self._end, self._ids = self._start, []
        self.tokens_seen = self.epoch = 0
        self.corpus_tokens: int | None = None

    @property
    def unique_tokens(self) -> int:
        """`tokens_seen` without what came again after the end of the source."""
        return min(self.tokens_seen, self.corpus_tokens or self.tokens_seen)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch. ValueError where the source yields no text at all."""
        B, T = self._settings["batch_size"], self._settings["seq_len"]
        while len(self._ids) < B * T + 1:
            if self._used == len(self._block):
                self._next_block()
            self._ids += _ids(self._block[self._used], self._tokenizer)
            self._used += 1
        inputs = torch.tensor(self._ids[: B * T]).view(B, T)
        labels = torch.tensor(self._ids[1 : B * T + 1]).view(B, T)
        del self._ids[: B * T]  # the last label stays: it is the next input
        self.tokens_seen += B * T
        return inputs, labels

    def state_dict(self) -> dict:
        """The exact position, in numbers, strings and a tensor, for `torch.load` as above."""
        return {
            **self._settings,
            "tokens_seen": self.tokens_seen,
            "epoch": self.epoch,
            "corpus_tokens": self.corpus_tokens,
            "block": self._number,
            "block_start": self._at,
            "block_crc": _crc(self._block),
            "used": self._used,
            "ids": torch.tensor(self._ids, dtype=torch.int64),
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was taken, once that block is read again.

        ValueError for other settings and for a source that yields other documents by now.
        """
        _check_settings(self._settings, state)
        at, block, end = state["block_start"], [], self._end
        if state["block"]:
            block = self._read(at, state["block"])
        else:
            self._rows, self._end = None, at
        if _crc(block) != state["block_crc"]:
            self._rows, self._end = None, end  # the next read goes back to where this stream was
            raise ValueError("the source yields other documents than it did for the saved state")
        self._number, self._at, self._block, self._used = state["block"], at, block, state["used"]
        self.tokens_seen, self.epoch = state["tokens_seen"], state["epoch"]
        self.corpus_tokens = state["corpus_tokens"]
        self._ids = state["ids"].tolist()

    def _next_block(self) -> None:
        at, number, epoch = self._end, self._number + 1, self.epoch
        block = self._read(at, number)
        if not block:  # the source is at its end
            if not epoch:
                self.corpus_tokens = self.tokens_seen + len(self._ids)
            at, epoch = self._start, epoch + 1
            block = self._read(at, number)
        if not block:
            raise ValueError('the source yields no document with a "text": give it one that does')
        self._number, self._at, self._block, self._used, self.epoch = number, at, block, 0, epoch

    def _read(self, at: dict, number: int) -> list[str]:
        """The documents of the block at a position of the source, in the order of use."""
        rows, self._rows = self._rows, None  # one that fails is not gone on with
        if rows is None or at is not self._end:
            self._documents.load_state_dict(at)
            rows = iter(self._documents)
        texts = (row.get("text") for row in rows)
        block = list(islice((text for text in texts if text and text.strip()), BLOCK))
        self._rows, self._end = rows, self._documents.state_dict()
        if self._settings["shuffle"]:
            order = np.random.default_rng([self._settings["seed"], number])
            block = [block[i] for i in order.permutation(len(block))]
        return block


class FreshStories:
    """Batches of stories that are written as they are wanted, without end: none comes twice.

    `next()` gives inputs and labels, (B, T) int64: each row one whole story after an end of text
    and with one at its end (`padded`), cut at seq_len labels. Story n of a seed is always the
    same, so that the position is a number. Held-out stories are not avoided, for they will not
    come: the likeliest of those in data/stories.txt has a probability of e^-50.
    """

    corpus_tokens = None  # there is no end to them

    def __init__(self, tokenizer, batch_size: int, seq_len: int, seed: int = 0):
        self._settings = {**_sizes(batch_size, seq_len), "seed": seed}
        self._settings["tokenizer"] = tokenizer.fingerprint
        self._tokenizer, self._written, self.tokens_seen = tokenizer, 0, 0

    @property
    def unique_tokens(self) -> int:
        return self.tokens_seen

    def __iter__(self) -> "FreshStories":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        end, rows = self._tokenizer.eos_id, []
        for number in range(self._written, self._written + self._settings["batch_size"]):
            rng = random.Random(f"{self._settings['seed']} {number}")
            rows.append([end, *_ids(stories.grammar().write(rng), self._tokenizer)])
        self._written += len(rows)
        inputs, labels = padded(rows, end, self._settings["seq_len"])
        self.tokens_seen += (labels != -100).sum().item()
        return inputs, labels

    def state_dict(self) -> dict:
        """How far it has come, in numbers, for `torch.load` as above."""
        return {**self._settings, "written": self._written, "tokens_seen": self.tokens_seen}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was taken. ValueError for other settings."""
        _check_settings(self._settings, state)
        self._written, self.tokens_seen = state["written"], state["tokens_seen"]


def padded(
    sequences: Sequence[Sequence[int]], pad_id: int, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Documents of unequal length as one batch: inputs and labels, (B, T) int64.

    Row b holds sequence b without its last token, then `pad_id`; its labels are the sequence
    without its first, then -100, which F.cross_entropy leaves out. What is padding is decided by
    length, for `pad_id` may well be the end of text, which must be learned. T is the longest
    row's length, at most `max_length`: what is longer is cut. ValueError where no row has a label.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be 1 or more, got {max_length}")
    T = max((len(ids) for ids in sequences), default=0) - 1
    if T < 1:
        raise ValueError("no sequence of two tokens or more: there is nothing to predict")
    T = min(T, max_length or T)
    inputs = torch.full((len(sequences), T), pad_id)
    labels = torch.full((len(sequences), T), -100)
    for row, ids in enumerate(sequences):
        ids = torch.as_tensor(ids, dtype=torch.int64)[: T + 1]
        n = max(len(ids) - 1, 0)
        inputs[row, :n], labels[row, :n] = ids[:-1], ids[1:]
    return inputs, labels


def _ids(text: str, tokenizer) -> list[int]:
    return [*tokenizer.encode(text, special=False), tokenizer.eos_id]


def _crc(documents: list[str]) -> int:
    return zlib.crc32("\0".join(documents).encode())


def _sizes(batch_size: int, seq_len: int) -> dict[str, int]:
    if batch_size < 1 or seq_len < 1:
        raise ValueError(f"batch_size and seq_len must be 1 or more, got {batch_size}, {seq_len}")
    return {"batch_size": batch_size, "seq_len": seq_len}


def _check_settings(own: dict, state: dict) -> None:
    for key, value in own.items():
        if state.get(key) != value:
            raise ValueError(
                f"the state is from {key} {state.get(key)}, this one from {key} {value}: resume "
                "with the data and the settings of the run that saved it"
            )


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
