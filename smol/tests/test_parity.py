"""The parity ladder: silent on the same model, and it names the place of every mutant."""

import functools
import inspect
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

import smol.model
from smol.lesson.checks.parity import answer_key
from smol.parity import (
    MUTANTS,
    PUBLISHED_GREEDY,
    PUBLISHED_NUMBERS,
    PUBLISHED_PERPLEXITY,
    Mutant,
    check_published,
    compare,
    ladder,
    plant_unknown,
    published,
)
from smol.pretrained import from_reference, load_pretrained
from smol.tests.reference import REAL, needs_real, random_ids, tiny_config, tiny_reference

RUNGS = [
    "weights",
    "modules",
    "modules in bf16",
    "hidden states",
    "logits",
    "long logits",
    "greedy",
    "loss",
    "gradients",
    "causality",
    "cache",
]

# -- the same model ---------------------------------------------------------------------------

SHAPES = {
    "tiny": {},
    "mha": {"num_key_value_heads": 6},
    "untied": {"tie_word_embeddings": False, "num_hidden_layers": 2, "rope_theta": 5e5},
    "heads_of_360m": {"hidden_size": 960, "num_attention_heads": 15, "num_key_value_heads": 5},
    "heads_of_size_10": {"hidden_size": 60},
    "long": {"max_position_embeddings": 2048, "num_hidden_layers": 1},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_model_climbs_every_rung(shape):
    reference = tiny_reference(**SHAPES[shape])
    report = ladder(from_reference(reference), reference, random_ids(2, 24))
    assert report.ok and report.first is None, report
    assert [rung.name for rung in report.rungs] == RUNGS


def test_the_same_model_in_bf16_climbs_every_rung():
    reference = tiny_reference(dtype=torch.bfloat16)
    report = ladder(from_reference(reference), reference, random_ids(2, 24))
    assert report.ok and report.first is None, report


@pytest.mark.parametrize("shape", [(1, 8), (3, 9), (1, 61)])
def test_any_text_of_eight_tokens_will_do(ours, reference, shape):
    assert ladder(ours, reference, random_ids(*shape)).ok


def test_shorter_text_is_refused(ours, reference):
    with pytest.raises(ValueError, match=r"T ≥ 8, got \(2, 7\)"):
        ladder(ours, reference, random_ids(2, 7))


def test_text_as_long_as_the_context_is_no_divergence():
    reference = tiny_reference(max_position_embeddings=24)
    report = ladder(from_reference(reference), reference, random_ids(1, 24))
    assert report.ok, report


def test_other_weights_are_another_model(reference):
    report = ladder(from_reference(tiny_reference(seed=1)), reference, random_ids(2, 24))
    assert not report.ok and report.first == "embed_tokens"


def test_a_model_that_does_not_run_has_diverged(reference):
    ours = from_reference(reference)
    ours.layers[1].mlp.forward = None
    report = ladder(ours, reference, random_ids(2, 24))
    assert not report.ok
    assert "raised TypeError" in str(report)


def test_the_report_is_a_table(ours, reference):
    lines = str(ladder(ours, reference, random_ids(2, 24))).splitlines()
    assert [line[:4] for line in lines] == ["ok  "] * 11 + ["=>  "]
    assert [line[6:21].strip() for line in lines[:-1]] == RUNGS
    assert all(line[21:23] == "  " and line[23] != " " for line in lines[:-1]), "\n".join(lines)
    assert lines[-1] == "=>    the same model"


def test_a_failed_report_names_the_place(reference):
    ours = MUTANTS["gelu_for_silu"](from_reference(reference))
    lines = str(ladder(ours, reference, random_ids(2, 24))).splitlines()
    assert lines[1].startswith("FAIL  modules ") and "  layers.0.mlp: " in lines[1]
    assert lines[-1] == "=>    first divergence: layers.0.mlp"


def test_the_ladder_takes_gradients_also_where_they_are_off(ours, reference):
    with torch.no_grad():
        assert ladder(ours, reference, random_ids(2, 24)).ok


def test_the_ladder_leaves_no_trace(reference):
    ours = from_reference(reference)
    torch.manual_seed(1)  # not the ladder's own seed
    random_state = torch.get_rng_state()
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    ladder(ours, reference, random_ids(2, 24))
    assert torch.equal(random_state, torch.get_rng_state())
    for model in (ours, reference):
        assert not any(module._forward_hooks for module in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())


# -- mutants ----------------------------------------------------------------------------------


@functools.cache
def the_reference():
    return tiny_reference()


@functools.cache
def first_divergence(name: str, layer: int | None) -> str | None:
    ours = MUTANTS[name](from_reference(the_reference()), layer)
    return ladder(ours, the_reference(), random_ids(2, 24)).first


def is_named(name: str, layer: int | None) -> bool:
    first, place = first_divergence(name, layer), MUTANTS[name].place(layer or 0)
    if name == "gradient_cut" and layer is None:
        place = MUTANTS[name].place(2)  # gradients come from the end: the last layer is first
    return first is not None and (first == place or first.startswith(place + "."))


LAYERS = pytest.mark.parametrize("layer", [None, 1], ids=["all_layers", "layer_1"])
NAMES = pytest.mark.parametrize("name", MUTANTS)


@NAMES
@LAYERS
def test_a_mutant_is_caught(name, layer):
    assert first_divergence(name, layer) is not None


@LAYERS
def test_every_mutant_is_named(layer):
    assert [name for name in MUTANTS if not is_named(name, layer)] == []


@pytest.mark.parametrize(
    "rung, name",
    {
        "weights": "kv_weights_swapped",
        "modules": "gelu_for_silu",
        "modules in bf16": "norm_weight_before_cast",
        "hidden states": "layer_skipped",
        "logits": "softmax_in_the_model",
        "long logits": "rope_positions_bf16",
        "greedy": "layer_norm",
        "loss": "softmax_in_the_model",
        "gradients": "gradient_cut",
        "causality": "no_mask",
        "cache": "cache_mask_top_left",
    }.items(),
)
def test_each_rung_has_a_mutant_that_breaks_it(reference, rung, name):
    ours = MUTANTS[name](from_reference(reference))
    rungs = {r.name: r for r in ladder(ours, reference, random_ids(2, 24)).rungs}
    assert list(rungs) == RUNGS
    assert not rungs[rung].ok and "raised" not in rungs[rung].seen


def test_a_head_with_the_same_numbers_is_not_a_tied_head(reference):
    ours = from_reference(reference)
    ours.lm_head.weight = nn.Parameter(ours.lm_head.weight.detach().clone())
    rung = ladder(ours, reference, random_ids(2, 24)).rungs[0]
    assert (rung.ok, rung.place) == (False, "lm_head")
    assert rung.seen == "head and embedding are two here"


def test_a_table_in_the_state_dict_is_named(reference):
    ours = from_reference(reference)
    ours.layers[1].self_attn.register_buffer("mask", torch.ones(3, 3))
    rung = ladder(ours, reference, random_ids(2, 24)).rungs[0]
    assert (rung.ok, rung.place) == (False, "layers.1.self_attn")


def test_there_are_thirty_mutants():
    assert len(MUTANTS) >= 30
    assert all(
        mutant.name == name and mutant.story and mutant.part for name, mutant in MUTANTS.items()
    )


EDITED = [name for name, mutant in MUTANTS.items() if mutant.action is None]


@pytest.mark.parametrize("name", EDITED)
def test_each_edit_of_a_mutant_applies_once(name):
    source = inspect.getsource(smol.model)
    for old, new in MUTANTS[name].edits:
        assert source.count(old) == 1
        source = source.replace(old, new)
    assert source != inspect.getsource(smol.model)


def test_an_edit_that_no_longer_applies_says_so(ours):
    stale = Mutant("stale", "norm", "model.py has moved on", (("no such line", ""),))
    with pytest.raises(ValueError, match="mutant stale: 'no such line' stands 0 times"):
        stale(ours)


@NAMES
def test_a_diff_shows_the_bug(name):
    diff = MUTANTS[name].diff()
    if name in EDITED:
        assert any(line[0] == "-" for line in diff.splitlines())
        assert any(line[0] == "+" for line in diff.splitlines())
    else:
        assert MUTANTS[name].story in diff


@NAMES
def test_a_mutant_has_a_place_that_exists(name, ours):
    place = MUTANTS[name].place(1)
    modules = {path for path, _ in ours.named_modules()} | {"rotary_emb"}
    assert place in modules or place in RUNGS


def test_mutants_leave_the_weights_alone(reference):
    planted, clean = from_reference(reference), from_reference(reference)
    for name in EDITED:
        MUTANTS[name](planted)
    assert planted.state_dict().keys() == clean.state_dict().keys()
    for key, tensor in planted.state_dict().items():
        assert torch.equal(tensor, clean.state_dict()[key]), key


def test_mutants_leave_other_models_alone(reference):
    before = from_reference(reference)
    for name in MUTANTS:
        MUTANTS[name](from_reference(reference))
    after = from_reference(reference)
    assert ladder(before, reference, random_ids(2, 24)).ok
    assert ladder(after, reference, random_ids(2, 24)).ok


def test_one_layers_bug_leaves_the_other_layers_alone(reference):
    ours = MUTANTS["rope_backwards"](from_reference(reference), 1)
    kinds = [type(layer.self_attn) for layer in ours.layers]
    assert kinds[0] is kinds[2] is smol.model.GroupedQueryAttention
    assert kinds[1] is not kinds[0]


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), tiny_reference, lambda: None])
def test_only_our_own_model_can_be_spoilt(make):
    with pytest.raises(ValueError, match=r"a bug can be planted into smol\.model's SmolLM2, not"):
        MUTANTS["layer_norm"](make())


def planted_layer(model) -> int:
    return next(
        i
        for i, block in enumerate(model.layers)
        if any("smol.model with" in type(m).__module__ for m in block.modules())
    )


def test_an_unknown_bug_follows_its_seed_and_is_nobody_elses(reference):
    planted = []
    for seed in (*range(32), *range(32)):
        mutant = plant_unknown(ours := from_reference(reference), seed)
        planted.append((mutant.name, planted_layer(ours)))
    assert planted[:32] == planted[32:]
    assert len(set(planted[:32])) == 32
    assert all(planted[i][0] != planted[i + 1][0] for i in range(32))
    worked = [("scale_by_hidden_size", 0), ("rope_on_q_only", 2)]  # notebook 3 shows both
    assert planted[4:6] == worked


@pytest.mark.parametrize("seed", range(32))
def test_an_unknown_bug_is_caught_where_the_key_says(reference, seed):
    """Always in an attention module: the questions of notebook 3, section 3.6, are for one."""
    planted = plant_unknown(ours := from_reference(reference), seed)
    place = planted.place(planted_layer(ours))
    assert answer_key(seed).split()[1:3] == [place, planted.name]
    report = ladder(ours, reference, random_ids(2, 24))
    assert (report.first, report.first.rpartition(".")[2]) == (place, "self_attn")


@pytest.mark.parametrize(
    "T, pieces", [(8, "4, 1, 1, 1, 1"), (9, "4, 1, 1, 1, 1, 1"), (16, "8, 1, 1, 4, 1, 1")]
)
def test_the_pieces_of_the_cached_text_are_all_named(ours, reference, T, pieces):
    seen = ladder(ours, reference, random_ids(2, T)).rungs[-1].seen
    assert seen.startswith(f"pieces of {pieces} tokens, twice: "), seen
    assert sum(map(int, pieces.split(","))) == T


# -- compare ----------------------------------------------------------------------------------


def test_compare_says_exact():
    difference = compare(torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3))
    assert difference.exact and difference.relative == 0.0
    assert str(difference) == "exact"


def test_compare_finds_the_largest_difference():
    theirs = torch.arange(8.0).view(2, 4)
    ours = theirs.clone()
    ours[0, 1] += 0.25
    ours[1, 2] -= 0.5
    difference = compare(ours, theirs)
    assert not difference.exact
    assert (difference.largest, difference.where) == (0.5, (1, 2))
    assert difference.equal == 0.75
    assert difference.relative == 0.5 / 7
    assert str(difference) == "75.0 % equal, largest difference 0.5 at [1, 2]"


def test_one_in_a_million_is_not_exact():
    theirs = torch.zeros(1_000_000)
    ours = theirs.clone()
    ours[123_456] = 1e-30
    difference = compare(ours, theirs)
    assert not difference.exact
    assert difference.where == (123_456,)
    assert str(difference).startswith("99.9 % equal")


def test_one_in_many_millions_is_not_exact():
    """As many as the logits of a long text: a mean of so many in fp32 would be 1.0."""
    theirs = torch.zeros(2**25, dtype=torch.bfloat16)
    ours = theirs.clone()
    ours[-1] = 1e-30
    assert not compare(ours, theirs).exact


@pytest.mark.parametrize("spoilt", ["ours", "theirs", "both"])
def test_compare_never_takes_nan_for_equal(spoilt):
    ours, theirs = torch.ones(4), torch.ones(4)
    for who, tensor in (("ours", ours), ("theirs", theirs)):
        if spoilt in (who, "both"):
            tensor[2] = float("nan")
    difference = compare(ours, theirs)
    assert not difference.exact
    assert (difference.largest, difference.where) == (math.inf, (2,))
    assert not difference.relative <= 1e9


def test_compare_takes_equal_infinities_for_equal():
    ours = torch.tensor([math.inf, 1.0])
    assert compare(ours, ours.clone()).exact
    assert compare(ours, torch.tensor([math.inf, 2.0])).largest == 1.0


@pytest.mark.parametrize(
    "theirs", [torch.ones(3, 2), torch.ones(2, 3, 1), torch.ones(2, 3).double()], ids=str
)
def test_compare_sees_another_shape_or_dtype(theirs):
    difference = compare(torch.ones(2, 3), theirs)
    assert not difference.exact and difference.where is None
    assert difference.relative == math.inf
    assert str(difference) == "another shape or dtype"


def test_compare_takes_a_single_number():
    difference = compare(torch.tensor(1.5), torch.tensor(2.0))
    assert (difference.largest, difference.where, difference.relative) == (0.5, (), 0.25)


# -- the published numbers --------------------------------------------------------------------

V = 49_152
KINDS = list(PUBLISHED_NUMBERS)


def as_ids(text: str) -> list[int]:
    return [int(token) for token in text.split()]


VILLAGE, CAPITAL, GRAVITY = map(as_ids, (published.VILLAGE, published.CAPITAL, published.GRAVITY))


def places(weights: str):
    """(text so far, {token: logit}) of each position that has numbers."""
    for text, positions in PUBLISHED_NUMBERS[weights]:
        for position, numbers in positions.items():
            yield tuple(as_ids(text)[: position + 1]), numbers


@functools.cache
def published_table(weights: str = "base") -> dict[tuple[int, ...], dict[int, float]]:
    """{text so far: {token: logit}}, all other logits 0, that agrees with every number.

    What the perplexity wants beyond the published positions is spread evenly over the others: a
    target of logit a among V - 1 zeros costs ln(1 + (V - 1) / e^a) nats.
    """
    table = {text: dict(numbers) for text, numbers in places(weights)}
    if weights in PUBLISHED_PERPLEXITY:
        nats, rest = (len(VILLAGE) - 1) * math.log(PUBLISHED_PERPLEXITY[weights]), []
        for i, target in enumerate(VILLAGE[1:], 1):
            text = tuple(VILLAGE[:i])
            if text not in table:
                rest.append((text, target))
                continue
            table[text].setdefault(target, min(table[text].values()) - 0.9)
            row = torch.zeros(V, dtype=torch.float64)
            for token, logit in table[text].items():
                row[token] = logit
            nats += row.log_softmax(0)[target].item()
        logit = math.log(V - 1) - math.log(math.expm1(nats / len(rest)))
        table.update({text: {target: logit} for text, target in rest})
    if weights in PUBLISHED_GREEDY:
        whole = GRAVITY + as_ids(PUBLISHED_GREEDY[weights])
        for i in range(len(GRAVITY), len(whole)):
            table[tuple(whole[:i])] = {whole[i]: 9.0}
    return table


def speak_from(table):
    def logits(ids):
        out = torch.zeros(1, ids.size(1), V)
        text = tuple(ids[0].tolist())
        for i in range(len(text)):
            for token, logit in table.get(text[: i + 1], {}).items():
                out[0, i, token] = logit
        return out

    return logits


def failed_rows(table, weights: str) -> list[str]:
    rows = check_published(speak_from(table), weights)
    return [what for what, _, _, agrees in rows if not agrees]


@pytest.mark.parametrize("weights", KINDS)
def test_the_published_numbers_agree_with_themselves(weights):
    rows = check_published(speak_from(published_table(weights)), weights)
    assert all(agrees for *_, agrees in rows), rows
    whole = (weights in PUBLISHED_PERPLEXITY) + (weights in PUBLISHED_GREEDY)
    assert len(rows) == sum(len(numbers) for _, numbers in places(weights)) + whole
    if whole:
        assert [what for what, *_ in rows[-2:]] == ["perplexity", "greedy tokens equal"]


def test_without_a_word_the_numbers_are_the_base_models():
    rows = check_published(speak_from(published_table("base")))
    assert rows[0][:2] == ("position 0, logit of 346", 26.3904)
    assert all(agrees for *_, agrees in rows)


@pytest.mark.parametrize("weights", ["random", "local", "", None])
def test_of_other_weights_nothing_is_known(weights):
    with pytest.raises(ValueError, match=r"weights .* is none of base, published, packaged"):
        check_published(speak_from({}), weights)


def altered(weights: str, text: list[int], changes: dict[int, float]):
    table = dict(published_table(weights))
    table[tuple(text)] = {**table.get(tuple(text), {}), **changes}
    return table


@pytest.mark.parametrize(
    "weights, text, token, logit",
    [
        (weights, text, token, logit)
        for weights in KINDS
        for text, numbers in places(weights)
        for token, logit in numbers.items()
    ],
)
@pytest.mark.parametrize("error", [0.003, -0.003])
def test_one_logit_that_is_off_fails_its_row(weights, text, token, logit, error):
    row = f"position {len(text) - 1}, logit of {token}"
    assert failed_rows(altered(weights, text, {token: logit + error}), weights) == [row]
    assert failed_rows(altered(weights, text, {token: logit + error / 3}), weights) == []


@pytest.mark.parametrize("weights", KINDS)
def test_another_top_token_fails_its_rows(weights):
    """Every published logit is right, and the model would still say something else."""
    numbers = dict(places(weights))[tuple(CAPITAL)]
    other = altered(weights, CAPITAL, {7: max(numbers.values()) + 0.1})
    assert failed_rows(other, weights) == [f"position 4, logit of {token}" for token in numbers]


@pytest.mark.parametrize("weights", PUBLISHED_PERPLEXITY)
def test_a_perplexity_that_is_off_fails_its_row(weights):
    text, target = VILLAGE[:10], VILLAGE[10]
    logit = published_table(weights)[tuple(text)][target]
    assert failed_rows(altered(weights, text, {target: logit + 0.01}), weights) == ["perplexity"]


@pytest.mark.parametrize("weights", PUBLISHED_GREEDY)
@pytest.mark.parametrize("position", [3, 12, 22])
def test_one_greedy_token_that_is_off_fails_its_row(weights, position):
    text = (GRAVITY + as_ids(PUBLISHED_GREEDY[weights]))[:position]
    assert failed_rows(altered(weights, text, {7: 10.0}), weights) == ["greedy tokens equal"]


def test_a_random_model_fails_every_row():
    torch.manual_seed(0)
    model = smol.model.SmolLM2(tiny_config(vocab_size=V))
    for weights in KINDS:
        assert not any(agrees for *_, agrees in check_published(model, weights))


@needs_real
def test_the_packaged_model_agrees_and_one_with_a_bug_does_not():
    """With θ = 10,000 it has the lower perplexity, and no logit is right."""
    model = load_pretrained(REAL)
    rows = check_published(model, "packaged")
    assert all(agrees for *_, agrees in rows), rows
    rows = check_published(MUTANTS["theta_10000"](model), "packaged")
    agree = {what for what, _, _, agrees in rows if agrees}
    assert agree <= {"greedy tokens equal"}, rows
    ((wanted, got),) = [row[1:3] for row in rows if row[0] == "perplexity"]
    assert got < wanted


def test_notebook_1_prints_the_published_numbers():
    """Its tables and the constants were typed in twice: a slip in one would show."""
    notebook = Path(smol.model.__file__).parents[1] / "notebooks" / "01_inspect.ipynb"
    page = "".join(c.source for c in nbformat.read(notebook, as_version=4).cells)
    names = {346: "you", 260: "the", 253: "a", 655: "time", 7042: "Paris", 3807: "located"}
    names.update({4528: "London", 2250: "Le"})
    for weights in KINDS:
        for token, logit in [p for _, numbers in places(weights) for p in numbers.items()]:
            shown = map(float, re.findall(rf"·{names[token]} (\d+\.\d{{3}})", page))
            assert any(abs(number - logit) < 6e-4 for number in shown), (names[token], logit)
    for perplexity in PUBLISHED_PERPLEXITY.values():
        assert f"{perplexity:.4f}" in page
