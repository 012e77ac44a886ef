"""Preferences: a loss that makes one answer likelier than another, and goes not far from where it
began (DPO)."""

import math
from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.checks import number
from smol.model import SmolLM2
from smol.train.data import Validation


def log_probs(
    model: SmolLM2,
    inputs: Tensor,
    labels: Tensor,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """ln p of each row's targets together, (B,) fp32: a sum, as an answer's probability is the
    product of its tokens'. A mean would be that of another, shorter answer.

    inputs and labels (B, T) as `pad` lays them, -100 = no target. Only targets go through the
    head, so that their logits alone are held.
    """
    hidden = model(inputs, head=False, positions=positions, mask=mask)
    kept = labels != -100
    logits = F.linear(hidden[kept], model.lm_head.weight)  # (targets, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = F.cross_entropy(logits, labels[kept], reduction="none")
    # Laid back in place, rows add up in the same order each time: on a GPU, too.
    return -nats.new_zeros(labels.shape).masked_scatter(kept, nats).sum(1)


class Preference(NamedTuple):
    """Of each pair, (B,): its loss, and for both of its answers ln p and the reward.

    Look at both: the margin grows as well while the chosen answer becomes less likely, as long as
    the rejected one does so faster.
    """

    loss: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor

    @property
    def margin(self) -> Tensor:
        """By how much the chosen answer's reward is the larger one."""
        return self.chosen_reward - self.rejected_reward


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Preference:
    """-ln σ(β (ln π/π_ref of the chosen answer - the same of the rejected one)) of each pair.

    Each argument is (B,), the sums of `log_probs`; those of the reference, the model as it was,
    need no gradient. The reward of an answer is β ln π/π_ref: of all policies, the best by reward
    less β times the distance (KL) from the reference is the one for which that is true. So a large
    β keeps near, a small one lets go. With π = π_ref each loss is ln 2. (Rafailov et al. 2023,
    eq. 7.) The loss of a batch is their sum through their number. ValueError for other shapes.
    """
    beta = number("beta", beta, "above 0 and finite", lambda x: 0 < x < math.inf)
    four = chosen, rejected, reference_chosen, reference_rejected
    if len({t.shape for t in four}) > 1 or chosen.ndim != 1:
        shapes = ", ".join(str(tuple(t.shape)) for t in four)
        raise ValueError(f"dpo takes four sums of log-probabilities, (B,) each, got {shapes}")
    chosen_reward = beta * (chosen - reference_chosen)
    rejected_reward = beta * (rejected - reference_rejected)
    loss = -F.logsigmoid(chosen_reward - rejected_reward)
    return Preference(
        loss, *(t.detach() for t in (chosen, rejected, chosen_reward, rejected_reward))
    )


class PreferenceModel(nn.Module):
    """A model, the reference that it began as, and `dpo`, in one `forward` as the trainer has it.

    In a batch (B, T) the rows 2n and 2n + 1 are the chosen and the rejected answer of pair n. The
    reference takes no gradient. It reads the same batch in the same precision, and the model has
    no dropout: the first loss is ln 2.
    """

    def __init__(self, model: SmolLM2, reference: SmolLM2, beta: float):
        super().__init__()
        self.model, self.reference, self.beta = model, reference.requires_grad_(False), beta

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the pairs' losses and their number, both ()."""
        return self.pairs(inputs, labels).loss.sum(), self.count(labels)

    def count(self, labels: Tensor) -> Tensor:
        """How many losses a batch has, (): one a pair."""
        return torch.tensor(len(labels) // 2)

    def pairs(self, inputs: Tensor, labels: Tensor) -> Preference:
        """What `dpo` says of each pair."""
        with torch.no_grad():
            reference = log_probs(self.reference, inputs, labels)
        own = log_probs(self.model, inputs, labels)
        return dpo(own[::2], own[1::2], reference[::2], reference[1::2], self.beta)


@torch.no_grad()
def evaluate_pairs(
    preference: PreferenceModel, validation: Validation, device: torch.device
) -> dict[str, float]:
    """Means over held-out pairs: val_loss (nats a pair), val_chosen and val_rejected (ln p of an
    answer), val_margin (of the rewards), and val_accuracy, the share of margins above 0."""
    sums, count = Counter(), 0
    for inputs, labels in validation.batches:
        found = preference.pairs(inputs.to(device), labels.to(device))
        for name in ("loss", "chosen", "rejected", "margin"):
            sums[f"val_{name}"] += getattr(found, name).double().sum().item()
        sums["val_accuracy"] += (found.margin > 0).sum().item()
        count += len(found.margin)
    return {name: total / count for name, total in sums.items()}
