"""The checks of notebook 5: clipping, AdamW, the mean over parts, what two losses say."""

import torch

from smol.lesson import kind
from smol.lesson.exercise import ask, exercise, expect, expect_close, expect_equal, expect_like


@exercise
def check_clip(clip):
    for sizes, longest in (((3, 4), 1.0), ((3, 4), 100.0), ((1,), 0.5), ((2, 50, 7), 1.0)):
        gradients = [torch.randn(size) * 10 for size in sizes]
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, longest)
        got = ask(kind.items, clip, [g.clone() for g in gradients], longest)
        what = f"{len(sizes)} gradients, clipped together to {longest}:"
        expect(len(got) == len(sizes), f"{what} that many are to come back")
        for ours, parameter in zip(got, parameters, strict=True):
            expect_close(ours, parameter.grad, f"{what} one of them")


@exercise
def check_adamw(adamw):
    settings = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.5}
    parameter = torch.nn.Parameter(torch.randn(6))
    optimizer = torch.optim.AdamW([parameter], **settings)
    three = kind.parts(3, "a tuple of w, m and v")
    w, m, v = parameter.detach().clone(), torch.zeros(6), torch.zeros(6)
    for t in range(1, 4):
        parameter.grad = torch.randn(6)
        optimizer.step()
        answer = ask(three, adamw, w, parameter.grad.clone(), m, v, t, *settings.values())
        w, m, v = (expect_like(*pair, "w, m or v") for pair in zip(answer, (w, m, v), strict=True))
        expect_close(w, parameter.detach(), f"w after step {t}")


@exercise
def check_whole_mean(whole_mean):
    for counts in ([5, 5], [100, 1], [3, 70, 2]):
        parts = [torch.rand(count) * 9 for count in counts]
        got = ask(kind.number, whole_mean, [part.mean().item() for part in parts], counts)
        expect_close(got, torch.cat(parts).mean(), f"parts of {counts} targets: the mean")


@exercise
def check_verdict(verdict):
    uniform, floor = 6.93, 0.26
    for train, held_out, want in (
        (1.2, 1.2, "learning"),
        (0.6, 0.9, "learning"),
        (0.1, 2.5, "by heart"),
        (0.2, 6.5, "by heart"),
        (0.1, 7.5, "by heart"),
        (0.5, 7.0, "by heart"),
        (0.1, 0.1, "leak"),
        (0.5, 0.2, "leak"),
        (6.93, 6.94, "nothing"),
        (7.4, 7.4, "nothing"),
    ):
        got = ask(kind.text, verdict, train, held_out, floor, uniform)
        said = f"training {train}, held out {held_out}, floor {floor}, uniform {uniform}"
        expect_equal(got, want, said)
