"""Training a tokenizer and encoding with it: ours, the Rust library's, and the definition's."""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

from smol.bench.timing import median_ratio, side_by_side, spread
from smol.tokenizer import DIGITS_PATTERN, BPETokenizer, byte_alphabet, merge


def naive_merges(pieces: list[bytes], vocab_size: int) -> list[tuple[bytes, bytes]]:
    """Byte-pair encoding as it is defined: for each merge, count all pairs of the text anew."""
    tokens = byte_alphabet()
    ids = {token: i for i, token in enumerate(tokens)}
    words = [[ids[bytes([b])] for b in piece] for piece in pieces]
    merges = []
    while len(tokens) < vocab_size:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))  # ties: the smaller ids
        words = [merge(word, best, len(tokens)) for word in words]
        merges.append((tokens[best[0]], tokens[best[1]]))
        tokens.append(b"".join(merges[-1]))
    return merges


def library_tokenizer(texts: list[str], vocab_size: int):
    """A `tokenizers.Tokenizer` trained with the settings of `BPETokenizer.train`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer(rounds: int = 5, vocab_size: int = 4096, naive_count: int = 30) -> list[dict]:
    """Training and encoding, ours and the library's, on a quarter, a half, all of the stories.

    The naive trainer would take the better part of an hour: it gets `naive_count` merges, of the
    whole text, and what it has taken by then is a lower bound.
    """
    from smol.data import load_corpus

    corpus = load_corpus("stories")
    stories = [*corpus.train, *corpus.validation]
    ours, theirs = _equal_tokenizers(stories, vocab_size)
    print(f"\n{'':24}{'text':>9}  {'ours':<28}{'tokenizers':<28}ours / tokenizers")
    rows = []
    for work, run_ours, run_theirs in _works(ours, theirs, vocab_size):
        for part in (4, 2, 1):
            texts = stories[: len(stories) // part]
            runs = {"ours": partial(run_ours, texts), "tokenizers": partial(run_theirs, texts)}
            size = sum(len(text.encode()) for text in texts)
            rows.append(_row(work, size, side_by_side(runs, rounds)))
        quarter, _, whole = (statistics.median(row["seconds"]["ours"]) for row in rows[-3:])
        print(f"{work}: four times the text takes us {whole / quarter:.1f} times as long")
    fast = statistics.median(rows[2]["seconds"]["ours"])
    return [*rows, _naive_row(stories, ours.merges, naive_count, fast)]


def _equal_tokenizers(stories: list[str], vocab_size: int) -> tuple:
    """Ours and the library's, trained on `stories`; AssertionError where they are not the same."""
    ours = BPETokenizer.train(stories, vocab_size)
    theirs = library_tokenizer(stories, vocab_size)
    model = json.loads(theirs.to_str())["model"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    if ours.to_dict()["model"]["merges"] != pairs:
        raise AssertionError("our merges are not the library's: no use in timing")
    if any(ours.encode(text) != theirs.encode(text).ids for text in stories):
        raise AssertionError("our ids are not the library's: no use in timing")
    print(f"equal: {len(pairs):,} merges (all pairs there are), ids of {len(stories):,} stories")
    return ours, theirs


def _works(
    ours: BPETokenizer, theirs, vocab_size: int
) -> Iterator[tuple[str, Callable[[list[str]], object], Callable[[list[str]], object]]]:
    """What is timed: its name, how we do it with a list of texts, and how the library does."""

    def train_ours(texts):
        BPETokenizer.train(texts, vocab_size)

    def train_theirs(texts):
        library_tokenizer(texts, vocab_size)

    def encode_ours(texts):
        fresh = BPETokenizer(ours.vocab, ours.merges)  # one that has met no word yet
        for text in texts:
            fresh.encode(text)

    def encode_theirs(texts):
        for text in texts:
            theirs.encode(text)

    yield "train", train_ours, train_theirs
    yield "encode", encode_ours, encode_theirs
    yield "encode, they in a batch", encode_ours, theirs.encode_batch  # on all cores


def _row(work: str, size: int, seconds: dict[str, list[float]]) -> dict:
    """One work on a text of `size` bytes, printed too."""
    slower = median_ratio(seconds["ours"], seconds["tokenizers"])
    print(
        f"{work:24}{size / 1e6:6.2f} MB  {spread(seconds['ours']):<28}"
        f"{spread(seconds['tokenizers']):<28}{slower:.2f}"
    )
    return {"work": work, "bytes": size, "seconds": seconds, "ratio": slower}


def _naive_row(stories: list[str], merges: list[tuple], count: int, fast: float) -> dict:
    """The naive trainer's first `count` merges, against the `fast` seconds for all of `merges`."""
    import regex

    pieces = [piece.encode() for text in stories for piece in regex.findall(DIGITS_PATTERN, text)]
    start = time.perf_counter()
    learned = naive_merges(pieces, 256 + count)
    naive = time.perf_counter() - start
    if learned != merges[:count]:
        raise AssertionError("the naive trainer learned other merges: no use in timing")
    print(
        f"naive trainer: {naive:.1f} s for {count} of {len(merges):,} merges, the same ones: "
        f"{naive / fast:.0f} times what ours takes for all of them"
    )
    return {"work": "train, naive", "merges": count, "seconds": naive, "ratio": naive / fast}
