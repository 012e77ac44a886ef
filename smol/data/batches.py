"""Batches without end, and where each stands: what is resumed sees the batches it would have."""

import copy
import hashlib
import random
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from smol import stories
from smol.checks import flag, shown, whole
from smol.checks import seed as seed_of
from smol.data.tokens import check_tokenizer, document_ids

if TYPE_CHECKING:
    from datasets import IterableDataset

BLOCK = 1000  # documents of a stream that are shuffled together


class Windows:
    """Batches from tokens on disk, without end: windows of T + 1 tokens, drawn uniformly.

    `next()` gives inputs and labels, (B, T) int64 on the CPU; labels are the inputs one token on.
    A window may reach over the end of a document into the next. `tokens_seen` counts labels,
    `unique_tokens` each token of the corpus once, and `corpus_tokens` is how many it has.
    The draws depend on `seed` alone, and on no other use of random numbers. Raises ValueError for
    too few tokens, and for what is no flat array of ids.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, seq_len: int, seed: int = 0):
        sizes, seed = _sizes(batch_size, seq_len), seed_of("seed", seed)
        seq_len = sizes["seq_len"]
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"tokens must be a flat array of ids, as tokenise(…).train is, got {_kind(tokens)}"
            )
        if len(tokens) <= seq_len:
            raise ValueError(
                f"{len(tokens)} tokens are too few for a window of {seq_len} + 1: take a shorter "
                "seq_len or more text"
            )
        crc = zlib.crc32(np.array(tokens[:: len(tokens) // 2**20 + 1], dtype=np.int64))
        self._settings = {"tokens": len(tokens), "crc": crc, **sizes}
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

    Raises ValueError for settings of another type, and for a source that is no such dataset.
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
            "seed": seed_of("seed", seed),
            **{"shuffle": flag("shuffle", shuffle), "block_size": BLOCK},
        }
        check_tokenizer(tokenizer)
        self._settings["tokenizer"] = tokenizer.fingerprint
        if not all(hasattr(documents, name) for name in ("skip", "state_dict", "load_state_dict")):
            raise ValueError(
                "documents must be a streamed dataset, as open_stream(…).train is, got "
                f"{_kind(documents)}"
            )
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
            self._ids += document_ids(self._block[self._used], self._tokenizer)
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
            try:
                block = self._read(at, state["block"])
            except (KeyError, IndexError, TypeError, AttributeError):  # of another kind of source
                self._rows = None
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
        texts = map(_text_of, rows)
        block = list(islice((text for text in texts if text and text.strip()), BLOCK))
        self._rows, self._end = rows, self._documents.state_dict()
        if self._settings["shuffle"]:
            order = np.random.default_rng([self._settings["seed"], number])
            block = [block[i] for i in order.permutation(len(block))]
        return block


class FreshStories:
    """Batches of stories that are written as they are wanted, without end: none comes twice.

    `next()` gives inputs and labels, (B, T) int64: each row a story from its beginning, between
    two ends of text (`padded`), cut at seq_len labels. Story n of a seed is always the
    same, so that the position is a number. Held-out stories are not avoided, for they will not
    come: the likeliest of those in data/stories.txt has a probability of e^-50.

    The state says by which sentences they were written, and is refused once those have changed.
    """

    corpus_tokens = None  # there is no end to them

    def __init__(self, tokenizer, batch_size: int, seq_len: int, seed: int = 0):
        self._settings = {**_sizes(batch_size, seq_len), "seed": seed_of("seed", seed)}
        check_tokenizer(tokenizer)
        self._settings["grammar"] = _grammar_hash()
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
            rows.append([end, *document_ids(stories.grammar().write(rng), self._tokenizer)])
        self._written += len(rows)
        inputs, labels = padded(rows, end, self._settings["seq_len"])
        self.tokens_seen += (labels != -100).sum().item()
        return inputs, labels

    def state_dict(self) -> dict:
        """How far it has come, in numbers, for `torch.load` as above."""
        return {**self._settings, "written": self._written, "tokens_seen": self.tokens_seen}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was taken. ValueError for other settings, other sentences too.

        A state without a note of the sentences is taken: until there was one, they were never
        changed, and a run that was begun then can go on.
        """
        old = isinstance(state, dict) and "grammar" not in state
        _check_settings({**self._settings, **({"grammar": None} if old else {})}, state)
        self._written, self.tokens_seen = state["written"], state["tokens_seen"]


def padded(
    sequences: Sequence[Sequence[int]], pad_id: int, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Documents of unequal length as one batch: inputs and labels, (B, T) int64.

    Row b holds sequence b without its last token, then `pad_id`; its labels are the sequence
    without its first, then -100, which F.cross_entropy leaves out. What is padding is decided by
    length, for `pad_id` may well be the end of text, which must be learned. T is the longest
    row's length, at most `max_length`: what is longer is cut. ValueError where no row has a label,
    and for what is no list of lists of ids.
    """
    pad_id = whole("pad_id", pad_id, least=0)
    max_length = None if max_length is None else whole("max_length", max_length)
    sequences = [_row(ids) for ids in _rows_of(sequences)]
    T = max((len(ids) for ids in sequences), default=0) - 1
    if T < 1:
        raise ValueError("no sequence of two tokens or more: there is nothing to predict")
    T = min(T, max_length or T)
    inputs = torch.full((len(sequences), T), pad_id)
    labels = torch.full((len(sequences), T), -100)
    for row, ids in enumerate(sequences):
        ids = ids[: T + 1]
        n = max(len(ids) - 1, 0)
        inputs[row, :n], labels[row, :n] = ids[:-1], ids[1:]
    return inputs, labels


def _crc(documents: list[str]) -> int:
    return zlib.crc32("\0".join(documents).encode())


def _sizes(batch_size: int, seq_len: int) -> dict[str, int]:
    return {"batch_size": whole("batch_size", batch_size), "seq_len": whole("seq_len", seq_len)}


def _kind(value) -> str:
    shape = getattr(value, "shape", None)
    return shown(value) if shape is None else f"a {type(value).__name__} of shape {tuple(shape)}"


def _rows_of(sequences) -> Sequence:
    if isinstance(sequences, str | bytes | dict) or not hasattr(sequences, "__iter__"):
        raise ValueError(f"sequences must be a list of lists of ids, got {shown(sequences)}")
    return sequences


def _row(ids) -> Tensor:
    """The ids of one sequence as a tensor. ValueError for others than whole numbers in a row."""
    try:
        row = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"a sequence must be a list of ids, got {shown(ids)}") from error
    numbers = not (row.is_floating_point() or row.is_complex() or row.dtype == torch.bool)
    if row.ndim != 1 or (len(row) and not numbers):
        raise ValueError(f"a sequence must be a list of whole numbers, got {shown(ids)}")
    return row.to(torch.int64)


def _text_of(row: dict) -> str | None:
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f'the "text" of a document is {shown(text)}: it must be a string, or null'
        )
    return text


@cache
def _grammar_hash() -> str:
    """Of the sentences that the stories are written with (once: the grammar is read once too)."""
    texts = [file.read_text(encoding="utf-8") for file in stories.FILES]  # \r\n is \n here
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _check_settings(own: dict, state: dict) -> None:
    if not isinstance(state, dict):
        raise ValueError(f"a state is what state_dict gave, got {shown(state)}")
    for key, value in own.items():
        if state.get(key) != value:
            raise ValueError(
                f"the state is from {key} {state.get(key)}, this one from {key} {value}: resume "
                "with the data and the settings of the run that saved it"
            )
