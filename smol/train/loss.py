"""The loss of a batch without all its logits at once, and with its own gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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


def loss_and_slope(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of -ln p of the targets, (), and its gradient in the logits (N, V): p - onehot.

    In fp32, and 0 in the rows whose target is -100.
    """
    logits, kept = logits.float(), targets != -100
    at = targets.where(kept, 0)[:, None]
    log_z = logits.logsumexp(-1, keepdim=True)
    loss = ((log_z - logits.gather(1, at))[:, 0] * kept).sum()
    p = (logits - log_z).exp()
    slope = p.scatter_add(1, at, -torch.ones_like(log_z))
    return loss, slope * kept[:, None]


def linear_cross_entropy(
    hidden: Tensor, head: Tensor, labels: Tensor, chunk: int, slope_of: Callable = loss_and_slope
) -> Tensor:
    """`chunked_cross_entropy` in three products with the head in place of four.

    A chunk's gradient is made while its logits are there, so nothing is computed twice. What is
    kept for the backward pass, which only scales it, has the sizes of `hidden` and `head`. Without
    gradients it is the chunks' losses alone. (Hsu et al. 2024, Liger kernels; Wijmans et al. 2024,
    cut cross-entropy: the same idea in kernels of their own.)
    """
    if hidden.size(0) * hidden.size(1) <= chunk or not torch.is_grad_enabled():
        return chunked_cross_entropy(hidden, head, labels, chunk)
    return _OwnGradient.apply(hidden.flatten(0, 1), head, labels.flatten(), chunk, slope_of)


class _OwnGradient(torch.autograd.Function):
    """Forward makes the gradients as well, while a chunk's logits are there; backward scales."""

    @staticmethod
    def forward(ctx, rows, head, targets, chunk, slope_of):
        device = rows.device.type
        dtype = rows.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        h, W = rows.to(dtype), head.to(dtype)
        loss = rows.new_zeros((), dtype=torch.float32)
        d_rows, d_head = torch.empty_like(h), torch.zeros_like(head)
        with torch.autocast(device, enabled=False):
            for at in range(0, len(h), chunk):
                part = slice(at, at + chunk)
                nats, slope = slope_of(h[part] @ W.T, targets[part])
                slope = slope.to(dtype)
                loss += nats
                d_rows[part] = slope @ W
                d_head += slope.T @ h[part]
        ctx.save_for_backward(d_rows, d_head)
        ctx.dtype = rows.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        d_rows, d_head = ctx.saved_tensors
        return (d_rows * scale).to(ctx.dtype), d_head * scale, None, None, None


class LossModel(nn.Module):
    """A model and its loss in one `forward`, which is what DDP and FSDP want to wrap.

    Logits of more than `chunk` tokens are never held at once.
    """

    def __init__(self, model: SmolLM2, chunk: int = 4096):
        super().__init__()
        self.model, self.chunk, self.slope_of = model, chunk, loss_and_slope

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Inputs and labels (B, T) -> the sum of -ln p and the number of targets, both ().

        `positions` and `mask` are the model's: for rows in which several documents stand.
        """
        hidden = self.model(inputs, head=False, positions=positions, mask=mask)
        head, kept = self.model.lm_head.weight, labels != -100
        targets = kept.sum()
        # Answers are a few targets among many rows. A GPU would have to wait for their number, and
        # what is compiled is compiled for one number.
        eager = labels.device.type == "cpu" and self.slope_of is loss_and_slope
        if eager and 2 * targets.item() < labels.numel():
            hidden, labels = hidden[kept][None], labels[kept][None]
        loss = linear_cross_entropy(hidden, head, labels, self.chunk, self.slope_of)
        return loss, targets

    def count(self, labels: Tensor) -> Tensor:
        """How many losses a batch has, (): one a target."""
        return (labels != -100).sum()
