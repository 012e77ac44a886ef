"""What a model is worth: its loss on held-out text, and how it writes."""

import math

import torch
from torch import nn

from smol.generate import generate
from smol.model import SmolLM2
from smol.tokenizer import BPETokenizer
from smol.train.data import Validation


def sample(model: SmolLM2, tokenizer: BPETokenizer, length: int = 60, seed: int = 0) -> str:
    """How the model begins a document: drawn at temperature 0.8, the same draws for a seed."""
    device = model.embed_tokens.weight.device
    end = torch.tensor([[tokenizer.eos_id]], device=device)
    drawn = torch.Generator(device).manual_seed(seed)
    settings = {"temperature": 0.8, "stop_ids": [tokenizer.eos_id], "generator": drawn}
    return tokenizer.decode(
        generate(model, end, length, **settings)[0, 1:].tolist(), skip_special_tokens=True
    )


@torch.no_grad()
def evaluate(loss_model: nn.Module, validation: Validation, device: torch.device) -> dict:
    """val_loss in nats per token, val_bits_per_byte and, where the floor is known, how far above
    it: val_over_floor, 0.05 for 5 %."""
    nats = targets = 0.0
    for inputs, labels in validation.batches:
        loss, count = loss_model(inputs.to(device), labels.to(device))
        nats, targets = nats + loss.item(), targets + count.item()
    result = {
        "val_loss": nats / targets,
        "val_bits_per_byte": nats / validation.size / math.log(2),
    }
    if validation.floor is not None:
        result["val_over_floor"] = nats / validation.floor - 1
    return result
