"""What the real SmolLM2-135M says, as others have published it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# In fp32 on a CPU: (the ids, {position: {id: logit}}). Two or more
# independent implementations agree on each to 1e-3. Sources: buddy-examples (models/SmolLM2/
# reference) for the first prompt, yashb98/BuildFromScratch for the second.
PUBLISHED_NUMBERS = [
    (
        "6403 1980 253 655 665 436 253 1838 8180 617 4161 281 253 1165 6560 30",
        {0: {346: 26.3904, 260: 25.9305}, 1: {253: 21.4270}, 2: {655: 15.2521}},
    ),
    ("504 3575 282 4649 314", {4: {260: 14.0228, 7042: 12.9973, 3807: 12.7472}}),
]
PUBLISHED_PERPLEXITY = 5.052739  # of the first prompt, its first token left out
PUBLISHED_GREEDY = (
    "22007 6463 314",  # "Gravity is", and what follows greedily
    "260 3075 338 6650 260 2591 284 260 8872 1592 30 198 198 504 8872 314 253 8304 282 260",
)


def _ids(text: str) -> Tensor:
    return torch.tensor([[int(i) for i in text.split()]])


@torch.no_grad()
def check_published(logits: Callable[[Tensor], Tensor]) -> list[tuple[str, float, float, bool]]:
    """Rows (what, published, measured, agrees) of the real model's published numbers.

    `logits` maps ids (1, T) to logits (1, T, V): a model of ours, or
    `lambda ids: reference(ids).logits`. Logits agree within 2e-3, the perplexity within 1e-3,
    the ranks of the tokens given and the 20 greedy tokens exactly.
    """
    rows = []
    for text, positions in PUBLISHED_NUMBERS:
        out = logits(_ids(text))[0].float()
        for position, expected in positions.items():
            top = out[position].topk(len(expected)).indices.tolist()
            for rank, (token, value) in enumerate(expected.items()):
                got = out[position, token].item()
                ok = abs(got - value) <= 2e-3 and top[rank] == token
                rows.append((f"position {position}, logit of {token}", value, got, ok))
    ids = _ids(PUBLISHED_NUMBERS[0][0])
    loss = F.cross_entropy(logits(ids)[0, :-1].float(), ids[0, 1:])
    got = loss.exp().item()
    rows.append(("perplexity", PUBLISHED_PERPLEXITY, got, abs(got - PUBLISHED_PERPLEXITY) <= 1e-3))
    ids, expected = _ids(PUBLISHED_GREEDY[0]), _ids(PUBLISHED_GREEDY[1])
    for _ in range(expected.size(1)):
        ids = torch.cat((ids, logits(ids)[:, -1:].argmax(-1)), dim=1)
    same = (ids[:, 3:] == expected).sum().item()
    rows.append(("greedy tokens equal", expected.size(1), same, same == expected.size(1)))
    return rows
