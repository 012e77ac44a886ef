"""DPO: sums of log-probabilities, ln 2 at the start, and the paper's gradient."""

import copy
import math
import random

import pytest
import torch
import torch.nn.functional as F

from smol.finetune import (
    Chat,
    Preference,
    add_lora,
    dpo,
    log_probs,
    pack,
    pad,
    render,
    without_lora,
)
from smol.tests.ggufs import small_model, small_tokenizer
from smol.tests.test_finetune import PAD, said

WORDS = ["The", "quick", "brown", "fox", "jumps", "over", "lazy", "dog's", "ears"]


def pairs(count: int = 4) -> list[Chat]:
    """Chosen answers, then as many rejected ones, of unequal lengths, to the same questions."""
    rng = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randrange(least, most)))

    questions = [said(words(2, 5), words(2, 5), words(1, 9)) for _ in range(count)]
    answers = [words(1, 3) for _ in range(count)] + [words(5, 9) for _ in range(count)]
    return [
        render([*q, {"role": "assistant", "content": a}], small_tokenizer(), last_only=True)
        for q, a in zip(questions * 2, answers, strict=True)
    ]


def sums(model, chats: list[Chat]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = pad(chats, PAD)
    return log_probs(model, batch.inputs, batch.labels).chunk(2)


def moved(model, by: float = 0.02, seed: int = 1):
    """The model a step away from itself."""
    model, drawn = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn(p.shape, generator=drawn)
    return model


# -- log-probabilities --------------------------------------------------------------------------


@torch.no_grad()
def check_log_probs(log_probs) -> None:
    model, chats = small_model(), pairs()
    batch = pad(chats, PAD)
    got = log_probs(model, batch.inputs, batch.labels)
    assert got.shape == (8,) and got.dtype == torch.float32
    for value, chat in zip(got.tolist(), chats, strict=True):
        table = model(torch.tensor([chat.ids])).double().log_softmax(-1)[0]
        learned = [i for i, here in enumerate(chat.mask) if here]
        want = sum(table[i - 1, chat.ids[i]].item() for i in learned)
        assert abs(value - want) < 1e-4 and value < -10


def test_an_answers_log_probability_is_the_sum_of_its_tokens():
    check_log_probs(log_probs)


def of_row(how):
    def wrong(model, inputs, labels):
        nats = F.cross_entropy(model(inputs).mT, how(inputs, labels), reduction="none")
        return -nats.sum(1)

    return wrong


WRONG = {
    "means": lambda m, x, y: log_probs(m, x, y) / (y != -100).sum(1),
    "the question too": of_row(lambda x, y: torch.cat((x[:, 1:], y[:, -1:]), 1)),
    "no end": of_row(lambda x, y: y.masked_fill(y == 2, -100)),
    "one late": of_row(lambda x, y: y.roll(1, 1)),
    "the input itself": of_row(lambda x, y: x.where(y != -100, -100)),
}


@pytest.mark.parametrize("bug", WRONG)
def test_log_probabilities_that_are_wrong_are_seen(bug):
    with pytest.raises(AssertionError):
        check_log_probs(WRONG[bug])


def test_a_packed_rows_log_probability_is_that_of_its_answers():
    model, chats = moved(small_model(), by=0.2), pairs()
    batch = pack(chats, 400, PAD)
    want = torch.cat(sums(model, chats)).sum()
    got = log_probs(model, batch.inputs, batch.labels, **batch.layout()).sum()
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
    assert abs(log_probs(model, batch.inputs, batch.labels).sum() - want) > 0.1


def test_in_bf16_sums_are_fp32():
    model = small_model().bfloat16()
    with torch.no_grad():
        chosen, _ = sums(model, pairs())
        exact, _ = sums(small_model(), pairs())
    assert chosen.dtype == torch.float32
    torch.testing.assert_close(chosen, exact, atol=0.5, rtol=0)


# -- the loss -----------------------------------------------------------------------------------


def check_dpo(dpo) -> None:
    """Equation 7 of the paper, written out for one pair after another, at two values of β."""
    four = torch.randn(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 9
    for beta in (0.1, 2.5):
        got = dpo(*four, beta)
        for i, (w, l, ref_w, ref_l) in enumerate(four.T.tolist()):  # noqa: E741
            margin = beta * (w - ref_w) - beta * (l - ref_l)
            loss = math.log1p(math.exp(-margin)) if margin > -500 else -margin
            assert abs(got.loss[i].item() - loss) < 1e-9
            assert abs(got.chosen_reward[i].item() - beta * (w - ref_w)) < 1e-9
            assert abs(got.rejected_reward[i].item() - beta * (l - ref_l)) < 1e-9
            assert abs(got.margin[i].item() - margin) < 1e-9
            assert (got.chosen[i].item(), got.rejected[i].item()) == (w, l)


def test_the_loss_is_equation_7():
    check_dpo(dpo)


def outside(chosen, rejected, ref_chosen, ref_rejected, beta):
    found = dpo(chosen, rejected, ref_chosen, ref_rejected, beta)
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    return found._replace(loss=-beta * F.logsigmoid(margin))


def rewards_without_beta(*arguments):
    found, beta = dpo(*arguments), arguments[-1]
    return found._replace(
        chosen_reward=found.chosen_reward / beta, rejected_reward=found.rejected_reward / beta
    )


WRONG_LOSSES = {
    "β outside the sigmoid": outside,
    "rewards without β": rewards_without_beta,
    "the wrong way round": lambda w, l, rw, rl, beta: dpo(l, w, rl, rw, beta),  # noqa: E741
    "no reference": lambda w, l, rw, rl, beta: dpo(w, l, 0 * rw, 0 * rl, beta),  # noqa: E741
    "1 / β": lambda *a: dpo(*a[:4], 1 / a[4]),
}


@pytest.mark.parametrize("bug", WRONG_LOSSES)
def test_a_wrong_loss_is_seen(bug):
    with pytest.raises(AssertionError):
        check_dpo(WRONG_LOSSES[bug])


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_it_is_ln_2_to_the_bit(dtype, count):
    """In a batch of a power of two, whose mean rounds nothing."""
    model = small_model().to(dtype)
    with torch.no_grad():
        reference = sums(copy.deepcopy(model), pairs(count))
    found = dpo(*sums(model, pairs(count)), *reference, beta=0.1)
    ln2 = torch.tensor(math.log(2))
    assert found.loss.shape == (count,) and torch.equal(found.loss.mean(), ln2)
    assert torch.equal(found.loss.sum() / count, ln2)
    assert not found.margin.any() and torch.equal(found.chosen, reference[0])


def test_the_reference_may_be_the_model_without_its_adapter():
    model = add_lora(small_model(), 4, 8)
    with torch.no_grad(), without_lora(model):
        reference = sums(model, pairs())
    found = dpo(*sums(model, pairs()), *reference, beta=0.5)
    assert torch.equal(found.loss.mean(), torch.tensor(math.log(2)))
    found.loss.sum().backward()  # B learns first: A's gradient is 0 while B is
    layer = model.layers[0].mlp.up_proj
    assert layer.lora_B.weight.grad.any() and not layer.lora_A.weight.grad.any()


def test_its_gradient_is_that_of_finite_differences():
    four = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen, rejected = (t.requires_grad_() for t in four[:2].clone())
    assert torch.autograd.gradcheck(
        lambda w, l: dpo(w, l, *four[2:], beta=0.7).loss,  # noqa: E741
        (chosen, rejected),
    )


def test_a_model_gets_the_gradient_of_finite_differences():
    """Along the gradient the loss grows by its square; and it is the paper's: β σ(-margin) times
    the difference of the two answers' gradients."""
    model, chats, beta = moved(small_model()), pairs(), 0.3
    with torch.no_grad():
        reference = sums(small_model(), chats)
    found = dpo(*sums(model, chats), *reference, beta)
    weights = list(model.parameters())
    slope = torch.autograd.grad(found.loss.mean(), weights)
    chosen, rejected = sums(model, chats)
    weighed = -beta * torch.sigmoid(-found.margin) * (chosen - rejected)
    for a, b in zip(slope, torch.autograd.grad(weighed.mean(), weights), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    square = sum((g.double() ** 2).sum().item() for g in slope)

    @torch.no_grad()
    def loss_at(by: float) -> float:
        for p, g in zip(weights, slope, strict=True):
            p += by * g
        loss = dpo(*sums(model, chats), *reference, beta).loss.double().mean().item()
        for p, g in zip(weights, slope, strict=True):
            p -= by * g
        return loss

    step = 0.02 / square  # by which the loss grows by about 0.02
    assert abs((loss_at(step) - loss_at(-step)) / (2 * step) / square - 1) < 0.02


def test_it_makes_the_chosen_answers_likelier_than_the_rejected_ones():
    model, chats = small_model(), pairs()
    with torch.no_grad():
        reference = sums(model, chats)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(20):
        found = dpo(*sums(model, chats), *reference, beta=0.1)
        found.loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found.loss.mean() < 0.4 and (found.margin > 0).all()
    assert isinstance(found, Preference) and not found.margin.requires_grad


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"beta": 0}, "beta must be above 0 and finite, got 0"),
        ({"beta": "0.1"}, "beta must be a number"),
        ({"rejected": torch.zeros(3)}, r"four sums .*, \(B,\) each, got \(2,\), \(3,\)"),
        ({k: torch.zeros(2, 1) for k in ("chosen", "rejected", "reference_chosen",
                                         "reference_rejected")}, r"got \(2, 1\), \(2, 1\)"),
        ({"chosen": torch.zeros(())}, r"got \(\), \(2,\)"),
    ],
)  # fmt: skip
def test_what_is_no_four_sums_is_refused(change, why):
    four = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    with pytest.raises(ValueError, match=why):
        dpo(**{**dict.fromkeys(four, torch.zeros(2)), "beta": 0.1, **change})
