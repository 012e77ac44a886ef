"""GGUF out: a model and its tokenizer as one file, which llama.cpp and Ollama run.

llama.cpp's own converter knows a tokenizer by a hash of what it does to one text, and refuses each
that it has not met, so every newly trained one. The file itself only wants the name of the pattern
that cuts a text: SmolLM2's, which all tokenizers here share, is "smollm".
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from smol.checks import one_of, path, shown
from smol.files import writable, written_beside
from smol.gguf.read import BLOCK_NAMES, KEYS, NAMES
from smol.model import SmolLM2

if TYPE_CHECKING:
    from smol.tokenizer import BPETokenizer

# What the matrices are kept in, and how llama.cpp numbers a file of that.
KINDS = {"f32": 0, "f16": 1, "q8_0": 7}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens
BLOCK = 32  # weights that share a scale in Q8_0


def write_gguf(
    model: SmolLM2, tokenizer: "BPETokenizer", file: str | Path, kind: str = "q8_0"
) -> None:
    """Writes the model, its tokenizer and its chat template into one .gguf.

    Matrices are kept as `kind`: "f32", "f16", or "q8_0", in which 32 weights share a scale (8.5
    bits a weight; llama.cpp and Ollama run it fastest); norms always as F32. Rows of q and k come
    as llama.cpp's RoPE wants them (`pairs`). No token is put before a text: `<|endoftext|>`, which
    a story begins after, its caller writes, as everywhere here.

    Written beside and renamed when it is whole. Raises ValueError, before anything is written, for
    another model or tokenizer, for ids that the model does not have, for rows that "q8_0" cannot
    cut into blocks, and for weights that are no numbers, or too large for "f16".
    """
    kind, file = one_of("kind", kind, KINDS), path("the .gguf", file)
    if not isinstance(model, SmolLM2):
        raise ValueError(f"write_gguf takes a SmolLM2, got {shown(model)}")
    fields = _fields(model, tokenizer, kind)  # refuses a tokenizer before any weight is touched
    tensors = {name: _as_kind(name, w, kind) for name, w in _tensors(model).items()}
    writable(file.parent)
    from gguf import GGUFWriter

    with written_beside(file.parent, file.name) as (part,):
        writer = GGUFWriter(part, "llama")
        for key, value in fields.items():
            if isinstance(value, list):
                writer.add_array(key, value)
            else:
                add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}
                add.get(type(value), writer.add_float32)(key, value)
        for name, (data, its_kind) in tensors.items():
            writer.add_tensor(name, data, raw_dtype=its_kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _fields(model: SmolLM2, tokenizer: "BPETokenizer", kind: str) -> dict:
    """The keys of the file. ValueError for a tokenizer that is not the model's."""
    if not hasattr(tokenizer, "split_digits") or not hasattr(tokenizer, "to_dict"):
        raise ValueError(f"tokenizer must be a BPETokenizer, got {shown(tokenizer)}")
    config, bpe = model.config, tokenizer.to_dict()["model"]
    texts = {i: (text, NORMAL) for text, i in bpe["vocab"].items()}
    texts |= {i: (text, USER_DEFINED) for text, i in tokenizer.added_tokens.items()}
    texts |= {i: (text, CONTROL) for text, i in tokenizer.special_tokens.items()}
    if (most := max(texts)) >= config.vocab_size:
        raise ValueError(
            f"the tokenizer has the id {most}, the model has {config.vocab_size} tokens: take the "
            "tokenizer that it was trained with"
        )
    every = [texts.get(i, (f"[PAD{i}]", UNUSED)) for i in range(config.vocab_size)]
    ends = {"bos": config.bos_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}
    return {
        "general.file_type": KINDS[kind],
        **({"general.quantization_version": 2} if kind == "q8_0" else {}),
        **{key: getattr(config, name) for name, key in KEYS.items()},
        "llama.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm" if tokenizer.split_digits else "gpt-2",
        "tokenizer.ggml.tokens": [text for text, _ in every],
        "tokenizer.ggml.token_type": [its_type for _, its_type in every],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in bpe["merges"]],
        **{f"tokenizer.ggml.{name}_token_id": i for name, i in ends.items() if i is not None},
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        **(
            {"tokenizer.chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
        ),
    }


def _tensors(model: SmolLM2) -> dict[str, torch.Tensor]:
    """The weights in fp32 by llama.cpp's names; a tied head is not there twice."""
    config, named = model.config, {}
    parts = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in NAMES.items()}
    for i in range(config.num_hidden_layers):
        for theirs, ours in BLOCK_NAMES.items():
            parts[f"model.layers.{i}.{ours}.weight"] = f"blk.{i}.{theirs}.weight"
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = parts[key if key == "lm_head.weight" else f"model.{key}"]
        weight = weight.detach().to("cpu", torch.float32)
        if (part := name.split(".")[-2]) in heads:
            weight = pairs(weight, heads[part])
        named[name] = weight.contiguous()
    return named


def _as_kind(name: str, weight: torch.Tensor, kind: str) -> tuple[np.ndarray, int]:
    """A tensor's bytes, and their GGMLQuantizationType."""
    from gguf import GGMLQuantizationType, quantize

    its_kind = GGMLQuantizationType[kind.upper() if weight.dim() == 2 else "F32"]
    if its_kind.name == "Q8_0" and weight.size(-1) % BLOCK:
        raise ValueError(
            f"q8_0 keeps {BLOCK} weights of a row together, and {name} has rows of "
            f"{weight.size(-1)}: take f16"
        )
    if not weight.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: the model is broken, take another")
    if its_kind.name != "F32" and weight.abs().max() > torch.finfo(torch.float16).max:
        raise ValueError(f"{name} holds numbers above 65,504, too large for {kind}: take f32")
    return quantize(weight.numpy(), its_kind), its_kind


def pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k from Hugging Face's order into llama.cpp's: what `halves` undoes."""
    return weight.view(heads, 2, -1, weight.size(-1)).transpose(1, 2).reshape(weight.shape)
