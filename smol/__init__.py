"""SmolLM2, taken apart and rebuilt: the package behind the notebooks.

The story in its order: config, model, tokenizer, pretrained (weights in and out), data, train,
generate, count. Below it: device (where, and in which precision), files (whole or not there),
checks (what a setting may be) and terminal (what is said beside the work).
In rooms of their own: finetune (from a text that goes on to answers), stories (the corpus and its
grammar), parity (the proof), lesson (what only notebooks use), bench and doctor (with limits:
what a container allows), tests.
"""

try:
    from smol.generate import generate
    from smol.model import KVCache, SmolLM2, SmolLM2Config
    from smol.pretrained import load_pretrained, save_pretrained
    from smol.tokenizer import BPETokenizer
except Exception as error:  # `python -m smol.doctor` must run where torch is missing or broken
    _why = error

    def __getattr__(name: str):
        """Raises, for a name that would be here, what kept it away."""
        raise _why if name in __all__ else AttributeError(f"smol has no attribute {name!r}")


__all__ = [
    "BPETokenizer",
    "KVCache",
    "SmolLM2",
    "SmolLM2Config",
    "generate",
    "load_pretrained",
    "save_pretrained",
]
