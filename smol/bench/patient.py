"""The patients: small trained models, into which notebook 3 and `parity` plant their bugs.

A bug has to be planted into a *trained* model, since a random one has a loss of nonsense before
and after it; and into a small one, since each bug gets a ladder of its own.
"""

import dataclasses
import tempfile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.lesson.exercise import SMALL
from smol.model import SmolLM2
from smol.pretrained import save_pretrained

CUT = 38  # a text of `said_twice` cut here ends before the last letter of a word's second time


def said_twice(batch: int, words: int = 12) -> Tensor:
    """(batch, 8 · words) ids: 1 to 26 for letters, 0 for the space."""
    word = torch.randint(1, 27, (batch, words, 3))
    return F.pad(word, (0, 1)).repeat(1, 1, 2).reshape(batch, -1)


def loss_of(model, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def trained_patient(seed: int, steps: int = 301) -> tuple[SmolLM2, Tensor]:
    """The patient of notebook 3 for seed 0, its brother for another, and 64 texts new to it."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        said_twice(1)  # the text that notebook 3 shows first
        patient = SmolLM2(dataclasses.replace(SMALL, vocab_size=27))
        optimizer = torch.optim.AdamW(patient.parameters(), lr=3e-3)
        for _ in range(steps):
            loss = loss_of(patient, said_twice(16))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(patient.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return patient.eval(), said_twice(64)


def doctor_of(patient: SmolLM2) -> nn.Module:
    """Its reference: the same weights, saved by us and loaded by transformers."""
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(patient, folder)
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
