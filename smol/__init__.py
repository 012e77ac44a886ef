"""SmolLM2, taken apart and rebuilt: the package behind the notebooks."""

from smol.generate import generate
from smol.model import KVCache, SmolLM2, SmolLM2Config
from smol.pretrained import load_pretrained, save_pretrained
from smol.tokenizer import BPETokenizer

__all__ = [
    "BPETokenizer",
    "KVCache",
    "SmolLM2",
    "SmolLM2Config",
    "generate",
    "load_pretrained",
    "save_pretrained",
]
