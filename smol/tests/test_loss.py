"""The loss that makes its own gradients: cross_entropy's value and gradients, in less memory."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smol import SmolLM2
from smol.bench.timing import peak_memory
from smol.lesson.exercise import SMALL
from smol.train import LossModel
from smol.train import loss as loss_file
from smol.train.loss import linear_cross_entropy, loss_and_slope

CPU = torch.device("cpu")
CHUNKS = [1, 7, 32, 62]  # of 63 rows: the last chunk is whole, or has one row, or 31, or one


def drawn(dtype=torch.float32, rows: int = 3, vocab: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """hidden (rows, 21, 8), head (vocab, 8) and labels, of which some are no target."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, 21, 8, dtype=dtype, requires_grad=True)
    head = torch.randn(vocab, 8, dtype=dtype, requires_grad=True)
    labels = torch.randint(vocab, (rows, 21))
    labels[0, 5:] = labels[-1, -1] = -100
    return hidden, head, labels


def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ head.T).flatten(0, 1), labels.flatten(), reduction="sum")


def off(got: Tensor, want: Tensor) -> float:
    """The difference by norm, as a part of what is wanted."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def small(tied: bool = True, chunk: int = 4096) -> LossModel:
    torch.manual_seed(0)
    return LossModel(SmolLM2(dataclasses.replace(SMALL, tie_word_embeddings=tied)), chunk)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.randint(SMALL.vocab_size, (3, 22), generator=torch.Generator().manual_seed(seed))
    labels = ids[:, 1:].clone()
    labels[0, 9:] = -100
    return ids[:, :-1], labels


def gradients(loss_model: LossModel, *batches) -> dict[str, Tensor]:
    for inputs, labels in batches:
        (loss_model(inputs, labels)[0] / 50).backward()
    return {name: p.grad for name, p in loss_model.named_parameters()}


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_cross_entropy_with_its_gradients(chunk, dtype):
    """Times 3, as what comes after it scales them."""
    hidden, head, labels = drawn(dtype)
    want = plain(hidden, head, labels)
    got = linear_cross_entropy(hidden, head, labels, chunk)
    assert got.dtype == torch.float32 and off(got, want) < 1e-6
    wanted = torch.autograd.grad(3 * want, (hidden, head))
    for a, b in zip(torch.autograd.grad(3 * got, (hidden, head)), wanted, strict=True):
        assert a.dtype == dtype and off(a, b) < 1e-6
    assert not torch.autograd.grad(linear_cross_entropy(hidden, head, labels, chunk), hidden)[0][
        0, 5:
    ].any()  # where there is no target


def test_the_slope_is_what_autograd_finds():
    _, _, labels = drawn()
    logits = torch.randn(63, 50, requires_grad=True)
    want = F.cross_entropy(logits, labels.flatten(), reduction="sum")
    loss, slope = loss_and_slope(logits.detach(), labels.flatten())
    assert off(loss, want) < 1e-6
    assert off(slope, torch.autograd.grad(want, logits)[0]) < 1e-6


def test_logits_that_are_large_overflow_nothing():
    hidden, head, labels = drawn()
    large = (hidden * 1000).detach().requires_grad_()
    for make in (plain, lambda *a: linear_cross_entropy(*a, 7)):
        loss = make(large, head, labels)
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (large, head)))


@pytest.mark.parametrize("label", [-1, -101, 50])
def test_labels_that_no_token_has_are_refused(label):
    hidden, head, labels = drawn()
    labels[1, 1] = label
    for make in (plain, lambda *a: linear_cross_entropy(*a, 7)):
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            make(hidden, head, labels)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(frozen):
    hidden, head, labels = drawn()
    rest = head if frozen == "hidden" else hidden
    (hidden if frozen == "hidden" else head).requires_grad_(False)
    want, got = plain(hidden, head, labels), linear_cross_entropy(hidden, head, labels, 7)
    assert off(*(torch.autograd.grad(loss, rest)[0] for loss in (got, want))) < 1e-6
    assert (hidden if frozen == "hidden" else head).grad is None


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_gets_the_gradients_of_the_whole_loss(tied):
    """A tied head's is added to the embedding's; a second batch's to the first one's."""
    two = batch(1), batch(2)
    want, got = (gradients(small(tied, chunk), *two) for chunk in (4096, 10))
    assert ("model.lm_head.weight" in want) != tied
    for name, gradient in want.items():
        assert off(got[name], gradient) < 1e-6, name


@pytest.mark.parametrize("chunk", [4, 4096])
def test_only_targets_meet_the_head_where_they_are_few(chunk, monkeypatch):
    loss_model, met = small(chunk=chunk), []
    ids, labels = torch.randint(0, SMALL.vocab_size, (2, 3, 12))
    labels[:, :8] = -100
    labels[1] = -100  # a row without any
    hidden = loss_model.model(ids, head=False)
    logits = F.linear(hidden, loss_model.model.lm_head.weight)
    want = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    want.backward()
    wanted = {name: p.grad.clone() for name, p in loss_model.named_parameters()}
    loss_model.zero_grad()
    linear = loss_file.linear_cross_entropy
    monkeypatch.setattr(
        loss_file,
        "linear_cross_entropy",
        lambda h, *about: met.append(h.shape[1]) or linear(h, *about),
    )
    got, count = loss_model(ids, labels)
    got.backward()
    assert met == [8] and count == 8
    torch.testing.assert_close(got, want)
    for name, p in loss_model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-6)
    got, count = loss_model(ids, torch.full_like(labels, -100))  # none at all
    got.backward()
    assert got == count == 0


def test_under_autocast_products_are_bf16_and_sums_are_not():
    """As near to the fp64 gradient as the plain loss in bf16 is; summed over many chunks too, for
    which bf16 would not do."""
    hidden, head, labels = drawn(rows=100)
    exact = torch.autograd.grad(plain(hidden.double(), head.double(), labels), (hidden, head))
    with torch.autocast("cpu", torch.bfloat16):
        want, got = plain(hidden, head, labels), linear_cross_entropy(hidden, head, labels, 7)
    assert got.dtype == torch.float32 and off(got, want) < 2e-3
    theirs, ours = (torch.autograd.grad(loss, (hidden, head)) for loss in (want, got))
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert off(a, c) < 1.5 * off(b, c) < 0.02


def test_bf16_weights_get_bf16_gradients():
    hidden, head, labels = drawn(torch.bfloat16)
    want, got = plain(hidden, head, labels), linear_cross_entropy(hidden, head, labels, 32)
    theirs, ours = (torch.autograd.grad(loss, (hidden, head)) for loss in (want, got))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.bfloat16 and off(a, b) < 0.02


def test_backward_may_come_twice_but_not_through_itself():
    hidden, head, labels = drawn()
    loss = linear_cross_entropy(hidden, head, labels, 7)
    once = torch.autograd.grad(loss, (hidden, head), retain_graph=True)
    again = torch.autograd.grad(2 * loss, (hidden, head))
    assert all(torch.equal(2 * a, b) for a, b in zip(once, again, strict=True))
    slopes = torch.autograd.grad(
        linear_cross_entropy(hidden, head, labels, 7), hidden, create_graph=True
    )
    with pytest.raises(RuntimeError, match="does not require grad"):
        slopes[0].sum().backward()


def test_without_gradients_it_is_the_loss_alone_and_keeps_nothing():
    hidden, head, labels = drawn()
    slopes = []
    with torch.no_grad():
        got = linear_cross_entropy(hidden, head, labels, 7, slopes.append)
    assert not slopes and not got.requires_grad
    assert off(got, plain(hidden, head, labels)) < 1e-6


def test_it_is_told_how_to_make_a_slope():
    """Which is the part that is compiled."""
    shapes = []

    def noted(logits, targets):
        shapes.append((tuple(logits.shape), tuple(targets.shape)))
        return loss_and_slope(logits, targets)

    loss_model = small(chunk=32)
    loss_model.slope_of = noted
    loss_model(*batch())
    V = SMALL.vocab_size
    assert shapes == [((32, V), (32,)), ((31, V), (31,))]


def test_what_is_kept_for_the_backward_pass_has_no_logits():
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    hidden, head, labels = drawn(rows=12, vocab=500)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        linear_cross_entropy(hidden, head, labels, 16)
    assert sum(kept) == hidden.numel() + head.numel()


def test_memory_is_that_of_a_chunk():
    """What is made at the worst moment: some five times a chunk's logits, and the gradients."""
    hidden, head, labels = drawn(rows=100, vocab=2000)  # 2,100 rows of logits: 16.8 MB

    def peak(make) -> int:
        return peak_memory(lambda: torch.autograd.grad(make(), (hidden, head)), CPU)

    kept = 2 * (hidden.nbytes + head.nbytes)
    for chunk in (50, 200):
        logits = chunk * 2000 * 4
        held = peak(lambda chunk=chunk: linear_cross_entropy(hidden, head, labels, chunk))
        assert logits < held < 6 * logits + kept
    assert peak(lambda: plain(hidden, head, labels)) > 2 * math.prod((2100, 2000, 4))
