"""What the real SmolLM2 says, as others have published it, or measured where nobody has."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.checks import one_of

# Three models speak, each with weights of its own: "base", SmolLM2-135M; and the Instruct model,
# whose weights are called as `load_reference().weights` does: "published", those of the hub, and
# "packaged", the same rounded to four bits. All numbers are of fp32 on a CPU.
VILLAGE = "6403 1980 253 655 665 436 253 1838 8180 617 4161 281 253 1165 6560 30"
CAPITAL = "504 3575 282 4649 314"  # "The capital of France is"
GRAVITY = "22007 6463 314"  # "Gravity is"

# By weights: (the ids, {position: {id: logit, the likeliest first}}). Sources. Base: for the
# village mctang985211-coder/buddy-examples (models/models/SmolLM2/reference), for the capital
# yashb98/BuildFromScratch, for what follows "Gravity is" Memorithm/NNIS. Published: the
# reference.json of cpldcpu/smollm.c. Packaged: measured, with the weights as transformers reads
# them from the .gguf, and as smol.gguf does.
PUBLISHED_NUMBERS = {
    "base": [
        (VILLAGE, {0: {346: 26.3904, 260: 25.9305}, 1: {253: 21.4270}, 2: {655: 15.2521}}),
        (CAPITAL, {4: {260: 14.0228, 7042: 12.9973, 3807: 12.7472}}),
    ],
    "published": [(CAPITAL, {4: {7042: 15.9655, 260: 15.3967, 3807: 14.2348}})],
    "packaged": [(CAPITAL, {4: {7042: 17.3713, 260: 14.8886, 4528: 13.2450, 2250: 13.0095}})],
}
PUBLISHED_PERPLEXITY = {  # of the village, its first token left out
    "base": 5.052739,
    "packaged": 10.5045,
}
PUBLISHED_GREEDY = {  # what follows "Gravity is"
    "base": "260 3075 338 6650 260 2591 284 260 8872 1592 30 198 198 504 8872 314 253 8304 282 "
    "260",
    "packaged": "253 4959 1909 281 6944 338 6601 260 26589 282 42548 2952 411 260 4313 282 2631 "
    "284 1439 30",
}


def _ids(text: str) -> Tensor:
    return torch.tensor([[int(i) for i in text.split()]])


@torch.no_grad()
def check_published(
    logits: Callable[[Tensor], Tensor], weights: str = "base"
) -> list[tuple[str, float, float, bool]]:
    """Rows (what, expected, measured, agrees) of the real model's numbers.

    `logits` maps ids (1, T) to logits (1, T, V): a model of ours, or
    `lambda ids: reference(ids).logits`. `weights` says whose numbers are expected: "base", or, as
    in `load_reference().weights`, "published" or "packaged" for the Instruct model. Logits agree
    within 2e-3, the perplexity within 1e-3, the ranks of the tokens given and the 20 greedy tokens
    exactly. Of the published Instruct weights three logits are known.

    Raises ValueError for other weights: of random or local ones nothing is known.
    """
    one_of("weights", weights, PUBLISHED_NUMBERS)
    rows = []
    for text, positions in PUBLISHED_NUMBERS[weights]:
        out = logits(_ids(text))[0].float()
        for position, expected in positions.items():
            top = out[position].topk(len(expected)).indices.tolist()
            for rank, (token, value) in enumerate(expected.items()):
                got = out[position, token].item()
                ok = abs(got - value) <= 2e-3 and top[rank] == token
                rows.append((f"position {position}, logit of {token}", value, got, ok))
    if (wanted := PUBLISHED_PERPLEXITY.get(weights)) is not None:
        ids = _ids(VILLAGE)
        got = F.cross_entropy(logits(ids)[0, :-1].float(), ids[0, 1:]).exp().item()
        rows.append(("perplexity", wanted, got, abs(got - wanted) <= 1e-3))
    if (follows := PUBLISHED_GREEDY.get(weights)) is not None:
        # Asked once about the whole text: each token is the likeliest after those before it, or
        # the model would go on in another way.
        prompt, expected = _ids(GRAVITY), _ids(follows)
        out = logits(torch.cat((prompt, expected), dim=1))
        likeliest = out[:, prompt.size(1) - 1 : -1].argmax(-1)
        same = (likeliest == expected).sum().item()
        rows.append(("greedy tokens equal", expected.size(1), same, same == expected.size(1)))
    return rows
