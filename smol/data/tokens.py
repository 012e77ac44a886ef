"""The ids of a corpus: made once, kept on the disk, mapped into memory."""

import contextlib
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smol.checks import path, shown, texts_of
from smol.data.corpora import Corpus
from smol.files import cache_folder, cache_folders, writable, written_beside
from smol.terminal import Aside, say
from smol.tokenizer.pieces import check_text


class Tokens(NamedTuple):
    """The token ids of a corpus, each part one flat array mapped from disk, read-only."""

    train: np.ndarray
    validation: np.ndarray


def check_tokenizer(tokenizer) -> None:
    """Raises ValueError for what is no `BPETokenizer`, and for one without an end of text."""
    if not hasattr(type(tokenizer), "fingerprint"):
        raise ValueError(
            f"the tokenizer must be a BPETokenizer, got {shown(tokenizer)}: BPETokenizer.load "
            "reads the tokenizer.json that other libraries save"
        )
    _ = tokenizer.eos_id


def document_ids(text: str, tokenizer) -> list[int]:
    """The ids of one document and the end of text after it; nothing in it is special."""
    return [*tokenizer.encode(text, special=False), tokenizer.eos_id]


def encode(documents: Iterable[str], tokenizer) -> np.ndarray:
    """The ids of the documents in one flat array, each followed by the end of text.

    uint16 where the vocabulary fits, else uint32. A special token that is spelled out in a
    document is text like any other.
    """
    from tqdm import tqdm

    check_tokenizer(tokenizer)
    documents = [documents] if isinstance(documents, str) else texts_of("documents", documents)
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    bar = tqdm(documents, desc="tokenise", unit=" documents", delay=1, file=Aside())
    arrays = [np.array(document_ids(text, tokenizer), dtype) for text in bar]
    return np.concatenate([np.empty(0, dtype), *arrays])


def tokenise(corpus: Corpus, tokenizer, directory: str | Path | None = None) -> Tokens:
    """The corpus through `encode`, kept in `directory` and reused.

    The files' names carry a hash of the texts and of the tokenizer, so what is reused is what
    would be made. Files that are not whole are made anew. Raises OSError on a full disk.

    Without a directory they are kept in the cache (`smol.files.cache_folders`), or, where that
    cannot be written, in memory only: a remark says so.
    """
    names = _names(corpus, tokenizer)
    if directory is not None:
        directory = path("directory", directory)
    for folder in cache_folders() if directory is None else [directory]:
        with contextlib.suppress(OSError, EOFError, ValueError):  # not there, or torn
            return _mapped(folder, names)
    trouble = None
    try:
        folder = directory or cache_folder()
        writable(folder)  # known before the work
    except OSError as error:
        if directory:
            raise
        trouble = error
    arrays = [encode(documents, tokenizer) for documents in corpus[1:]]
    if not trouble:
        try:
            with written_beside(folder, *names) as files:
                for file, array in zip(files, arrays, strict=True):
                    with file.open("wb") as f:  # given a path, np.save would add .npy to it
                        np.save(f, array)
            return _mapped(folder, names)
        except OSError as error:
            if directory:
                raise
            trouble = error
    say(f"the tokens are kept in memory, and made again next time: {trouble.strerror or trouble}")
    for array in arrays:
        array.flags.writeable = False
    return Tokens(*arrays)


def _mapped(folder: Path, names: list[str]) -> Tokens:
    return Tokens(*(np.load(folder / name, mmap_mode="r") for name in names))


def _names(corpus: Corpus, tokenizer) -> list[str]:
    """The names of the files of its tokens. ValueError for what is no corpus to tokenise."""
    if not isinstance(corpus, Corpus):
        raise ValueError(f"tokenise takes a corpus, as load_corpus gives it, got {shown(corpus)}")
    if not all(isinstance(documents, list) for documents in corpus[1:]):
        raise ValueError(
            f"{corpus.name} is no corpus of lists of texts: a stream's train is for Stream"
        )
    check_tokenizer(tokenizer)
    digest = hashlib.sha256(f"{tokenizer.fingerprint} {tokenizer.eos_id}".encode())
    for documents in corpus[1:]:
        digest.update(b"%d documents\n" % len(documents))
        for text in documents:
            check_text(text)
            content = text.encode()
            digest.update(b"%d bytes\n" % len(content))  # so that no border moves unseen
            digest.update(content)
    # Of the corpus' name only what every file system takes, and not too much of it.
    stem = re.sub(r"[^\w.-]+", "_", Path(corpus.name).stem)[:40]
    return [f"{stem}-{digest.hexdigest()[:16]}.{part}.npy" for part in Tokens._fields]
