"""The checks of notebook 2: other norms, rotations and masks than the model's."""

import torch
import torch.nn.functional as F

from smol.lesson import kind
from smol.lesson.exercise import ask, exercise, expect, expect_close, expect_like
from smol.model import apply_rope, rope_cos_sin


@exercise
def check_layer_norm(layer_norm):
    x, weight = torch.randn(2, 5, 8) * 3 + 1, torch.rand(8)
    want = F.layer_norm(x, (8,), weight, eps=1e-5)
    expect_close(ask(kind.tensor, layer_norm, x, weight), want, "the output")


@exercise
def check_rope_complex(rope_complex):
    x, positions = torch.randn(2, 3, 7, 16), torch.arange(100, 107)
    want = apply_rope(x, *rope_cos_sin(positions, 16, 10_000.0))
    expect_close(ask(kind.tensor, rope_complex, x, positions, 10_000.0), want, "the rotated x")


@exercise
def check_sliding_mask(sliding_mask):
    for T, S, window in ((5, 5, 2), (6, 6, 100), (2, 6, 3)):
        got = ask(kind.tensor, sliding_mask, T, S, window)
        rows = [[0 <= S - T + i - j < window for j in range(S)] for i in range(T)]
        want = torch.tensor(rows)
        expect(got.dtype == torch.bool, f"the mask is {got.dtype}, not torch.bool")
        same = got.shape == want.shape and torch.equal(got, want)
        expect(same, f"T = {T}, S = {S}, window = {window}: wanted {want.int().tolist()}")


@exercise
def check_to_interleaved(to_interleaved):
    heads, hd, D = 2, 8, 16
    wq, wk, x = torch.randn(heads * hd, D), torch.randn(heads * hd, D), torch.randn(1, 6, D)
    cos, sin = rope_cos_sin(torch.arange(6), hd, 10_000.0)

    def neighbours(t):  # the paper's pairs
        a, b = t[..., ::2], t[..., 1::2]
        c, s = cos[:, : hd // 2], sin[:, : hd // 2]
        return torch.stack((a * c - b * s, b * c + a * s), dim=-1).flatten(-2)

    def scores(wq, wk, rope):
        q, k = ((x @ w.T).view(1, 6, heads, hd).transpose(1, 2) for w in (wq, wk))
        return rope(q) @ rope(k).transpose(2, 3)

    want = scores(wq, wk, lambda t: apply_rope(t, cos, sin))
    moved = [ask(kind.tensor, to_interleaved, w, heads) for w in (wq, wk)]
    for w in moved:
        expect_like(w, wq, "the weight")
    expect_close(scores(*moved, neighbours), want, "the scores with neighbouring pairs")
