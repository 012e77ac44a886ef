"""Small .gguf files, written by the library `gguf`, and taken apart into pieces to spoil one."""

import re
import struct
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quantize

from smol import BPETokenizer, SmolLM2
from smol.gguf import ALIGNMENT, BLOCK_NAMES, KEYS, NAMES, SCALARS
from smol.tests.reference import tiny_config
from smol.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

F32, Q4_1 = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_1
# Rows of 32 weights and more, as most quantisations want them.
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@cache
def small_tokenizer(split_digits: bool = True) -> BPETokenizer:
    text = "The quick brown fox, 1234 of them, don't jump over the lazy dog's ears. Ünïcödé! "
    return BPETokenizer.train([text * 3], 310, SPECIAL_TOKENS, split_digits)


def small_model(seed: int = 0, **changes) -> SmolLM2:
    """A model with the vocabulary of `small_tokenizer`, and norms that matter."""
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    unsaid = {"initializer_range": 0.02}  # by a .gguf
    sizes = {**SHAPE, "vocab_size": len(small_tokenizer()), **ends, **unsaid, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmolLM2(tiny_config(**sizes))
        for key, weight in model.named_parameters():
            if "norm" in key:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model.eval()


def pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k in llama.cpp's order, as its converter writes them."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, -1)


def tensors_of(model: SmolLM2) -> dict[str, np.ndarray]:
    """Its weights by llama.cpp's names, and q and k in llama.cpp's order."""
    names = {f"{ours}.weight".removeprefix("model."): f"{n}.weight" for n, ours in NAMES.items()}
    for i in range(model.config.num_hidden_layers):
        for name, ours in BLOCK_NAMES.items():
            names[f"layers.{i}.{ours}.weight"] = f"blk.{i}.{name}.weight"
    heads = {
        "attn_q": model.config.num_attention_heads,
        "attn_k": model.config.num_key_value_heads,
    }
    tensors = {}
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        name, weight = names[key], weight.detach().float()
        if (part := name.split(".")[-2]) in heads:
            weight = pairs(weight, heads[part])
        tensors[name] = weight.numpy()
    return tensors


def fields_of(model: SmolLM2, tokenizer: BPETokenizer, template: str | None = None) -> dict:
    """The keys of a .gguf: key -> value, or (value, type) where the value does not say it."""
    vocab = tokenizer.to_dict()["model"]["vocab"]
    added = {**tokenizer.special_tokens, **tokenizer.added_tokens}
    names = {**{i: t for t, i in vocab.items()}, **{i: text for text, i in added.items()}}
    kinds = {**dict.fromkeys(names, 1), **dict.fromkeys(tokenizer.special_tokens.values(), 3)}
    kinds |= dict.fromkeys(tokenizer.added_tokens.values(), 4)
    merges = [" ".join(pair) for pair in tokenizer.to_dict()["model"]["merges"]]
    config = model.config
    ends = {"bos": config.bos_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}
    return {
        "general.architecture": "llama",
        "general.alignment": 32,
        **{key: getattr(config, name) for name, key in KEYS.items()},
        "llama.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm" if tokenizer.split_digits else "gpt-2",
        "tokenizer.ggml.tokens": [names[i] for i in sorted(names)],
        "tokenizer.ggml.token_type": [kinds[i] for i in sorted(names)],
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{k}_token_id": i for k, i in ends.items() if i is not None},
        "tokenizer.ggml.add_bos_token": False,
        **({} if template is None else {"tokenizer.chat_template": template}),
    }


class Raw(NamedTuple):
    """A tensor's bytes as they are to stand in the file."""

    data: np.ndarray  # of bytes, a row for each row of weights
    kind: GGMLQuantizationType


def write(
    file: Path,
    model: SmolLM2 | None = None,
    tokenizer: BPETokenizer | None = None,
    kind: GGMLQuantizationType = F32,
    template: str | None = CHAT_TEMPLATE,
    fields: dict | None = None,
    tensors: dict | None = None,
) -> Path:
    """A .gguf with the model's matrices as `kind` and its norms as F32, as llama.cpp has them.

    `fields` and `tensors` are put in or replace others; what is None is left out.
    """
    model, tokenizer = model or small_model(), tokenizer or small_tokenizer()
    keys = {**fields_of(model, tokenizer, template), **(fields or {})}
    writer = GGUFWriter(file, keys.pop("general.architecture"))
    for key, value in keys.items():
        if isinstance(value, tuple):
            writer.add_key_value(key, *value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            whole = GGUFValueType.INT32 if isinstance(value, int) and value < 0 else None
            kinds = {
                bool: GGUFValueType.BOOL,
                str: GGUFValueType.STRING,
                int: whole or GGUFValueType.UINT32,
                float: GGUFValueType.FLOAT32,
            }
            writer.add_key_value(key, value, kinds[type(value)])
    for name, weight in {**tensors_of(model), **(tensors or {})}.items():
        if isinstance(weight, Raw):
            writer.add_tensor(name, weight.data, raw_dtype=weight.kind)
        elif weight is not None:
            of = kind if weight.ndim == 2 else F32
            data = quantize(weight, of)
            writer.add_tensor(name, data, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


# -- taken apart --------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A number or a text of a header: what it is, `code` (as struct has it; "": text), bytes."""

    what: str
    code: str
    raw: bytes

    def set(self, value) -> "Piece":
        """The same piece with another number, or other bytes."""
        if isinstance(value, bytes):
            return self._replace(raw=value)
        return self._replace(raw=struct.pack(f"<{self.code}", value))


def pieces_of(data: bytes) -> list[Piece]:
    """A whole .gguf in pieces, in the order in which they stand there; the last is the numbers."""
    pieces, at = [], 0

    def text(what: str, size: int) -> bytes:
        nonlocal at
        raw = data[at : at + size]
        at += size
        pieces.append(Piece(what, "", raw))
        return raw

    def number(what: str, code: str):
        value = struct.unpack(f"<{code}", text(what, struct.calcsize(code)))[0]
        pieces[-1] = pieces[-1]._replace(code=code)
        return value

    def string(what: str) -> str:
        return text(what, number(f"length of {what}", "Q")).decode()

    def value(what: str, kind: int):
        if kind == 8:
            string(what)
        elif kind == 9:
            inner = number(f"type in {what}", "I")
            for i in range(number(f"count of {what}", "Q")):
                value(f"{what}[{i}]", inner)
        else:
            number(what, SCALARS[kind])

    text("magic", 4)
    number("version", "I")
    tensors, keys = number("count of tensors", "Q"), number("count of keys", "Q")
    for i in range(keys):
        key = string(f"key {i}")
        value(key, number(f"type of {key}", "I"))
    for i in range(tensors):
        name = string(f"tensor {i}")
        for n in range(number(f"dimensions of {name}", "I")):
            number(f"dimension {n} of {name}", "Q")
        number(f"type of {name}", "I")
        number(f"offset of {name}", "Q")
    return [*pieces, Piece("numbers", "", data[at + -at % ALIGNMENT :])]


def joined(pieces: Iterable[Piece]) -> bytes:
    """The file of the pieces, its numbers where they then belong."""
    *head, numbers = pieces
    header = b"".join(piece.raw for piece in head)
    return header + bytes(-len(header) % ALIGNMENT) + numbers.raw


def parted(pieces: list[Piece]) -> tuple[list[list[Piece]], list[list[Piece]]]:
    """The pieces of each key, and of each tensor."""
    starts = [i for i, p in enumerate(pieces) if re.match(r"length of (key|tensor) \d+$", p.what)]
    ends = [*starts[1:], len(pieces) - 1]
    parts = [pieces[a:b] for a, b in zip(starts, ends, strict=True)]
    keys = [part for part in parts if part[0].what.startswith("length of key")]
    return keys, parts[len(keys) :]


def put_together(
    pieces: list[Piece], keys: list[list[Piece]], tensors: list[list[Piece]]
) -> list[Piece]:
    """The file with these keys and tensors instead, and their counts."""
    magic, version, tensor_count, key_count = pieces[:4]
    head = [magic, version, tensor_count.set(len(tensors)), key_count.set(len(keys))]
    return [*head, *(piece for part in (*keys, *tensors) for piece in part), pieces[-1]]


def spoilt(data: bytes, what: str, change: Callable[[Piece], object]) -> bytes:
    """The file with the piece of that name changed."""
    pieces = pieces_of(data)
    at = next(i for i, piece in enumerate(pieces) if piece.what == what)
    pieces[at] = pieces[at].set(change(pieces[at]))
    return joined(pieces)
