"""The best policy, the frontier that nothing crosses, and what DPO and the gradient come to."""

import json
import math
import re
from itertools import product
from pathlib import Path

import pytest
import torch

from smol import stories
from smol.bench import preferences
from smol.finetune import (
    best_policy,
    best_reward,
    dpo,
    kl,
    log_probs,
    outcomes,
    policy_loss,
)
from smol.lesson import figures
from smol.stories.pets import LEGS, openings
from smol.tests.ggufs import small_model

ROOT = Path(__file__).resolve().parents[2]


def drawn(rows: int = 5, count: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (rows, count) far from uniform, and a reward for each outcome."""
    generator = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(rows, count, generator=generator, dtype=torch.float64)).softmax(-1)
    return p, torch.rand(count, generator=generator, dtype=torch.float64)


# -- π* ------------------------------------------------------------------------------------------


def check_best_policy(best_policy) -> None:
    """No tilt of it, random or by a numeric optimiser, is worth more."""
    for beta in (0.05, 0.3, 2.0):
        p, reward = drawn(4)
        best = best_policy(p, reward, beta)
        assert best.shape == p.shape
        torch.testing.assert_close(best.sum(-1), torch.ones(4, dtype=torch.float64))

        def worth(q, p=p, reward=reward, beta=beta):
            return ((q * reward).sum(-1) - beta * kl(q, p)).sum()

        generator = torch.Generator().manual_seed(1)
        for size in (0.01, 0.1, 1.0):
            for _ in range(20):
                noise = torch.randn(best.shape, generator=generator, dtype=torch.float64)
                assert worth((best.log() + size * noise).softmax(-1)) < worth(best)
        logits = p.log().requires_grad_()
        optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def closure(logits=logits, worth=worth):
            logits.grad = None
            loss = -worth(logits.softmax(-1))
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(logits.detach().softmax(-1), best, atol=1e-3, rtol=0)
    p = torch.tensor([0.5, 0.25, 0.25, 0.0])
    far = best_policy(p, torch.tensor([0.0, 1.0, 1.0, 9.0]), 1e-3)  # exp(1000) overflows
    assert torch.equal(far, torch.tensor([0.0, 0.5, 0.5, 0.0]))
    torch.testing.assert_close(best_policy(p, torch.full((4,), 7.0), 0.1), p)


def test_nothing_is_worth_more_than_the_best_policy():
    check_best_policy(best_policy)


WRONG_POLICIES = {
    "β, not 1/β": lambda p, r, beta: (p.log() + r * beta).softmax(-1),
    "β twice": lambda p, r, beta: (p.log() + r / beta**2).softmax(-1),
    "no reference": lambda p, r, beta: (r / beta + 0 * p).softmax(-1),
    "overflow": lambda p, r, beta: p * (r / beta).exp() / (p * (r / beta).exp()).sum(-1, True),
    "not normalised": lambda p, r, beta: p * ((r - r.max()) / beta).exp(),
    "over the prompts": lambda p, r, beta: (p.log() + r / beta).softmax(0),
    "the reference": lambda p, r, beta: p,
}


@pytest.mark.parametrize("bug", WRONG_POLICIES)
def test_policies_that_are_not_the_best_are_seen(bug):
    with pytest.raises(AssertionError):
        check_best_policy(WRONG_POLICIES[bug])


def test_a_distance_is_none_below_zero_and_infinite_where_the_reference_never_goes():
    p, _ = drawn()
    q, _ = drawn(seed=1)
    by_hand = [
        sum(a * math.log(a / b) for a, b in zip(*rows, strict=True))
        for rows in zip(p.tolist(), q.tolist(), strict=True)
    ]
    torch.testing.assert_close(kl(p, q).tolist(), by_hand)
    assert (kl(p, q) > 0).all() and kl(p, p).abs().max() < 1e-12
    one, half = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert abs(kl(one, half).item() - math.log(2)) < 1e-6
    assert kl(half, one).item() == math.inf


# -- the frontier --------------------------------------------------------------------------------


def check_best_reward(best_reward) -> None:
    p, reward = drawn(6)
    mean = lambda q: (q * reward).sum(-1).mean().item()  # noqa: E731
    for beta in (0.03, 0.2, 1.0, 10.0):
        best = best_policy(p, reward, beta)
        assert abs(best_reward(p, reward, kl(best, p).mean().item()) - mean(best)) < 1e-6
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):  # policies of every kind, each prompt with a tilt of its own
        size = 10 ** (2 * torch.rand(6, 1, generator=generator, dtype=torch.float64) - 1)
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        q = (p.log() + size * (reward * 5 + noise)).softmax(-1)
        assert mean(q) <= best_reward(p, reward, kl(q, p).mean().item()) + 1e-9
    assert abs(best_reward(p, reward, 0) - mean(p)) < 1e-6
    assert abs(best_reward(p, reward, 100) - reward.max().item()) < 1e-6


def test_no_policy_lies_above_the_frontier():
    check_best_reward(best_reward)


def own_beta_each(p, reward, nats):
    """Every prompt goes equally far: another policy, and no better one."""
    return sum(best_reward(row[None], reward, nats) for row in p) / len(p)


WRONG_FRONTIERS = {
    "every prompt as far": own_beta_each,
    "of the mean prompt": lambda p, r, nats: best_reward(p.mean(0, keepdim=True), r, nats),
    "in bits": lambda p, r, nats: best_reward(p, r, nats * math.log(2)),
    "the most there is": lambda p, r, nats: r.max().item(),
}


@pytest.mark.parametrize("bug", WRONG_FRONTIERS)
def test_frontiers_that_are_wrong_are_seen(bug):
    with pytest.raises(AssertionError):
        check_best_reward(WRONG_FRONTIERS[bug])


@pytest.mark.parametrize("beta", [0, -1.0, math.inf, math.nan, "0.1", None])
def test_a_beta_that_is_none_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be"):
        best_policy(*drawn(), beta)


@pytest.mark.parametrize("nats", [-0.1, math.inf, math.nan, "1"])
def test_a_distance_that_is_none_is_refused(nats):
    with pytest.raises(ValueError, match="nats must be"):
        best_reward(*drawn(), nats)


# -- what is learned comes to it: a free logit for each outcome, and no sampling ------------------


def learned(loss_of, p: torch.Tensor, steps: int = 100) -> torch.Tensor:
    """The policy (rows, N) with the least loss, from the reference on; fp64."""
    logits = p.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-12
    )

    def closure():
        logits.grad = None
        loss = loss_of(logits.log_softmax(-1))
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    return logits.detach().softmax(-1)


def dpo_of_all_pairs(p, reward, beta, dpo):
    """DPO's loss over all pairs of outcomes, each as often as it is drawn and so labelled."""
    N = p.size(-1)
    a, b = (t.flatten() for t in torch.meshgrid(*[torch.arange(N)] * 2, indexing="ij"))
    often = p[:, a] * p[:, b] * (reward[a] - reward[b]).sigmoid()

    def loss(log_p):
        four = (log_p[:, a], log_p[:, b], p.log()[:, a], p.log()[:, b])
        found = dpo(*(t.flatten() for t in four), beta)
        return (often.flatten() * found.loss).sum()

    return loss


def check_dpo(dpo) -> None:
    p, reward = drawn(3, 6)
    for beta in (0.2, 1.0):
        found = learned(dpo_of_all_pairs(p, reward, beta, dpo), p)
        torch.testing.assert_close(found, best_policy(p, reward, beta), atol=1e-4, rtol=0)


def test_dpo_comes_to_the_best_policy():
    check_dpo(dpo)


WRONG_DPO = {
    "β twice": lambda c, r, rc, rr, beta: dpo(c, r, rc, rr, beta**2),
    "no reference": lambda c, r, rc, rr, beta: dpo(c, r, 0 * rc, 0 * rr, beta),
    "means": lambda c, r, rc, rr, beta: dpo(c / 2, r / 2, rc / 2, rr / 2, beta),
    "the wrong way round": lambda c, r, rc, rr, beta: dpo(c, r, rr, rc, beta),
}


@pytest.mark.parametrize("bug", WRONG_DPO)
def test_a_dpo_that_comes_to_another_policy_is_seen(bug):
    with pytest.raises(AssertionError):
        check_dpo(WRONG_DPO[bug])


def check_policy_loss(policy_loss) -> None:
    """Its gradient is that of the mean reward, and unchanged by what all rewards have more."""
    p, reward = drawn(1, 6)
    samples = torch.multinomial(p[0], 4000, replacement=True,
                                generator=torch.Generator().manual_seed(0))  # fmt: skip
    logits = p[0].log().clone().requires_grad_()

    def slope(reward, counts=samples):
        loss = policy_loss(logits.log_softmax(-1)[counts], reward[counts])
        assert loss.shape == ()
        return torch.autograd.grad(loss, logits)[0]

    (exact,) = torch.autograd.grad(-(logits.softmax(-1) * reward).sum(), logits)
    torch.testing.assert_close(slope(reward), exact, atol=0.02, rtol=0)
    torch.testing.assert_close(slope(reward + 1000), slope(reward), atol=1e-9, rtol=0)
    assert slope(torch.full_like(reward, 3.0)).abs().max() < 1e-12  # nothing to choose
    few = samples[:2]
    by_hand = -(reward[few] - reward[few].mean()) @ torch.eye(6, dtype=torch.float64)[few] / 2
    torch.testing.assert_close(slope(reward, few), by_hand)  # Σ (r - mean r) = 0: p drops out
    # A reward that hangs on ln p is a number, as any other.
    log_p = logits.log_softmax(-1)[samples]
    paid = reward[samples] - 0.5 * (log_p - p[0].log()[samples])
    ways = [torch.autograd.grad(policy_loss(log_p, r), logits, retain_graph=True)[0]
            for r in (paid, paid.detach())]  # fmt: skip
    torch.testing.assert_close(*ways)


def test_the_policy_gradient_is_the_gradient_of_the_reward():
    check_policy_loss(policy_loss)


def centred(reward):
    return reward.detach() - reward.detach().mean()


WRONG_GRADIENTS = {
    "not centred": lambda lp, r: -(r.detach() * lp).mean(),
    "uphill is downhill": lambda lp, r: (centred(r) * lp).mean(),
    "a sum": lambda lp, r: -(centred(r) * lp).sum(),
    "by the deviation": lambda lp, r: -(centred(r) / (r.std() + 1e-9) * lp).mean(),
    "p for ln p": lambda lp, r: -(centred(r) * lp.exp()).mean(),
    "the reward's gradient": lambda lp, r: -((r - r.mean()) * lp).mean(),
}


@pytest.mark.parametrize("bug", WRONG_GRADIENTS)
def test_policy_gradients_that_are_wrong_are_seen(bug):
    with pytest.raises(AssertionError):
        check_policy_loss(WRONG_GRADIENTS[bug])


def check_price_of_the_way(price) -> None:
    """With β ln π/π_ref taken off the reward, samples of the policy's own lead to π*."""
    p, reward = drawn(1, 6)
    for beta in (0.2, 1.0):
        logits = p[0].log().clone().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
            log_p = logits.log_softmax(-1)
            own = torch.multinomial(log_p.detach().exp(), 2000, True, generator=generator)
            paid = reward[own] - price(beta, log_p[own].detach(), p[0].log()[own])
            optimizer.zero_grad()
            policy_loss(log_p[own], paid).backward()
            optimizer.step()
        best = best_policy(p, reward, beta)[0]
        torch.testing.assert_close(logits.detach().softmax(-1), best, atol=0.02, rtol=0)


def test_the_policy_gradient_with_the_price_of_the_way_comes_to_the_best_policy():
    check_price_of_the_way(lambda beta, ours, theirs: beta * (ours - theirs))


WRONG_PRICES = {
    "none": lambda beta, ours, theirs: 0 * ours,
    "β twice": lambda beta, ours, theirs: beta**2 * (ours - theirs),
    "no reference": lambda beta, ours, theirs: beta * ours,
    "paid for the way": lambda beta, ours, theirs: beta * (theirs - ours),
}


@pytest.mark.parametrize("bug", WRONG_PRICES)
def test_prices_that_lead_elsewhere_are_seen(bug):
    with pytest.raises(AssertionError):
        check_price_of_the_way(WRONG_PRICES[bug])


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((2, 1), (2, 1)), ((), ()), ((0,), (0,))])
def test_what_is_no_reward_for_each_sample_is_refused(shapes):
    with pytest.raises(ValueError, match=r"a reward for each sample, \(B,\) both, got"):
        policy_loss(*(torch.zeros(shape) for shape in shapes))


# -- all that may come next ----------------------------------------------------------------------


@torch.no_grad()
def check_outcomes(outcomes) -> None:
    model, prompts, tokens = small_model(), [[0, 7, 9], [0], [0, 3, 5, 8, 250]], [7, 100, 3]
    found = outcomes(model, prompts, tokens)
    assert found.shape == (3, 4) and found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3))
    for row, prompt in zip(found, prompts, strict=True):
        table = model(torch.tensor([prompt]))[0, -1].double().log_softmax(-1)
        torch.testing.assert_close(row[:3].double(), table[tokens], atol=1e-5, rtol=0)
        for token, value in zip(tokens, row, strict=False):  # as any answer's
            labels = torch.tensor([[-100] * (len(prompt) - 1) + [token]])
            answer = log_probs(model, torch.tensor([prompt]), labels)
            torch.testing.assert_close(answer[0], value, atol=1e-5, rtol=0)


def test_outcomes_are_the_probabilities_of_answers_and_of_all_others_together():
    check_outcomes(outcomes)


def at_the_end_of_the_row(model, prompts, tokens):
    T = max(map(len, prompts))
    return outcomes(model, [[*prompt, *[0] * (T - len(prompt))] for prompt in prompts], tokens)


WRONG_OUTCOMES = {
    "after padding": at_the_end_of_the_row,
    "of these alone": lambda m, p, t: outcomes(m, p, t).log_softmax(-1) * torch.ones(4) + 1e-3,
    "others forgotten": lambda m, p, t: torch.cat(
        (outcomes(m, p, t)[:, :3].log_softmax(-1), torch.full((3, 1), -math.inf)), -1
    ),
    "a token early": lambda m, p, t: outcomes(m, [x[:-1] or x for x in p], t),
}


@pytest.mark.parametrize("bug", WRONG_OUTCOMES)
def test_outcomes_that_are_wrong_are_seen(bug):
    with pytest.raises(AssertionError):
        check_outcomes(WRONG_OUTCOMES[bug])


@pytest.mark.parametrize(
    ("prompts", "tokens", "why"),
    [
        ([], [1], "no prompt, or an empty one"),
        ([[0], []], [1], "no prompt, or an empty one"),
        (["a"], [1], "a prompt must be a list of token ids"),
        ([[0]], [1, 1], "each once"),
        ([[0]], [], "some of the ids"),
        ([[0]], [10**6], "some of the ids 0 to 309"),
        ([[0, 10**6]], [1], "outside the vocabulary"),
    ],
)
def test_what_has_no_outcomes_is_refused(prompts, tokens, why):
    with pytest.raises(ValueError, match=why):
        outcomes(small_model(), prompts, tokens)


# -- the pets of the stories ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pets():
    return preferences.Pets(train=64, held_out=16)


def test_after_an_opening_any_pet_can_come(pets):
    texts = openings(80, 1)
    assert len(set(texts)) == 80 and texts == openings(80, 1) != openings(80, 2)
    for text in texts:
        assert text.rsplit(" ", 1)[1] in ("his", "her", "the")
    others = {item["noise"] for item in stories.grammar().pools["animal"]} | {"behind"}
    story = next(s for s in stories.write(90, 3)  # in which the pet's name is all that it has
                 if " can swear to it" in s and not any(word in s for word in others))  # fmt: skip
    pet = story.partition(" can swear to it")[0].rsplit(" ", 1)[1]
    assert all(stories.read(re.sub(rf"\b{pet}\b", animal, story)) for animal in LEGS)
    assert sorted(LEGS.values()) == [0] * 2 + [2] * 10 + [4] * 23
    assert LEGS["snail"] == 0 and LEGS["hen"] == 2 and LEGS["tortoise"] == 4
    decode = pets.tokenizer.decode
    assert [decode([token]) for token in pets.tokens] == [f" {animal}" for animal in LEGS]
    for text, animal in product(texts[:9], ("owl", "hedgehog")):  # no merge across the border
        assert decode(pets.tokenizer.encode(f"{text} {animal}")[-1:]) == f" {animal}"


def test_the_shipped_model_has_the_grammars_pets(pets):
    p = pets.unseen
    assert (p[:, -1] < 0.01).all() and (p[:, :-1] > 0.5 / 35).all() and (p < 2 / 35).all()


@pytest.mark.parametrize("how", ["dpo", "policy"])
def test_a_live_run_has_nine_tenths_of_what_can_be_gained(pets, how):
    found = pets.worth(pets.probabilities(preferences.tuned(pets, 0.5, 0, how, steps=20)))
    assert found["gained"] > 0.9 and found["share"] > 0.9 and 0.1 < found["kl"] < 0.5
    assert found["reward"] <= found["best"] + 1e-9


def test_few_pairs_again_and_again_gain_little(pets, monkeypatch):
    monkeypatch.setattr(preferences, "PAIRS", 16)
    rows = preferences.overdone(pets, 0, 0.1, rounds=20)
    assert [row["round"] for row in rows[:5]] == [0, 1, 2, 3, 5]
    assert rows[0]["margin"] == 0 and rows[-1]["margin"] > rows[4]["margin"] > 0
    assert rows[-1]["gained"] < 0.5 < rows[-1]["kl"]


# -- whole stories -------------------------------------------------------------------------------


def test_a_story_is_judged_by_its_grammar(pets):
    story = stories.write(1, seed=5)[0]
    ids = [0, *pets.tokenizer.encode(story), 0]
    assert preferences.plot_of(ids, pets.tokenizer) == stories.read(story)[0].made
    for wrong in (ids[:-1], [*ids[:-9], 0], [0, 0], [0]):
        assert preferences.plot_of(wrong, pets.tokenizer) == ""
    assert preferences.summed_up(["story 1", "", "story 1"]) == {"read": 2 / 3, "plots": 1}
    assert abs(preferences.spread(["a", "b", "c", "c"]) - 2**1.5) < 1e-9
    inputs, labels = preferences.laid([[0, 5, 6, 0], [0, 7, 0]])
    assert inputs.tolist() == [[0, 5, 6], [0, 7, 0]]
    assert labels.tolist() == [[5, 6, 0], [7, 0, -100]]


def test_a_run_on_stories_in_small(monkeypatch):
    monkeypatch.setattr(preferences, "LONGEST", 12)
    monkeypatch.setattr(preferences, "corpus", lambda: "\n\n".join(stories.write(2, 9)))
    found = preferences.story_run(0, steps=3, count=2, looked=2)
    (row,) = found["rows"]
    assert row["step"] == 1 and row["tokens"] == 13
    # No story is so short: there was nothing to choose, and nothing was learned.
    assert row["kl"] == row["read"] == row["plots"] == found["before"]["read"] == 0
    assert row["loss"] == found["before"]["loss"] > 0


# -- what is stored ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored():
    file = ROOT / "assets" / "results" / "preferences.json"
    return json.loads(file.read_text(encoding="utf-8"))["preferences"]


def test_what_is_stored_reaches_nine_tenths_and_never_more_than_all(stored):
    kinds = list(product(preferences.BETAS, preferences.SEEDS))
    for how in ("dpo", "policy"):
        assert [(row["beta"], row["seed"]) for row in stored[how]] == kinds
        for row in stored[how]:
            assert 0.9 <= row["gained"] <= 1 and 0.9 <= row["share"] <= 1
            assert row["kl"] > 0.1
    for runs in stored["few"].values():
        for row in (row for run in runs for row in run["rows"]):
            assert row["reward"] <= row["best"] + 1e-9


def test_the_figures_say_what_they_show(stored, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kwargs: shown.append(data))
    frontier = [(row["kl"], row["reward"]) for row in stored["frontier"]]
    ways = {how: [(row["kl"], row["reward"]) for row in stored[how]] for how in ("dpo", "policy")}
    rows = stored["few"]["β 0.1"][0]["rows"]
    few = [(row["kl"], row["reward"]) for row in rows]
    figures.reward_and_distance(frontier, {**ways, "few pairs": few})
    figures.overdone(rows)
    figures.reward_of_stories(stored["stories"][0]["rows"], stored["stories"][0]["before"])
    said = [data["text/plain"] for data in shown]
    assert said[0].startswith("Figure: the best mean reward at each distance")
    assert f"the margin grows to {rows[-1]['margin']:.2f}" in said[1]
    assert "of the stories can be read (before: " in said[2]
    assert all(data["image/png"] for data in shown)
