"""From a model that goes on with a text to one that answers: the parts, each exact by itself.

A conversation is a list of messages, as a JSONL holds them (`messages.py`). `render.py` writes it
down as token ids, and beside each id whether it is to be learned: what the assistant says, and the
token that ends it. `packing.py` lays many of them into rows, which `smol.train.LossModel` reads;
of packed ones each sees itself only.

    chats = [render(messages, tokenizer) for messages in read_messages("chats.jsonl")]
    batch = pack(chats, seq_len=512, pad_id=tokenizer.eos_id)
    nats, targets = loss_model(batch.inputs, batch.labels, **batch.layout())

The loss is the sum over the targets of a batch through their number, whatever parts it comes in: a
mean of the parts' means would weigh a token by how few stand beside it.

`lora.py` adds the few weights that are trained in place of all, merges them and saves them as peft
does; `preference.py` has the loss that prefers one answer to another (DPO), `policy.py` the best
that any such training can come to, where outcomes can be counted, and the policy gradient.

    python -m smol.finetune --model assets/smol-stories --data stories-chat --steps 600 --out DIR

`run.py` is all of it: `smol.train`'s loop, with its log, checkpoints, processes and exact resume,
over the conversations of `data.py`, by the settings of `settings.py`. `evaluation.py` counts the
answers about held-out stories that are right to the letter.
"""

from smol.finetune.evaluation import Exact, exact
from smol.finetune.lora import (
    LoRALinear,
    add_lora,
    load_lora,
    lora_parameters,
    merge_lora,
    save_lora,
    without_lora,
)
from smol.finetune.messages import check_messages, read_messages
from smol.finetune.packing import Batch, best_fit, pack, pad
from smol.finetune.policy import best_policy, best_reward, kl, outcomes, policy_loss
from smol.finetune.preference import Preference, dpo, log_probs
from smol.finetune.render import Chat, render, truncate
from smol.finetune.run import finetune
from smol.finetune.settings import FinetuneConfig

__all__ = [
    "Batch",
    "Chat",
    "Exact",
    "FinetuneConfig",
    "LoRALinear",
    "Preference",
    "add_lora",
    "best_fit",
    "best_policy",
    "best_reward",
    "check_messages",
    "dpo",
    "exact",
    "finetune",
    "kl",
    "load_lora",
    "log_probs",
    "lora_parameters",
    "merge_lora",
    "outcomes",
    "pack",
    "pad",
    "policy_loss",
    "read_messages",
    "render",
    "save_lora",
    "truncate",
    "without_lora",
]
