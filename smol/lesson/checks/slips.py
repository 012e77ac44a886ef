"""The classic wrong answers to the exercises of notebook 2, each with the sentence that names it.

A slip of a function takes what the function takes; one of a module takes the module (with its
weights) first, as a method would. smol/lesson/checks/build.py computes them beside the reader's
answer; the tests hand each of them in as an answer, and read the sentence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smol.lesson.checks.slips_functions import (
    FUNCTIONS,
    evens_odds,
    halves,
    in_turn,
    normed,
    side_by_side,
)
from smol.lesson.checks.slips_modules import MODULES


def _centred(x):
    return x - x.mean(-1, keepdim=True)


def _deviation(x):
    return x.var(-1, keepdim=True, unbiased=False).sqrt()


def _complex(x, positions, theta, pairs="halves", out=None, exponent=2):
    speeds = theta ** (-exponent * torch.arange(x.size(-1) // 2).float() / x.size(-1))
    angles = positions.float()[:, None] * speeds
    a, b = evens_odds(x) if pairs == "neighbours" else halves(x)
    y = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)
    join = in_turn if (out or pairs) == "neighbours" else side_by_side
    return join(y.real, y.imag)


def _window(T: int, window: int) -> Tensor:
    return torch.ones(T, T).tril().triu(1 - window).bool()


FURTHER = {
    "layer_norm": {
        "the mean was not taken off": lambda x, w: w * normed(x, 1e-5),
        "the deviation divides by D − 1: unbiased=False divides by D": (
            lambda x, w: w * _centred(x) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5)
        ),
        "the weight is missing": lambda x, w: F.layer_norm(x, (x.size(-1),)),
        "eps is missing: √(variance + eps)": lambda x, w: w * _centred(x) / _deviation(x),
        "eps is added to the deviation: it is added to the variance, under the root": (
            lambda x, w: w * _centred(x) / (_deviation(x) + 1e-5)
        ),
        "the deviation divides by D − 1, and eps stands outside the root": (
            lambda x, w: w * _centred(x) / (x.std(-1, keepdim=True) + 1e-5)
        ),
        "divided by the variance: its root is missing": (
            lambda x, w: w * _centred(x) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5)
        ),
    },
    "rope_complex": {
        "neighbours are paired: here i goes with i + hd/2": (
            lambda x, p, theta: _complex(x, p, theta, pairs="neighbours")
        ),
        "halves went in, neighbours came out: torch.cat((….real, ….imag), dim=-1)": (
            lambda x, p, theta: _complex(x, p, theta, out="neighbours")
        ),
        "neighbours went in, halves came out: x.chunk(2, dim=-1) makes halves": (
            lambda x, p, theta: _complex(x, p, theta, pairs="neighbours", out="halves")
        ),
        "the speeds are θ^(−i/hd): θ^(−2i/hd), as there are hd/2 pairs": (
            lambda x, p, theta: _complex(x, p, theta, exponent=1)
        ),
        "turned backwards: the angle is +position · speed": (
            lambda x, p, theta: _complex(x, -p, theta)
        ),
        "only the real part came back: the second half is .imag": (
            lambda x, p, theta: torch.cat((_complex(x, p, theta).chunk(2, -1)[0],) * 2, -1)
        ),
    },
    "sliding_mask": {
        "one key too many: the window counts the query itself": (
            lambda T, window: _window(T, window + 1)
        ),
        "one key too few: the window counts the query itself": (
            lambda T, window: _window(T, window - 1)
        ),
        "the future is in sight: no key after the query": (
            lambda T, window: torch.ones(T, T).triu(1 - window).bool()
        ),
        'True and False are exchanged: True means "may look"': (
            lambda T, window: ~_window(T, window)
        ),
    },
    "to_interleaved": {
        "nothing was reordered": lambda w, heads: w,
        "this is the way back, from neighbours to halves: the other permutation": (
            lambda w, heads: w.view(heads, -1, 2, w.size(1)).transpose(1, 2).reshape(w.shape)
        ),
        "reordered over the whole matrix: each head has pairs of its own": (
            lambda w, heads: w.view(2, -1, w.size(1)).transpose(0, 1).reshape(w.shape)
        ),
    },
}
MISTAKES = FUNCTIONS | MODULES | FURTHER
