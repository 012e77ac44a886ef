"""The best of all policies, where every outcome can be counted up; and the gradient that looks for
it where none can be."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.checks import number, token_ids
from smol.model import SmolLM2


def best_policy(p: Tensor, reward: Tensor, beta: float) -> Tensor:
    """π* = p · exp(reward/β), made to sum to 1: of all policies the one with the highest mean
    reward less β times its `kl` from p.

    The last dimension of p and reward counts the outcomes. What p never does, π* never does.
    (Rafailov et al. 2023, eq. 4.) ValueError for a β that is not above 0.
    """
    beta = number("beta", beta, "above 0 and finite", lambda x: 0 < x < math.inf)
    return (p.log() + (reward - reward.amax(-1, keepdim=True)) / beta).softmax(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q) in nats, over the outcomes of the last dimension: how far p went from q."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def best_reward(p: Tensor, reward: Tensor, nats: float) -> float:
    """The highest mean reward that a policy can have whose `kl` from p is `nats` at most: the
    means over all rows of p (B, N), the prompts. Nothing lies above it.

    One β for all prompts gives it: with two, a nat would buy more here than there. It is found by
    halving, for a smaller β goes further. ValueError for less than 0 nats.
    """
    nats = number("nats", nats, "0 or more", lambda x: 0 <= x < math.inf)
    p, reward = p.double(), reward.double()
    low, high = math.log(1e-4), math.log(1e6)  # of ln β
    for _ in range(60):
        middle = (low + high) / 2
        there = best_policy(p, reward, math.exp(middle))
        low, high = (middle, high) if kl(there, p).mean() > nats else (low, middle)
    return (best_policy(p, reward, math.exp(high)) * reward).sum(-1).mean().item()


def outcomes(model: SmolLM2, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Tensor:
    """ln p of what may come next after each prompt, (B, N + 1) fp32: of each of these N tokens,
    and, last, of all others together. So each row's probabilities sum to 1.

    One look at a prompt weighs every answer of one token: no sampling. ValueError for no prompt,
    an empty one, and tokens that are none or come twice.
    """
    prompts = [token_ids("a prompt", prompt) for prompt in prompts]
    tokens = token_ids("tokens", tokens)
    if not prompts or not all(prompts):
        raise ValueError("no prompt, or an empty one: give each a token, such as <|endoftext|>")
    V = model.config.vocab_size
    if not tokens or len(set(tokens)) < len(tokens) or max(tokens) >= V or len(tokens) == V:
        raise ValueError(f"tokens must be some of the ids 0 to {V - 1}, and not all, each once")
    device, T = model.lm_head.weight.device, max(map(len, prompts))
    ids = torch.tensor([[*prompt, *[0] * (T - len(prompt))] for prompt in prompts])
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    hidden = model(ids.to(device), head=False)[torch.arange(len(prompts), device=device), last]
    logits = F.linear(hidden, model.lm_head.weight)  # (B, V): padding behind is never looked at
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    others = torch.ones(logits.size(-1), dtype=torch.bool, device=device)
    others[tokens] = False
    found = torch.cat((logits[:, tokens], logits[:, others].logsumexp(-1, keepdim=True)), -1)
    return found - logits.logsumexp(-1, keepdim=True)


def policy_loss(log_p: Tensor, reward: Tensor) -> Tensor:
    """-mean((r - mean r) · ln p): of samples (B,) of the model's own and their rewards.

    Its gradient is that of the mean reward, turned round, times (B - 1)/B (REINFORCE: Williams
    1992). Less the mean, a reward says better or worse than usual; alike ones teach nothing.
    ValueError for other shapes.
    """
    if log_p.shape != reward.shape or log_p.ndim != 1 or not len(log_p):
        got = f"{tuple(log_p.shape)} and {tuple(reward.shape)}"
        raise ValueError(
            f"policy_loss takes a sum of log-probabilities and a reward for each "
            f"sample, (B,) both, got {got}"
        )
    reward = reward.detach()
    return -((reward - reward.mean()) * log_p).mean()
