"""Side by side with the libraries: `python -m smol.bench tokenizer [--json FILE]`.

One process, the contestants in turn, round after round, so that what else the machine does hits
all of them alike; equal results first, then medians and spreads, then ratios. A speed by itself
says more about the machine than about the code.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path

from smol.pretrained import written_beside
from smol.tokenizer import DIGITS_PATTERN, BPETokenizer, byte_alphabet, merge_pair


def side_by_side(contestants: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that is not counted."""
    seconds = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: list[float]) -> str:
    """ "0.251 s (0.249–0.260)": the median, the fastest, the slowest."""
    middle = statistics.median(seconds)
    return f"{middle:.3f} s ({min(seconds):.3f}–{max(seconds):.3f})"


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
        words = [merge_pair(word, best, len(tokens))[0] for word in words]
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
    import regex

    from smol.data import load_corpus

    corpus = load_corpus("stories")
    stories = [*corpus.train, *corpus.validation]
    ours = BPETokenizer.train(stories, vocab_size)
    theirs = library_tokenizer(stories, vocab_size)
    model = json.loads(theirs.to_str())["model"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    if ours.to_dict()["model"]["merges"] != pairs:
        raise AssertionError("our merges are not the library's: no use in timing")
    if any(ours.encode(text) != theirs.encode(text).ids for text in stories):
        raise AssertionError("our ids are not the library's: no use in timing")
    print(f"equal: {len(pairs):,} merges (all pairs there are), ids of {len(stories):,} stories")
    print(f"\n{'':24}{'text':>9}  {'ours':<28}{'tokenizers':<28}ours / tokenizers")

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

    rows = []
    for work, pair in (
        ("train", (train_ours, train_theirs)),
        ("encode", (encode_ours, encode_theirs)),
        ("encode, they in a batch", (encode_ours, theirs.encode_batch)),  # on all cores
    ):
        for part in (4, 2, 1):
            texts = stories[: len(stories) // part]
            runs = [partial(run, texts) for run in pair]
            seconds = side_by_side({"ours": runs[0], "tokenizers": runs[1]}, rounds)
            ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
            row = {"work": work, "bytes": sum(len(text.encode()) for text in texts)}
            rows.append({**row, "seconds": seconds, "ratio": statistics.median(ratios)})
            print(
                f"{work:24}{row['bytes'] / 1e6:6.2f} MB  {spread(seconds['ours']):<28}"
                f"{spread(seconds['tokenizers']):<28}{rows[-1]['ratio']:.2f}"
            )
        quarter, _, whole = (statistics.median(row["seconds"]["ours"]) for row in rows[-3:])
        print(f"{work}: four times the text takes us {whole / quarter:.1f} times as long")

    pieces = [piece.encode() for text in stories for piece in regex.findall(DIGITS_PATTERN, text)]
    start = time.perf_counter()
    merges = naive_merges(pieces, 256 + naive_count)
    naive = time.perf_counter() - start
    if merges != ours.merges[:naive_count]:
        raise AssertionError("the naive trainer learned other merges: no use in timing")
    fast = statistics.median(rows[2]["seconds"]["ours"])
    rows.append(
        {"work": "train, naive", "merges": naive_count, "seconds": naive, "ratio": naive / fast}
    )
    print(
        f"naive trainer: {naive:.1f} s for {naive_count} of {len(pairs):,} merges, the same ones: "
        f"{naive / fast:.0f} times what ours takes for all of them"
    )
    return rows


BENCHES = {"tokenizer": tokenizer}


def machine() -> dict[str, str | int]:
    """What the figures depend on: the processor, and the versions of what was run."""
    from importlib.metadata import version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", "regex")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["all"], help=", ".join([*BENCHES, "all"]))
    parser.add_argument("--json", type=Path, help="write command, date, machine and figures here")
    args = parser.parse_args()
    names = list(BENCHES) if "all" in args.names else args.names
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(BENCHES)}, all")
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    figures = {}
    for name in names:
        print(f"\n== {name}")
        figures[name] = BENCHES[name]()
    if args.json:
        command = f"python -m smol.bench {' '.join(args.names)}"
        result = {"command": command, "date": str(date.today()), "machine": about, **figures}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(args.json.parent, args.json.name) as (part,):
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
