"""The checks of notebook 5: clipping, AdamW, the mean over parts, what two losses say."""

import torch

from smol.lesson.exercise import ask, exercise, expect, expect_close


@exercise
def check_clip(clip):
    for sizes, longest in (((3, 4), 1.0), ((3, 4), 100.0), ((1,), 0.5), ((2, 50, 7), 1.0)):
        gradients = [torch.randn(size) * 10 for size in sizes]
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, longest)
        got = ask(clip, [g.clone() for g in gradients], longest)
        what = f"{len(sizes)} gradients, clipped together to {longest}:"
        expect(len(got) == len(sizes), f"{what} that many are to come back")
        for ours, parameter in zip(got, parameters, strict=True):
            expect_close(ours, parameter.grad, f"{what} one of them")


@exercise
def check_adamw(adamw):
    settings = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.5}
    parameter = torch.nn.Parameter(torch.randn(6))
    optimizer = torch.optim.AdamW([parameter], **settings)
    w, m, v = parameter.detach().clone(), torch.zeros(6), torch.zeros(6)
    for t in range(1, 4):
        parameter.grad = torch.randn(6)
        optimizer.step()
        answer = ask(adamw, w, parameter.grad.clone(), m, v, t, *settings.values())
        expect(isinstance(answer, tuple) and len(answer) == 3, "it is to return w, m, v")
        w, m, v = answer
        expect_close(w, parameter.detach(), f"w after step {t}")


@exercise
def check_whole_mean(whole_mean):
    for counts in ([5, 5], [100, 1], [3, 70, 2]):
        parts = [torch.rand(count) * 9 for count in counts]
        answer = ask(whole_mean, [part.mean().item() for part in parts], counts)
        got = torch.as_tensor(answer, dtype=torch.float32)
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
        got = ask(verdict, train, held_out, floor, uniform)
        said = f"training {train}, held out {held_out}, floor {floor}, uniform {uniform}"
        expect(got == want, f"{said}: {got!r}, should be {want!r}")
