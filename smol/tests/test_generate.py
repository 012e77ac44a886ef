"""Generation against transformers: greedy ids, and each reshaping of the logits, exactly."""

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from smol.generate import generate, keep_top_k, keep_top_p, penalise
from smol.pretrained import from_reference


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(50, (3, 9))


def greedy_of_transformers(model, ids, penalty: float = 1.0) -> torch.Tensor:
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=30,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_ids_equal_transformers(ours, reference, ids, use_cache, penalty):
    theirs = greedy_of_transformers(reference, ids, penalty)
    settings = {"repetition_penalty": penalty, "use_cache": use_cache}
    assert torch.equal(generate(ours, ids, 30, **settings), theirs)


@pytest.mark.parametrize("seed", range(5))
def test_reshaped_logits_equal_transformers(seed):
    torch.manual_seed(seed)
    logits, ids = torch.randn(4, 60) * 3, torch.randint(60, (4, 12))
    logits[0, 5:9] = logits[0].max()  # ties
    for k in (1, 2, 7, 60, 1000):
        assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(ids, logits))
    for p in (0.01, 0.5, 0.9, 0.999):
        assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
    for penalty in (0.7, 1.0, 1.5):
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
        assert torch.equal(penalise(logits, ids, penalty), theirs)


def test_drawn_tokens_follow_the_distribution(ours, ids):
    """20,000 first tokens against softmax(logits / 0.7): chi-squared, seeded."""
    prompt = ids[:1].expand(20_000, -1)
    generator = torch.Generator().manual_seed(1)
    drawn = generate(ours, prompt, 1, temperature=0.7, generator=generator)[:, -1]
    with torch.no_grad():
        p = (ours(ids[:1])[0, -1] / 0.7).softmax(-1)
    expected = p * 20_000
    often = expected >= 5
    counts = torch.bincount(drawn, minlength=len(p)).float()
    chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum().item()
    degrees = int(often.sum())
    assert abs(chi2 - degrees) < 5 * (2 * degrees) ** 0.5


def test_a_generator_makes_draws_repeat(ours, ids):
    runs = [
        generate(ours, ids, 12, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_rows_end_at_a_stop_id(ours, ids):
    free = generate(ours, ids, 20)
    stop = free[0, 12].item()
    ended = generate(ours, ids, 20, stop_ids=[stop])
    for row, whole in zip(ended, free, strict=True):
        new = whole[9:].tolist()
        at = new.index(stop) + 1 if stop in new else 20
        assert row[9 : 9 + at].tolist() == new[: min(at, ended.size(1) - 9)]
        assert set(row[9 + at :].tolist()) <= {stop}
    alone = generate(ours, ids[:1], 20, stop_ids=[stop])
    assert alone[0, -1] == stop and alone.size(1) <= 13


def test_only_the_last_logits_are_computed(ours, ids, monkeypatch):
    seen = []
    head = ours.lm_head.forward
    monkeypatch.setattr(ours.lm_head, "forward", lambda x: seen.append(x.shape) or head(x))
    generate(ours, ids, 3)
    assert seen == [(3, ours.config.hidden_size)] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "top_p must be above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ],
)
def test_bad_settings_are_refused(ours, ids, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(ours, ids, 3, **settings)


def test_a_text_too_long_is_refused(ours, ids):
    room = ours.config.max_position_embeddings
    with pytest.raises(ValueError, match=f"do not fit a context of {room}: ask for 1 to"):
        generate(ours, ids, room)
    with pytest.raises(ValueError, match="0 new ones do not fit"):
        generate(ours, ids, 0)


def test_one_turned_matrix_gives_other_ids(reference, ids):
    """The comparison of greedy ids can fail."""
    broken = from_reference(reference)
    broken.layers[0].self_attn.k_proj.weight.data.mul_(-1)
    assert not torch.equal(generate(broken, ids, 30), greedy_of_transformers(reference, ids))
