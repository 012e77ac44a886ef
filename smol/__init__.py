"""SmolLM2, taken apart and rebuilt: the package behind the notebooks."""

import warnings

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

# `python -m smol.generate` imports this package first, and with it smol.generate: as it should.
warnings.filterwarnings("ignore", "'smol.generate' found in sys.modules", RuntimeWarning)
