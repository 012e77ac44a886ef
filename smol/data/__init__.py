"""Text in, batches out: a corpus by name, its tokens made once, and exact resume.

What is validated on must never be trained on, so every corpus comes in two parts
(`corpora.py`, from files that `formats.py` reads). Its tokens (`tokens.py`) are cut into windows
one longer than the model sees: labels are the inputs one token on (`batches.py`). What has been
drawn so far is a small state, and a run that loads it sees the very batches it would have seen.

    corpus = load_corpus("stories")
    tokens = tokenise(corpus, tokenizer)
    windows = Windows(tokens.train, batch_size=8, seq_len=256)
    inputs, labels = next(windows)                            # (B, T) each, int64

A corpus too large to store is streamed: open_stream and Stream. Stories need not be stored at all:
FreshStories has new ones written as it goes. B and T as in smol/model.py.
"""

from smol.data.batches import FreshStories, Stream, Windows, padded
from smol.data.corpora import FRESH, NAMES, Corpus, load_corpus, open_stream, statistics
from smol.data.tokens import Tokens, encode, tokenise

__all__ = [
    "FRESH",
    "NAMES",
    "Corpus",
    "FreshStories",
    "Stream",
    "Tokens",
    "Windows",
    "encode",
    "load_corpus",
    "open_stream",
    "padded",
    "statistics",
    "tokenise",
]
