"""The ids of a corpus: made once, kept on the disk, mapped into memory."""

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smol.data.corpora import CACHE, Corpus
from smol.files import written_beside


class Tokens(NamedTuple):
    """The token ids of a corpus, each part one flat array mapped from disk, read-only."""

    train: np.ndarray
    validation: np.ndarray


def document_ids(text: str, tokenizer) -> list[int]:
    """The ids of one document and the end of text after it; nothing in it is special."""
    return [*tokenizer.encode(text, special=False), tokenizer.eos_id]


def encode(documents: Iterable[str], tokenizer) -> np.ndarray:
    """The ids of the documents in one flat array, each followed by the end of text.

    uint16 where the vocabulary fits, else uint32. A special token that is spelled out in a
    document is text like any other.
    """
    from tqdm import tqdm

    documents = [documents] if isinstance(documents, str) else documents
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    bar = tqdm(documents, desc="tokenise", unit=" documents", delay=1)
    arrays = [np.array(document_ids(text, tokenizer), dtype) for text in bar]
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
