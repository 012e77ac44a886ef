"""Notebook 8's first checks: each right answer is right, each slip has its sentence."""

import contextlib
import io

import pytest
import torch
import torch.nn.functional as F

from smol.lesson.checks import fast
from smol.lesson.checks.fast import OWN, SLOPE, WAITS
from smol.train.loss import loss_and_slope


def verdict(check, answer) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        check(answer)
    return said.getvalue().strip()


CHECKS = {
    "waits_for": (fast.check_waits_for, WAITS),
    "loss_and_slope": (fast.check_loss_and_slope, SLOPE),
    "own_gradient": (fast.check_own_gradient, OWN),
}
SLIPS = [(name, says) for name, (_, slips) in CHECKS.items() for says in slips]


@pytest.mark.parametrize(("name", "says"), SLIPS)
def test_each_slip_is_named(name, says):
    check, slips = CHECKS[name]
    line = verdict(check, slips[says])
    assert line.startswith("not yet: ") and line.endswith(f": {says}"), line


def in_three_lines(logits, targets):
    loss = F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=-100)
    onehot = F.one_hot(targets.where(targets != -100, 0), logits.size(1))
    return loss, (logits.float().softmax(1) - onehot) * (targets != -100)[:, None]


def by_autograd(h, W, targets, chunk):
    h, W = h.requires_grad_(), W.requires_grad_()
    loss = sum(
        F.cross_entropy(a @ W.T, t, reduction="sum", ignore_index=-100)
        for a, t in zip(h.split(chunk), targets.split(chunk), strict=True)
    )
    return loss.item(), *torch.autograd.grad(loss, (h, W))


def turned_head(h, W, targets, chunk):
    V = W.T.contiguous()
    loss, d_h, d_V = 0.0, torch.empty_like(h), torch.zeros_like(V)
    for at in range(0, len(h), chunk):
        part = slice(at, at + chunk)
        nats, slope = loss_and_slope(h[part] @ V, targets[part])
        loss, d_V = loss + nats, d_V + h[part].T @ slope
        d_h[part] = slope @ W
    return loss, d_h, d_V.T


def chunk_by_chunk(h, W, targets, chunk):
    parts = [
        (nats, slope @ W, slope.T @ rows)
        for rows, some in zip(h.split(chunk), targets.split(chunk), strict=True)
        for nats, slope in [loss_and_slope(rows @ W.T, some)]
    ]
    losses, rows, heads = zip(*parts, strict=True)
    return sum(losses), torch.cat(rows), sum(heads)


def test_right_answers_in_other_styles_are_right():
    assert verdict(fast.check_waits_for, fast.waits_for) == "correct"
    assert verdict(fast.check_waits_for, lambda *w: list(fast.waits_for(*w))) == "correct"
    for answer in (loss_and_slope, in_three_lines):
        assert verdict(fast.check_loss_and_slope, answer) == "correct"
    assert verdict(fast.check_own_gradient, chunk_by_chunk) == "correct"
    assert verdict(fast.check_own_gradient, by_autograd) == "correct"
    assert verdict(fast.check_own_gradient, turned_head) == "correct"


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("wrong", [None, 3, "memory", torch.ones(2), (1, 2, 3, 4)])
def test_other_kinds_of_answers_get_one_sentence(name, wrong):
    line = verdict(CHECKS[name][0], lambda *_: wrong)
    assert line.startswith("not yet: ") and "the check cannot work" not in line, line


@pytest.mark.parametrize("name", CHECKS)
def test_a_stub_is_not_attempted_and_an_error_is_the_readers(name):
    assert verdict(CHECKS[name][0], lambda *_: ...) == "not attempted yet"
    assert "it raised ZeroDivisionError" in verdict(CHECKS[name][0], lambda *_: 1 / 0)


def as_if_100_were_an_index(logits, targets):
    log_p = logits.float().log_softmax(-1)
    return -log_p.gather(1, targets[:, None]).sum(), log_p.exp()


def unstable(logits, targets):
    kept, at = targets != -100, targets.where(targets != -100, 0)
    p = logits.float().exp() / logits.float().exp().sum(-1, keepdim=True)
    loss = -(p.gather(1, at[:, None])[:, 0].log() * kept).sum()
    return loss, (p - F.one_hot(at, logits.size(1))) * kept[:, None]


def p_then_ln(logits, targets):
    p = logits.float().softmax(-1)
    kept, at = targets != -100, targets.where(targets != -100, 0)
    loss = -(p.gather(1, at[:, None])[:, 0].log()[kept]).sum()
    return loss, (p - F.one_hot(at, logits.size(1))) * kept[:, None]


def writes_into_its_input(logits, targets):
    targets[targets == -100] = 0
    return in_three_lines(logits, targets)


def in_low_precision(logits, targets):
    loss, slope = loss_and_slope(logits, targets)
    return loss, slope.to(logits.dtype)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (as_if_100_were_an_index, "−100 is no index"),
        (unstable, "NaN or ∞: exp of a large logit"),
        (p_then_ln, "NaN or ∞: exp of a large logit"),
        (
            lambda z, t: (loss_and_slope(z, t)[0], z.softmax(1) * (t != -100)),
            "kept is one for each",
        ),
        (writes_into_its_input, "changes what it was given"),
        (in_low_precision, "the gradient is torch.bfloat16, not torch.float32"),
        (lambda *a: loss_and_slope(*a)[::-1], "the loss is a tensor of shape [6, 9]"),
    ],
)
def test_other_mistakes_with_the_slope(answer, said):
    assert said in verdict(fast.check_loss_and_slope, answer)


def test_other_mistakes_with_the_chunks():
    def at_once(h, W, targets, chunk):
        return chunk_by_chunk(h, W, targets, len(h))

    def turned(*given):
        loss, d_h, d_W = chunk_by_chunk(*given)
        return loss, d_h, d_W.T

    def wrong_product(h, W, targets, chunk):
        loss, slope = loss_and_slope(h @ W.T, targets)
        return loss, slope.T @ W, slope.T @ h

    check = fast.check_own_gradient
    assert "11 rows of logits were there at once" in verdict(check, at_once)
    assert "the gradient of W is [6, 17], not [17, 6]" in verdict(check, turned)

    def all_targets(h, W, targets, chunk):
        parts = [loss_and_slope(rows @ W.T, targets) for rows in h.split(chunk)]
        return sum(nats for nats, _ in parts), h, W

    assert "check the shapes" in verdict(check, wrong_product)
    assert "a chunk of rows wants a chunk of targets" in verdict(check, all_targets)


def test_a_wrong_name_and_another_precision_of_seconds():
    assert "the name is 'compute', not one of" in verdict(
        fast.check_waits_for, lambda *w: ("compute", 1.0)
    )
    exact = fast.waits_for
    as_tensor = lambda *w: (exact(*w)[0], torch.tensor(exact(*w)[1]))  # noqa: E731
    assert verdict(fast.check_waits_for, as_tensor) == "correct"
