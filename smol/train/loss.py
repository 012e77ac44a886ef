"""The loss of a batch, without all its logits at once."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smol.model import SmolLM2


def chunked_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """The sum of -ln p of the labels, never holding more than `chunk` rows of logits.

    hidden (B, T, D), head (V, D), labels (B, T), -100 = no target. For 32 × 1,024 tokens and
    49,152 ids the fp32 logits alone are 6.4 GB, and their gradient as much again. Here each
    chunk's logits are dropped after the sum and computed once more for the gradient, which is
    exact: one more product with the head (about a fifth of SmolLM2-135M's forward pass). Where one
    chunk is enough, nothing is computed twice.
    """
    rows, targets = hidden.flatten(0, 1), labels.flatten()

    def loss_of(rows: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(rows, head).float()
        return F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)

    if len(rows) <= chunk:
        return loss_of(rows, targets)
    pairs = zip(rows.split(chunk), targets.split(chunk), strict=True)
    return sum(checkpoint(loss_of, r, t, use_reentrant=False) for r, t in pairs)


class LossModel(nn.Module):
    """A model and its loss in one `forward`, which is what compile and DDP want to wrap.

    Logits of more than `chunk` tokens are never held at once.
    """

    def __init__(self, model: SmolLM2, chunk: int = 4096):
        super().__init__()
        self.model, self.chunk = model, chunk

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels (B, T) -> the sum of -ln p and the number of targets, both ()."""
        hidden = self.model(inputs, head=False)
        head = self.model.lm_head.weight
        loss = chunked_cross_entropy(hidden, head, labels, self.chunk)
        return loss, (labels != -100).sum()
