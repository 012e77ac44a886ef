"""What a run reads: its corpus, its tokenizer, its batches, and the text it is judged by."""

from typing import NamedTuple

import torch
from torch import Tensor

from smol.data import (
    FRESH,
    Corpus,
    FreshStories,
    Stream,
    Windows,
    encode,
    load_corpus,
    open_stream,
    padded,
    tokenise,
)
from smol.pretrained import instruct_files
from smol.stories import log_prob
from smol.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILES, BPETokenizer
from smol.train.ranks import Ranks
from smol.train.settings import PRESETS, TrainConfig


class Validation(NamedTuple):
    """Held-out text as batches, its bytes, and on the stories their own -ln p: the floor."""

    batches: list[tuple[Tensor, Tensor]]
    size: int  # bytes of all the text in them
    floor: float | None  # nats of all the text in them


def validation_of(corpus: Corpus, tokenizer: BPETokenizer, config: TrainConfig) -> Validation:
    """What to evaluate on: whole stories, each after an end of text; of other texts, windows.

    At most 128 batches of the windows, from the beginning, so that a large text takes seconds.
    """
    end, B, T = tokenizer.eos_id, config.batch_size, config.seq_len
    if corpus.name == "stories":
        longest = PRESETS[config.preset].config.max_position_embeddings
        rows = [[end, *tokenizer.encode(s, special=False), end] for s in corpus.validation]
        rows.sort(key=len)  # rows of a batch are alike, and little of it is padding
        if too_long := sum(len(row) > longest + 1 for row in rows):
            raise ValueError(f"{too_long} stories are longer than the context of {longest}")
        batches = [padded(rows[i : i + B], pad_id=end) for i in range(0, len(rows), B)]
        size = sum(len(s.encode()) for s in corpus.validation)
        return Validation(batches, size, -sum(map(log_prob, corpus.validation)))
    ids = encode(corpus.validation, tokenizer)
    count = min((len(ids) - 1) // T, 128 * B)
    if count < 1:
        raise ValueError(f"{len(ids)} held-out tokens are too few for a window of {T} + 1")
    ids = torch.from_numpy(ids[: count * T + 1].astype("int64"))
    inputs, labels = ids[:-1].view(count, T), ids[1:].view(count, T)
    batches = [(inputs[i : i + B], labels[i : i + B]) for i in range(0, count, B)]
    special = set(tokenizer.special_tokens.values())
    size = sum(len(tokenizer.token_bytes(i)) for i in ids[1:].tolist() if i not in special)
    return Validation(batches, size, None)


class Reading(NamedTuple):
    """All that a run reads."""

    tokenizer: BPETokenizer
    batches: Windows | Stream | FreshStories
    validation: Validation


def reading_of(config: TrainConfig, ranks: Ranks) -> Reading:
    """The data that the settings name; its tokens' file is written by the first process."""

    def read() -> Reading:
        if config.data == "cosmopedia":
            corpus = open_stream(config.data)
        else:
            corpus = load_corpus("stories" if config.data == FRESH else config.data)
        tokenizer = tokenizer_of(corpus, config)
        batches = batches_of(corpus, tokenizer, config)
        return Reading(tokenizer, batches, validation_of(corpus, tokenizer, config))

    with ranks.agreed():  # the others wait until the file is there
        first = read() if ranks.rank == 0 else None
    with ranks.agreed():
        return first or read()


def tokenizer_of(corpus: Corpus, config: TrainConfig) -> BPETokenizer:
    """The tokenizer that the run is to use: the one named, or one trained on the corpus."""
    size = PRESETS[config.preset].vocab_size
    if config.tokenizer or size is None:
        return BPETokenizer.load(config.tokenizer or instruct_files(TOKENIZER_FILES))
    texts = corpus.train if isinstance(corpus.train, list) else corpus.validation
    return BPETokenizer.train(texts, size, SPECIAL_TOKENS)


def batches_of(
    corpus: Corpus, tokenizer: BPETokenizer, config: TrainConfig
) -> Windows | Stream | FreshStories:
    """Windows of a corpus on disk, the packed documents of a stream, or whole new stories."""
    size = (config.batch_size, config.seq_len, config.seed)
    if config.data == FRESH:
        return FreshStories(tokenizer, *size)
    if isinstance(corpus.train, list):
        return Windows(tokenise(corpus, tokenizer).train, *size)
    return Stream(corpus.train, tokenizer, *size)
