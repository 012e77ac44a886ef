"""Preferences: a loss that makes one answer likelier than another, and goes not far from where it
began (DPO)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.checks import number
from smol.model import SmolLM2


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
