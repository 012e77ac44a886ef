"""What takes the step: AdamW, or Muon with it, and which weights decay."""

import torch
from torch import Tensor, nn

from smol.train.settings import TrainConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices, which decay, and vectors (the norms), which do not: a norm belongs near 1."""
    parameters = list(model.parameters())  # a tied head comes once
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class Muon(getattr(torch.optim, "Muon", torch.optim.Optimizer)):
    """PyTorch's, whose rate may be a tensor: a captured step would keep a number for ever."""

    @torch.no_grad()
    def step(self, closure=None):
        if not any(isinstance(group["lr"], Tensor) for group in self.param_groups):
            return super().step(closure)
        own = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        weights = [[p.clone() for p in group["params"]] for group in self.param_groups]
        for group in self.param_groups:  # a step of rate 1 from nothing is the direction
            group["lr"], group["weight_decay"] = 1.0, 0.0
            torch._foreach_zero_(group["params"])
        super().step(closure)
        for group, old, (rate, decay) in zip(self.param_groups, weights, own, strict=True):
            group["lr"], group["weight_decay"] = rate, decay
            for p, before in zip(group["params"], old, strict=True):
                p.mul_(rate).add_(before * (1 - rate * decay))


def optimizers_of(
    model: nn.Module, config: TrainConfig, fused: bool
) -> list[torch.optim.Optimizer]:
    """What takes the step: AdamW alone (Loshchilov & Hutter 2019), or Muon and AdamW.

    Muon (Jordan et al. 2024) makes each matrix' step orthogonal, of the size that AdamW's would
    have (Liu et al. 2025). It is for the matrices between embedding and head; AdamW takes the
    rest, which then does not decay.
    """
    adamw = {"lr": config.learning_rate, "betas": config.betas, "fused": fused}
    if config.optimizer == "adamw":
        groups = parameter_groups(model, config.weight_decay)
        for group in groups:  # what is frozen has nothing to be remembered
            group["params"] = [p for p in group["params"] if p.requires_grad]
        return [torch.optim.AdamW(groups, **adamw)]
    named = dict(model.named_parameters()).items()
    rest = [p for name, p in named if p.ndim < 2 or name.startswith(("embed_tokens", "lm_head"))]
    matrices = [p for p in model.parameters() if not any(p is other for other in rest)]
    muon = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    return [
        Muon(matrices, adjust_lr_fn="match_rms_adamw", **muon),
        torch.optim.AdamW(rest, weight_decay=0.0, **adamw),
    ]
