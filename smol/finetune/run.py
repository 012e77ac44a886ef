"""The run: `smol.train`'s loop over conversations, from a model to one that answers."""

import copy
import dataclasses
import hashlib
from pathlib import Path

import torch
from torch import nn

from smol.checks import path, shown
from smol.finetune.data import TEMPLATE, end_of, pad_of, reading_of
from smol.finetune.lora import add_lora, load_lora, merge_lora, save_lora
from smol.finetune.preference import PreferenceModel, evaluate_pairs
from smol.finetune.settings import FinetuneConfig
from smol.generate import generate
from smol.model import SmolLM2
from smol.pretrained import load_pretrained
from smol.tokenizer import CHAT_TEMPLATE, BPETokenizer
from smol.train.checkpoint import save_whole
from smol.train.data import Reading, Validation
from smol.train.loop import Task, run
from smol.train.ranks import Ranks


def finetune(config: FinetuneConfig, out: str | Path, resume: bool = False) -> tuple[SmolLM2, int]:
    """Trains as `config` says: the model, LoRA merged, and the last step that was taken.

    As in `smol.train.train`, whose errors it raises, log and checkpoints go to `out`; LoRA's
    checkpoints hold what was added and no more. At the end out/model is the whole model as a
    folder to chat with, for transformers too, and with LoRA out/adapter is peft's.
    """
    if not isinstance(config, FinetuneConfig):
        raise ValueError(f"config must be a FinetuneConfig, got {shown(config)}")
    out, ranks = path("out", out), Ranks.of_torchrun()
    model, step = run(config, out, resume, task := Tuning())
    done = step == config.steps and ranks.rank == 0
    if config.method == "lora":
        if done:
            save_lora(model, out / "adapter", config.model)
        model = merge_lora(model)
    if done:
        save_chat(model, task.tokenizer, out / "model")
    return model, step


class Tuning(Task):
    """Conversations, a model that is there, and what is trained of it.

    LoRA and DPO need that model to the end, also where the run is resumed: as what the adapter is
    added to, or as the reference. A hash of its weights, saved with the data's position, refuses
    to go on with another one.
    """

    def reading(self, config: FinetuneConfig, ranks: Ranks) -> Reading:
        """The conversations by the model's own template, or by TEMPLATE where it has none."""
        with ranks.agreed():
            self.tokenizer = BPETokenizer.load(config.model)
            self.tokenizer.chat_template = self.tokenizer.chat_template or TEMPLATE
            self.base = base = load_pretrained(config.model) if config.method != "sft" else None
            reading = reading_of(config, self.tokenizer, base and _hash_of(base))
        inputs, labels = (rows[0] for rows in reading.validation.batches[0])
        self.asked = inputs[: (labels != -100).int().argmax() + 1]
        return reading

    def begin(self, config: FinetuneConfig, tokenizer: BPETokenizer) -> SmolLM2:
        """The model, with LoRA drawn from the seed. ValueError where it cannot read so much."""
        model = self.base or load_pretrained(config.model)
        longest = model.config.max_position_embeddings
        if config.seq_len > longest:
            raise ValueError(f"seq_len {config.seq_len} is over the model's context of {longest}")
        torch.manual_seed(config.seed)
        if config.method == "lora":
            return add_lora(model, config.rank, config.alpha)
        return copy.deepcopy(model) if config.method == "dpo" else model

    def load(self, config: FinetuneConfig, folder: Path) -> SmolLM2:
        """The model of a checkpoint; for LoRA the one it began with, and what was added."""
        if config.method == "lora":
            return load_lora(self.base, folder)
        return super().load(config, folder)

    def loss_model(self, config: FinetuneConfig, model: SmolLM2) -> nn.Module:
        """For DPO the model beside its reference, which is what it began as."""
        if config.freeze_embedding:
            freeze_embedding(model, list(self.tokenizer.special_tokens.values()))
        if config.method == "dpo":
            return PreferenceModel(model, self.base, config.beta)
        return super().loss_model(config, model)

    def evaluate(self, loss_model: nn.Module, held_out: Validation, device: torch.device) -> dict:
        """For DPO the pairs' means."""
        if isinstance(loss_model, PreferenceModel):
            return evaluate_pairs(loss_model, held_out, device)
        return super().evaluate(loss_model, held_out, device)

    def save(self, config: FinetuneConfig, model: SmolLM2, tokenizer, folder: Path) -> None:
        """What was added by LoRA; else the whole model, to chat with."""
        if config.method == "lora":
            save_lora(model, folder, config.model)
        else:
            save_chat(model, tokenizer, folder)

    def sample(self, model: SmolLM2, tokenizer: BPETokenizer) -> str:
        """The end of a question that is held out, and the likeliest answer."""
        ids = self.asked[None].to(model.embed_tokens.weight.device)
        ends = list(tokenizer.special_tokens.values())
        room = min(60, model.config.max_position_embeddings - ids.size(1))
        ids = generate(model, ids, room, stop_ids=ends)[0] if room else ids[0]
        asked, said = ids[: len(self.asked)], ids[len(self.asked) :]
        asked, said = (tokenizer.decode(t, skip_special_tokens=True) for t in (asked, said))
        return asked[-80:] + said


def freeze_embedding(model: SmolLM2, but: list[int]) -> None:
    """From now on the embedding, and with it a tied head, gets a gradient in these rows alone.

    In a tied head each token is pushed down wherever another one is the label. Adam makes a small
    push as large as any, so that words which no conversation has sink step by step.
    """
    kept = torch.zeros(len(model.embed_tokens.weight), 1)
    kept[but] = 1
    model.embed_tokens.weight.register_hook(lambda grad: grad * kept.to(grad.device))


def _hash_of(model: SmolLM2) -> str:
    """Of the weights by name: the same for a folder, a repository and a .gguf file."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(name.encode())
        digest.update(weight.detach().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_chat(model: SmolLM2, tokenizer: BPETokenizer, folder: str | Path) -> None:
    """Writes a model's folder to chat with: `save_whole`'s files with the tokenizer's chat
    template, and as the end the token that ends an answer. That is not the one that fills rows."""
    told = copy.copy(model)
    ends = {"eos_token_id": end_of(tokenizer), "pad_token_id": pad_of(tokenizer)}
    told.config = dataclasses.replace(model.config, **ends)
    save_whole(told, tokenizer, folder, tokenizer.chat_template or CHAT_TEMPLATE)
