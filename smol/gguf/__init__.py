"""GGUF: the file of llama.cpp and Ollama, with config, weights and tokenizer in one.

A header (keys with typed values, then a name, shape, type and place for each tensor) and then the
numbers, mostly quantised: in Q4_1, 32 weights share a scale d and a minimum m, and w = d·q + m
with q in four bits. The library `gguf` makes them of floats and turns them back. `read.py` reads a
file, `write.py` makes one, `ollama.py` the Modelfile beside it, `smol/tokenizer/gguf.py` reads the
tokenizer in it. (Format: ggml's
docs/gguf.md.)

    python -m smol.gguf assets/smol-stories stories.gguf --kind q8_0
"""

from smol.gguf.read import (
    ALIGNMENT,
    BLOCK_NAMES,
    HEAD_DIM_KEYS,
    KEYS,
    NAMES,
    SCALARS,
    config_of,
    halves,
    read_gguf,
    read_header,
    read_tensors,
    shapes_of,
)
from smol.gguf.write import KINDS, pairs, write_gguf

__all__ = [
    "ALIGNMENT",
    "BLOCK_NAMES",
    "HEAD_DIM_KEYS",
    "KEYS",
    "KINDS",
    "NAMES",
    "SCALARS",
    "config_of",
    "halves",
    "pairs",
    "read_gguf",
    "read_header",
    "read_tensors",
    "shapes_of",
    "write_gguf",
]
