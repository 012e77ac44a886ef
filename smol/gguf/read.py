"""GGUF in: header, config and weights of a file, of which nothing is believed before it was looked
at.

The library's reader believes every count in it (2⁶³ strings in a file of a kilobyte), and takes
three seconds over the texts of a vocabulary. So the header is walked here.
"""

import math
import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from smol.checks import path, shown
from smol.config import STAND_INS, SmolLM2Config

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
SCALARS = dict(enumerate("BbHhIif?--Qqd"))  # the types of values, as `struct` writes them
STRING, ARRAY = 8, 9  # the two types of a value that are no scalar
MOST_DIMENSIONS = 4
FILE_TOKENS = ("bos_token_id", "eos_token_id", "padding_token_id")

# llama.cpp's names, and Hugging Face's, of a model and of each block.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What decides the numbers. All must be there: llama.cpp's stand-ins are those of other models.
KEYS = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
}
# What may be said beside them, as long as it says what is so here.
HEAD_DIM_KEYS = (
    "llama.rope.dimension_count",
    "llama.attention.key_length",
    "llama.attention.value_length",
)


class Place(NamedTuple):
    """Where a tensor's numbers lie in the file: `kind` is its GGMLQuantizationType."""

    shape: tuple[int, ...]  # as PyTorch writes it: rows first
    kind: int
    start: int
    size: int  # bytes


class Header(NamedTuple):
    """A .gguf without its numbers: the values of its keys, and where each tensor lies."""

    file: Path
    fields: dict
    tensors: dict[str, Place]


def read_header(file: str | Path) -> Header:
    """The keys of a .gguf and the places of its tensors.

    Nothing in the file is believed: every count and length is held against what is left of it
    before anything is made. Raises FileNotFoundError where there is no file, and ValueError for
    one that is no GGUF of version 2 or 3, cut off, or contradicts itself.
    """
    file = path("the .gguf", file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: name a .gguf file")
    with file.open("rb") as f:
        walk = _Walk(f, file, os.fstat(f.fileno()).st_size)
        if walk.take(4) != MAGIC:
            raise ValueError(f"{file} is no GGUF: it does not begin with the letters GGUF")
        if (version := walk.number("I")) not in VERSIONS:
            what = "in big-endian order" if not version % 2**16 else f"of version {version}"
            raise ValueError(
                f"{file} is GGUF {what}, known are versions 2 and 3, little-endian: convert it"
            )
        tensors, keys = walk.count("tensors", 24), walk.count("keys", 13)
        fields: dict = {}
        for _ in range(keys):
            key = walk.text()
            if key in fields:
                raise ValueError(f"{file} has the key {key!r:.80} twice: which one is it?")
            fields[key] = walk.value(key, walk.number("I"))
        listed = [walk.tensor() for _ in range(tensors)]
        alignment = fields.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"{file}: general.alignment is {shown(alignment)}, no power of two")
        start = -(-walk.at // alignment) * alignment
        return Header(file, fields, walk.places(listed, start, alignment))


class _Walk:
    """Reads a header piece by piece, never past the end of the file."""

    def __init__(self, f: BinaryIO, file: Path, size: int):
        self.f, self.file, self.size, self.at = f, file, size, 0

    def take(self, size: int) -> bytes:
        if size > self.size - self.at:
            raise ValueError(
                f"{self.file} is cut off or damaged: at byte {self.at} {size} more are wanted, "
                f"and {self.size - self.at} are left: fetch it again"
            )
        self.at += size
        return self.f.read(size)

    def number(self, code: str):
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def count(self, what: str, least: int) -> int:
        """How many there are. Each takes `least` bytes or more, so that too many do not fit."""
        if (count := self.number("Q")) > (self.size - self.at) // least:
            raise ValueError(
                f"{self.file} claims {count} {what}, more than it has room for: fetch it again"
            )
        return count

    def text(self) -> str:
        start, raw = self.at, self.take(self.number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.file}: the text at byte {start} is not UTF-8: fetch it again"
            ) from error

    def value(self, key: str, kind: int):
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(self.code(key, kind))
        kind = self.number("I")
        if kind == STRING:
            return [self.text() for _ in range(self.count(f"texts in {key!r:.80}", 8))]
        code = self.code(key, kind)
        count = self.count(f"numbers in {key!r:.80}", struct.calcsize(code))
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))

    def code(self, key: str, kind: int) -> str:
        if kind not in SCALARS or kind in (STRING, ARRAY):
            raise ValueError(f"{self.file}: {key!r:.80} is of an unknown type, {kind}")
        return SCALARS[kind]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"{self.file}: tensor {name!r:.80} has {dimensions} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(dimensions)]))
        return name, shape, self.number("I"), self.number("Q")

    def places(self, listed: list[tuple], start: int, alignment: int) -> dict[str, Place]:
        """The tensors' places from the beginning of the file, each within it."""
        places: dict[str, Place] = {}
        for name, shape, kind, offset in listed:
            if name in places:
                raise ValueError(f"{self.file} has the tensor {name!r:.80} twice: which is it?")
            size = self.bytes_of(name, shape, kind)
            if offset % alignment or start + offset + size > self.size:
                raise ValueError(
                    f"{self.file} is cut off or damaged: {name!r:.80} would lie at byte "
                    f"{start + offset}, {size} bytes of the file's {self.size}: fetch it again"
                )
            places[name] = Place(shape, kind, start + offset, size)
        if sum(place.size for place in places.values()) > self.size:
            raise ValueError(f"{self.file} is damaged: its tensors overlap: fetch it again")
        return places

    def bytes_of(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if kind not in list(GGMLQuantizationType):
            raise ValueError(f"{self.file}: {name!r:.80} is of an unknown type, {kind}")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        number = math.prod(shape)
        if shape[-1] % block or not number:
            raise ValueError(
                f"{self.file}: {name!r:.80} is {list(shape)!s:.90}, no whole "
                f"blocks of {block} weights"
            )
        return number // block * size


def config_of(header: Header) -> SmolLM2Config:
    """The config in a .gguf. ValueError, naming the key, for what is no SmolLM2.

    It does not say how weights were drawn at first: `initializer_range` is transformers' default.
    """
    fields, file = header.fields, header.file
    if (found := fields.get("general.architecture")) != "llama":
        raise ValueError(f"{file} is no SmolLM2: general.architecture is {shown(found)}")
    for key in KEYS.values():
        if key not in fields:
            raise ValueError(f"{file} has no {key}: fetch it again, or convert the model again")
    unknown = [
        key
        for key in sorted(fields)
        if key.startswith("llama.") and key not in (*KEYS.values(), *HEAD_DIM_KEYS)
    ]
    if unknown:
        raise ValueError(
            f"{file} is no SmolLM2: it sets {unknown[0]!r:.80}, which this model does not have: "
            "run it with llama.cpp"
        )
    found = {name: _plain(fields[key]) for name, key in KEYS.items()}
    special = [fields.get(f"tokenizer.ggml.{key}") for key in FILE_TOKENS]
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    try:
        config = SmolLM2Config(
            **found,
            initializer_range=STAND_INS["initializer_range"],
            tie_word_embeddings="output.weight" not in header.tensors,
            **dict(zip(names, special, strict=True)),
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for key in HEAD_DIM_KEYS:
        if fields.get(key, config.head_dim) != config.head_dim:
            raise ValueError(
                f"{file} is no SmolLM2: {key} is {shown(fields[key])}, this model has "
                f"{config.head_dim} only"
            )
    return config


def _plain(value):
    """A number of 32 bits as it was meant: 1e-5, which it writes as 9.999999747378752e-06."""
    with np.errstate(over="ignore"):  # a larger one becomes infinite, which no config may hold
        return float(str(np.float32(value))) if isinstance(value, float) else value


def shapes_of(header: Header) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by Hugging Face's names. ValueError for one that has no such name."""
    return {_key(header.file, name): place.shape for name, place in header.tensors.items()}


def _key(file: Path, name: str) -> str:
    """Hugging Face's name for a tensor of llama.cpp's. ValueError where it is none of theirs."""
    part, _, ending = name.rpartition(".")
    if part in NAMES:
        return f"{NAMES[part]}.{ending}"
    block, _, rest = part.removeprefix("blk.").partition(".")
    if part.startswith("blk.") and rest in BLOCK_NAMES:
        return f"model.layers.{block}.{BLOCK_NAMES[rest]}.{ending}"
    raise ValueError(f"{file} is no SmolLM2: its tensor {name!r:.80} has no place in the model")


def read_gguf(
    file: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[SmolLM2Config, dict[str, torch.Tensor]]:
    """The config in a .gguf, and its weights by Hugging Face's names as floats of `dtype`.

    Raises what `read_header`, `config_of` and `read_tensors` do. Whether the weights are all there
    and those of the config, `load_pretrained` looks.
    """
    header = read_header(file)
    config = config_of(header)
    return config, read_tensors(header, config, dtype, device)


def read_tensors(header: Header, config: SmolLM2Config, dtype, device) -> dict[str, torch.Tensor]:
    """The weights by Hugging Face's names, as floats, rows of q and k in Hugging Face's order.

    ValueError for a tensor without a place in the model, and for a type of weights that the
    library `gguf` does not turn into floats.
    """
    from gguf import GGMLQuantizationType, dequantize

    tensors = {}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, place in header.tensors.items():
        key = _key(header.file, name)
        raw = np.fromfile(header.file, np.uint8, place.size, offset=place.start)
        kind = GGMLQuantizationType(place.kind)
        try:
            with np.errstate(all="ignore"):  # a scale of NaN makes weights of NaN
                weights = dequantize(raw.reshape(*place.shape[:-1], -1), kind)
        except NotImplementedError as error:
            raise ValueError(
                f"{header.file} holds {name!r:.80} as {kind.name}, which cannot be read: fetch it "
                "in another, such as Q8_0"
            ) from error
        tensor = torch.from_numpy(weights)
        if (part := name.removesuffix(".weight").rpartition(".")[2]) in heads:
            tensor = halves(tensor, heads[part])
        tensors[key] = tensor.to(device, dtype)  # its memory is ours: nothing to copy
    return tensors


def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k from llama.cpp's order, RoPE's pairs side by side (0, 1), (2, 3), …, into
    Hugging Face's: the first of all pairs, then the second of all. ValueError for rows that are
    no pairs of so many heads."""
    if weight.dim() != 2 or len(weight) % (2 * heads):
        raise ValueError(f"{list(weight.shape)} weights are no rows of {heads} heads in pairs")
    return weight.view(heads, -1, 2, weight.size(-1)).transpose(1, 2).reshape(weight.shape)
