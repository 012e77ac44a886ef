"""Broken files by the thousand: `python -m smol.tests.fuzz --cases 10000` (`--only gguf`).

Valid files (config.json, model.safetensors, tokenizer.json, a training checkpoint, .gguf files)
are damaged at random: bytes cut off, flipped or put in; JSON values swapped for absurd ones, keys
dropped; in a .gguf numbers, lengths and texts of the header changed, left out or doubled. What
reads them must load them or say ValueError or OSError in one short text, within seconds and
without taking much memory (a limit of the process, on Linux). The seed is printed.
"""

import argparse
import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from smol import BPETokenizer, SmolLM2, load_pretrained, save_pretrained
from smol.tests import ggufs
from smol.tests.reference import tiny_config
from smol.train import TrainConfig, load_checkpoint, save_checkpoint

ABSURD = [None, True, -1, 0, 1, 2.5, 10**6, 10**12, 1e308, float("nan"), "", "x", [], [0], {}]
SECONDS, MEMORY = 20, 4 * 2**30
# The edges of numbers of 8 to 64 bits, types, and sizes that a file of 70 kB cannot hold.
EDGES = [
    *range(-2, 14),
    32,
    39,
    100,
    *(2**n + d for n in (7, 8, 16, 31, 32, 40, 63) for d in (-1, 0)),
]
TEXTS = [
    b"",
    b"\xff\xfe",
    b"llama.block_count",
    b"general.alignment",
    b"blk.0.attn_q.weight",
    b"x" * 300,
]


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    kind, at = draw.randrange(5), draw.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:  # a few bits
        spoilt = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            spoilt[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(spoilt)
    if kind == 2:
        return data[:at] + draw.randbytes(draw.randint(1, 20)) + data[at:]
    if kind == 3:
        return data[:at] + data[at + draw.randint(1, 50) :]
    return draw.randbytes(draw.randint(0, 100))


def damaged_json(value, draw: random.Random):
    """One place of a JSON value made absurd, dropped or doubled."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(ABSURD)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        if draw.random() < 0.2:
            return rest
        if draw.random() < 0.1:
            return {**rest, draw.choice(["x", ""]): value[key]}
        return {**value, key: damaged_json(value[key], draw)}
    at = draw.randrange(len(value))
    if draw.random() < 0.2:
        return value[:at] + value[at + 1 :]
    return [*value[:at], damaged_json(value[at], draw), *value[at + 1 :]]


def damaged_pieces(pieces: list[ggufs.Piece], draw: random.Random) -> list[ggufs.Piece]:
    """One to three pieces of a .gguf's header changed, left out, doubled, or put elsewhere."""
    pieces = list(pieces)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        # Most pieces are texts of the vocabulary: they may not take all the damage.
        others = [i for i, piece in enumerate(pieces[:-1]) if "[" not in piece.what]
        at = draw.choice(others) if draw.random() < 0.8 else draw.randrange(len(pieces) - 1)
        kind = draw.random()
        if kind < 0.05:
            pieces[at : at + draw.randint(1, 3)] = []
        elif kind < 0.1:
            pieces[at:at] = pieces[at : at + draw.randint(1, 6)]
        elif kind < 0.15:
            pieces[at] = draw.choice(pieces[:-1])
        else:
            pieces[at] = damaged_piece(pieces[at], draw)
            if not pieces[at].code and draw.random() < 0.8:  # else it shifts what follows
                pieces[at - 1] = pieces[at - 1].set(struct.pack("<Q", len(pieces[at].raw)))
    return pieces


def damaged_piece(piece: ggufs.Piece, draw: random.Random) -> ggufs.Piece:
    if not piece.code:
        other = damaged_bytes(piece.raw + b"a", draw)
        return piece.set(draw.choice([*TEXTS, draw.randbytes(4), other]))
    size = len(piece.raw)
    near = int.from_bytes(piece.raw, "little") + draw.choice([-2, -1, 1, 2, 32])
    number = draw.choice(
        [near, draw.choice(EDGES), draw.choice(EDGES), draw.getrandbits(8 * size)]
    )
    return piece.set((number % 256**size).to_bytes(size, "little"))


def damaged_parts(pieces: list[ggufs.Piece], draw: random.Random) -> list[ggufs.Piece]:
    """A header that is in order, and says what is wrong: values, types, shapes, names and places
    of keys and tensors changed; whole ones left out, or there twice."""
    keys, tensors = ggufs.parted(pieces)
    for _ in range(draw.choice([1, 1, 2, 3])):
        parts = draw.choice([keys, keys, tensors])
        at, kind = draw.randrange(len(parts)), draw.random()
        length, name, *rest = parts[at]
        if kind < 0.05:
            del parts[at]
        elif kind < 0.1:
            parts.append(parts[at])
        elif kind < 0.2:
            text = damaged_piece(name, draw)
            parts[at] = [length.set(len(text.raw)), text, *rest]
        elif parts is keys and kind < 0.7:
            parts[at] = [length, name, ggufs.Piece("value", "", absurd_value(draw))]
        elif parts is tensors and kind < 0.6:
            shape = [draw.choice([*EDGES, 32, 32, 310]) % 2**64 for _ in range(draw.randrange(5))]
            raw = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            parts[at] = [length, name, ggufs.Piece("shape", "", raw), *rest[-2:]]
        else:  # a number of its value; its shape, type or place
            numbers = [i for i, piece in enumerate(parts[at]) if piece.code and i] or [0]
            i = draw.choice(numbers)
            parts[at] = [*parts[at][:i], damaged_piece(parts[at][i], draw), *parts[at][i + 1 :]]
    return ggufs.put_together(pieces, keys, tensors)


def absurd_value(draw: random.Random) -> bytes:
    """A value of any type, as it stands in a file: its type, then itself."""
    kind = draw.choice([*range(13), 9, 9, 8, 4, 4, 4])
    text = draw.choice([*TEXTS, b"gpt2", b"{{ messages[5].x.y }}", b"{% for i in 5 %}", b"a b"])
    if kind == 8:
        return struct.pack("<IQ", 8, len(text)) + text
    if kind == 9:
        inner, count = draw.choice([*range(13), 8, 5]), draw.choice([0, 1, 2, 310])
        if inner == 8:
            return struct.pack("<IIQ", 9, 8, count) + count * (struct.pack("<Q", len(text)) + text)
        size = {**dict.fromkeys((0, 1, 7), 1), 2: 2, 3: 2, 10: 8, 11: 8, 12: 8}.get(inner, 4)
        return struct.pack("<IIQ", 9, inner, count) + draw.randbytes(size * count)
    size = {**dict.fromkeys((0, 1, 7), 1), 2: 2, 3: 2, 10: 8, 11: 8, 12: 8}.get(kind, 4)
    number = draw.choice([*EDGES, draw.getrandbits(64)]) % 256**size
    return struct.pack("<I", kind) + number.to_bytes(size, "little")


def foreign(draw: random.Random) -> bytes:
    """What is no GGUF, or only begins like one."""
    body = draw.randbytes(draw.randint(0, 3000))
    starts = [b"", b"PK\x03\x04", b"GGUF", b"GGML", b"\x80\x02", b"{", b"GGUF\0\0\0\3"]
    starts += [b"GGUF" + struct.pack("<IQQ", 3, *draw.choices(EDGES[2:], k=2)) for _ in range(5)]
    return draw.choice(starts) + body


def damaged_gguf(data: bytes, draw: random.Random) -> bytes:
    kind, header = draw.random(), 12_000  # the numbers behind it are the larger part
    if kind < 0.05:
        return foreign(draw)
    if kind < 0.1:
        return data[: draw.randrange(header if draw.random() < 0.8 else len(data))]
    if kind < 0.15:
        return damaged_bytes(data, draw)
    if kind < 0.3:
        return damaged_bytes(data[:header], draw) + data[header:]
    change = damaged_pieces if kind < 0.5 else damaged_parts
    return ggufs.joined(change(ggufs.pieces_of(data), draw))


def damage(data: bytes, name: str, draw: random.Random) -> bytes:
    if name.endswith(".gguf"):
        return damaged_gguf(data, draw)
    if draw.random() < 0.3 or name.endswith(".pt"):
        return damaged_bytes(data, draw)
    if name.endswith(".json"):
        return json.dumps(damaged_json(json.loads(data), draw)).encode()
    size = struct.unpack("<Q", data[:8])[0]  # of the header of a safetensors file
    header = json.dumps(damaged_json(json.loads(data[8 : 8 + size]), draw)).encode()
    size = len(header) if draw.random() < 0.9 else draw.choice([0, 1, 2**40, 2**63])
    return struct.pack("<Q", size) + header + data[8 + len(header) :]


def targets(folder: Path) -> dict[str, tuple[Path, Callable]]:
    """File -> what reads it."""
    torch.manual_seed(0)
    tokenizer = BPETokenizer.train(["a tale of two tales " * 3], 280, ["<|endoftext|>"])
    model = SmolLM2(tiny_config(vocab_size=len(tokenizer), hidden_size=12))
    save_pretrained(model, folder / "model")
    tokenizer.save(folder / "model")
    config = TrainConfig(steps=4)
    state = {"config": config.deciding(), "torch": torch.get_rng_state()}
    save_checkpoint(folder / "run", 2, state, model, tokenizer, keep=1)
    step = folder / "run" / "step-000002"
    small, quantised = folder / "small.gguf", folder / "quantised.gguf"
    ggufs.write(small, template="{% for m in messages %}{{ m.content }}{% endfor %}")
    ggufs.write(quantised, ggufs.small_model(tie_word_embeddings=False), kind=ggufs.Q4_1)

    def read_tokenizer(file: Path) -> None:
        tokenizer = BPETokenizer.load(file)
        tokenizer.decode(tokenizer.encode("the quick <|im_end|>"))
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])

    return {
        "config.json": (folder / "model/config.json", lambda: load_pretrained(folder / "model")),
        "model.safetensors": (
            folder / "model/model.safetensors",
            lambda: load_pretrained(folder / "model"),
        ),
        "tokenizer.json": (
            folder / "model/tokenizer.json",
            lambda: BPETokenizer.load(folder / "model").encode("a tale <|endoftext|>"),
        ),
        "training.pt": (step / "training.pt", lambda: load_checkpoint(step, config)),
        "checkpoint weights": (
            step / "model.safetensors",
            lambda: load_checkpoint(step, config) and load_pretrained(step),
        ),
        "gguf": (small, lambda: load_pretrained(small)),
        "gguf quantised": (quantised, lambda: load_pretrained(quantised)),
        "gguf tokenizer": (small, lambda: read_tokenizer(small)),
    }


def fuzz(cases: int, seed: int = 0, only: str = "") -> tuple[Counter, list[str]]:
    """How often each file (of those whose names hold `only`) was loaded or refused, and what
    should not have happened."""
    draw, counts, wrong = random.Random(seed), Counter(), []
    folder = Path(tempfile.mkdtemp())
    try:
        readers = {name: reader for name, reader in targets(folder).items() if only in name}
        for case in range(cases):
            name = list(readers)[case % len(readers)]
            file, read = readers[name]
            whole = file.read_bytes()
            spoilt = damage(whole, file.name, draw)
            file.write_bytes(spoilt)
            start = time.perf_counter()
            try:
                read()
                counts[name, "loaded"] += 1
            except (ValueError, OSError) as error:
                counts[name, "refused"] += 1
                text = str(error)
                if not 10 < len(text) < 1000:
                    wrong.append(f"case {case}, {name}: a message of {len(text)} characters")
                named = str(file) in text or "chat template" in text
                if "gguf" in name and (len(text) > 400 or "\n" in text or not named):
                    wrong.append(f"case {case}, {name}: no short sentence: {text:.300}")
            except BaseException as error:
                wrong.append(f"case {case}, {name}: {type(error).__name__}: {str(error)[:200]}")
            if time.perf_counter() - start > SECONDS:
                wrong.append(f"case {case}, {name}: more than {SECONDS} s")
            file.write_bytes(whole)
    finally:
        shutil.rmtree(folder)
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only files whose names hold it, such as gguf")
    args = parser.parse_args()
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(3600)
    counts, wrong = fuzz(args.cases, args.seed, args.only)
    for (name, what), count in sorted(counts.items()):
        print(f"{name:20} {what:8} {count:6,}")
    print(f"seed {args.seed}, {args.cases:,} cases, {len(wrong)} wrong", *wrong[:40], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
