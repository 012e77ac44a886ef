"""Notebook 7: its reader's filter and loops are held against the library's, each slip is named."""

from pathlib import Path

import nbformat
import pytest
import torch

from smol.generate import generate
from smol.generate.sampling import keep_min_p, keep_top_k, keep_top_p
from smol.lesson.checks.generate import (
    check_beam,
    check_choices,
    check_keep_top_p,
    check_sample,
    check_speculate,
    check_until,
    check_write_cached,
)
from smol.lesson.checks.slips_generate import (
    CHOICES,
    SAMPLE,
    SPECULATE,
    TOP_P,
    WRITE_CACHED,
    cached_loop,
    filtered,
    sampler,
    without_a_cache,
)
from smol.lesson.exercise import SMALL
from smol.model import SmolLM2
from smol.tests.answers import beam_search, until
from smol.tests.solutions import solutions
from smol.tests.test_exercises import verdict_on

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "07_generate.ipynb"


def downwards(logits, p):
    """Right, and another way than the package's: see the card."""
    if p is None:
        return logits
    values, order = logits.sort(descending=True)
    likely = values.softmax(-1)
    drop = likely.cumsum(-1) - likely >= p
    return logits.masked_fill(drop.scatter(1, order, drop), float("-inf"))


def row_by_row(logits, p):
    """Right, in plain Python."""
    kept = torch.full_like(logits, float("-inf"))
    for row, out in zip(logits, kept, strict=True):
        together = 0.0
        for i in row.argsort(descending=True).tolist():
            if p is not None and together >= p:
                break
            out[i], together = row[i], together + row.double().softmax(-1)[i].item()
    return kept


def by_border(logits, p):
    """Keeps all that are as likely as the last one kept: of equal ones, too many."""
    if p is None:
        return logits
    values, _ = logits.sort(descending=True)
    likely = values.softmax(-1)
    inside = values.masked_fill(likely.cumsum(-1) - likely >= p, float("inf"))
    return logits.masked_fill(logits < inside.amin(-1, keepdim=True), float("-inf"))


@torch.no_grad()
def one_pass_more(model, ids, new):
    """Right, and the last token is read in vain."""
    cache = model.new_cache(len(ids), ids.size(1) + new)
    logits = model(ids, cache)[:, -1]
    for _ in range(new):
        fresh = logits.argmax(-1, keepdim=True)
        ids = torch.cat((ids, fresh), dim=1)
        logits = model(fresh, cache=cache)[:, -1]
    return ids


CHECKS = {
    "keep_top_p": check_keep_top_p,
    "sample": check_sample,
    "write_cached": check_write_cached,
}
RIGHT = {
    "keep_top_p": [keep_top_p, downwards, row_by_row],
    "sample": [sampler()],
    "write_cached": [cached_loop(), one_pass_more],
}
SLIPS = {"keep_top_p": TOP_P, "sample": SAMPLE, "write_cached": WRITE_CACHED}


@pytest.mark.parametrize("name", CHECKS)
def test_a_right_answer_is_exact_and_kept(name, capsys):
    state = torch.get_rng_state()
    for answer in RIGHT[name]:
        assert CHECKS[name](answer) is answer
        assert capsys.readouterr().out.startswith("exact: ")
    instead = CHECKS[name](lambda *_: ...)
    assert capsys.readouterr().out == "not attempted yet\n"
    assert CHECKS[name](instead) is instead  # what goes on in the reader's place is right
    assert capsys.readouterr().out.startswith("exact: ")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "says"), [(name, says) for name, slips in SLIPS.items() for says in slips]
)
def test_each_slip_is_named_by_its_own_sentence(name, says):
    assert len(SLIPS[name]) >= 3
    line = verdict_on(CHECKS[name], SLIPS[name][says])
    assert line.startswith("not yet: ") and line.endswith(says), line


def shifted(logits, p):
    """As transformers once had it: the decision moved on by one. A third of four equal ones."""
    values, order = logits.sort(descending=True)
    drop = values.softmax(-1).cumsum(-1) > p
    drop = torch.cat((torch.zeros_like(drop[:, :1]), drop[:, :-1]), dim=1)
    return logits.masked_fill(drop.scatter(1, order, drop), float("-inf"))


def strictly_below(logits, p):
    """Keeps while the sum is less than p: of four equal ones, p = 0.5, a single one."""
    values, order = logits.sort(descending=True)
    keep = values.softmax(-1).cumsum(-1) < p
    return logits.masked_fill(~keep.scatter(1, order, keep), float("-inf"))


def test_other_mistakes_with_top_p_are_told():
    def without_none(logits, p):
        return downwards(logits, p + 0)

    def last_of_equal_ones(logits, p):
        return downwards(logits.flip(-1), p).flip(-1)

    assert verdict_on(check_keep_top_p, last_of_equal_ones).startswith("exact")
    for answer, said in (
        (by_border, "p = 0.5: you keep 4 of the four equal ones, should be 2 (whichever)"),
        (without_none, "it raised TypeError: unsupported operand type(s) for +: 'NoneType' and"),
        (strictly_below, "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: the token that crosses the line is"),
        (shifted, "four equal ones, p = 0.5: a token too many: those before it have exactly p"),
        (lambda x, p: downwards(x, p or 1.0) - 1, "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: the right"),
        (lambda x, p: downwards(x, p).log_softmax(-1), "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: the"),
        (lambda x, p: downwards(x, p).clamp(min=-1e9), "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: a dr"),
        (
            lambda x, p: downwards(x, 0.3),
            "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: in row 0 you keep [",
        ),
        (lambda x, p: x.fill_(0.0), "your function changes the logits that it was given"),
        (lambda x, p: downwards(x, p)[0], "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: your answer is ["),
        (lambda x, p: downwards(x, p or 0.5), "p is None: no filter is wanted"),
        (lambda x, p: downwards(x, p) * torch.nan, "1/8, 1/16, 1/2, 1/16, 1/4, p = 0.8: there is"),
    ):
        assert verdict_on(check_keep_top_p, answer).startswith(f"not yet: {said}"), said
    assert "p may be None: no filter is wanted" in verdict_on(check_keep_top_p, without_none)


def test_other_mistakes_with_the_loop_are_told():
    def raw(logits, generator):
        return torch.multinomial(logits, 1, generator=generator)

    def first_three(model, ids, new, *rest):
        return sampler()(model, ids, new, *rest)[:, :8]

    def filtered_probabilities(logits, temperature, *filters):
        return filtered((logits / temperature).softmax(-1), 1.0, *filters)

    def tempered_probabilities(model, ids, new, temperature, top_k, top_p, min_p, generator):
        def draw(logits, generator):
            return torch.multinomial(logits.softmax(-1) / temperature, 1, generator=generator)

        loop = sampler(choose=draw)
        return loop(model, ids, new, 1.0, top_k, top_p, min_p, generator)

    @torch.no_grad()
    def all_in_one_draw(model, ids, new, temperature, *rest):
        p = (model(ids)[:, -1] / temperature).softmax(-1)
        return torch.cat((ids, torch.multinomial(p, new, generator=rest[-1])), dim=1)

    every_place = sampler(read=lambda model, ids: model(ids))
    other = sampler(choose=lambda x, g: torch.randint(256, (len(x), 1), generator=g))
    for answer, said in (
        (sampler(choose=raw), "it raised RuntimeError: probability tensor contains"),
        (sampler(choose=lambda x, g: torch.multinomial(x.softmax(-1), 1)), "the generator is not"),
        (lambda m, ids, *rest: sampler()(m, ids, *rest)[:, 5:], "the prompt is missing"),
        (first_three, "12 tokens after 5, in 2 texts: your answer is [2, 8], should be [2, 17]"),
        (lambda *args: sampler()(*args).float(), "your answer is torch.float32, ids are"),
        (lambda *args: sampler()(*args) + 1, "your answer does not begin with the prompt"),
        (sampler(filtered_probabilities, raw), "the filters take logits, you gave probabilities"),
        (tempered_probabilities, "the temperature is not used, or only after softmax"),
        (all_in_one_draw, "the model is run once"),
        (
            every_place,
            "it raised RuntimeError: prob_dist must be 1 or 2 dim. Logits of the last pl",
        ),
        (other, "temperature 0.7, top_k None, top_p None, min_p None: other ids than those of"),
    ):
        assert verdict_on(check_sample, answer).startswith(f"not yet: {said}"), said
    assert "softmax(-1) first" in verdict_on(check_sample, sampler(choose=raw))


def test_other_mistakes_with_the_cached_loop_are_told():
    @torch.no_grad()
    def one_by_one(model, ids, new):
        cache = model.new_cache(len(ids), ids.size(1) + new)
        for column in ids.T:
            logits = model(column[:, None], cache)[:, -1]
        for _ in range(new):
            fresh = logits.argmax(-1, keepdim=True)
            ids, logits = torch.cat((ids, fresh), dim=1), model(fresh, cache)[:, -1]
        return ids

    def new_one(model, cache):
        return model.new_cache(2, 30)

    def emptied(model, cache):
        cache.reset()
        return cache

    whole = cached_loop(later=lambda ids: ids, anew=emptied)
    second = cached_loop(later=lambda ids: ids)  # with a cache of the right length, it overflows
    for answer, said in (
        (one_by_one, "the prompt is not read as a whole"),
        (second, "the whole text is fed again"),
        (whole, "the cache is emptied at each step"),
        (cached_loop(anew=new_one), "a new cache in each step keeps nothing"),
        (lambda m, ids, new: cached_loop()(m, ids, new)[:, 7:], "the prompt is missing"),
        (lambda m, ids, new: ids, "the model was not run"),
        (lambda m, ids, new: m(ids, 5), "it raised AttributeError"),
    ):
        assert verdict_on(check_write_cached, answer).startswith(f"not yet: {said}"), said
    passes = "exact: the ids of `write`, and {} token passes in place of 150"
    assert verdict_on(check_write_cached, cached_loop()) == passes.format(18)
    in_vain = passes.format(19) + ": one more than needed: the last token need not be read"
    assert verdict_on(check_write_cached, one_pass_more) == in_vain


def drafting(otherwise, ratio=None, draft=None, always=False):
    """Speculative sampling with one of its parts exchanged."""

    def speculate(p, q, generator):
        def draw(weights):
            return torch.multinomial(weights, 1, generator=generator).item()

        token = draw(q if draft is None else draft(p, q))
        likely = p[token] / q[token] if ratio is None else ratio(p, q)[token]
        if always or torch.rand(1, generator=generator).item() < likely:
            return token, True
        return draw(otherwise(p, q)), False

    return speculate


def test_each_slip_of_speculation_is_named():
    def rest(p, q):
        return (p - q).clamp(min=0)

    answers = (
        drafting(lambda p, q: p),
        drafting(lambda p, q: q),
        drafting(lambda p, q: (p - q).abs()),
        drafting(rest, ratio=lambda p, q: q / p),
        drafting(rest, always=True),
        drafting(rest, draft=lambda p, q: p, always=True),
    )
    assert verdict_on(check_speculate, drafting(rest)) == "correct"
    for says, answer in zip(SPECULATE, answers, strict=True):
        assert verdict_on(check_speculate, answer).endswith(says), says


@pytest.mark.parametrize("says", CHOICES)
def test_each_slip_of_the_width_is_named(says):
    assert verdict_on(check_choices, CHOICES[says]).endswith(says)


def test_what_the_slips_are_held_against_is_what_the_notebook_shows():
    """The solutions on the cards are the right answers of the checks, in their ids and numbers."""
    found = {s.number: s.code for s in solutions(nbformat.read(NOTEBOOK, as_version=4))}
    space = {"torch": torch, "keep_top_k": keep_top_k, "keep_min_p": keep_min_p}
    for number in ("7.2", "7.3", "7.4"):
        exec(found[number], space)
    torch.manual_seed(0)
    model, ids = SmolLM2(SMALL).eval(), torch.randint(256, (1, 4))
    assert torch.equal(space["write_cached"](model, ids, 9), without_a_cache(model, ids, 9))
    drawn = space["sample"](model, ids, 9, 1.2, 50, 0.9, 0.01, torch.Generator().manual_seed(3))
    settings = {"temperature": 1.2, "top_k": 50, "top_p": 0.9, "min_p": 0.01}
    theirs = generate(model, ids, 9, generator=torch.Generator().manual_seed(3), **settings)
    assert torch.equal(drawn, theirs)


def test_stop_strings_and_beams_say_why():
    def first_in_the_list(pieces, stop):
        text = "".join(pieces)
        for s in stop:
            if s in text:
                text = text[: text.index(s)]
        yield text

    def without_min(log_probs, prompt, width, steps):
        ids, scores = torch.tensor([prompt]), torch.zeros(1)
        for _ in range(steps):
            longer = scores[:, None] + log_probs(ids)
            scores, best = longer.flatten().topk(width)
            rows, tokens = best // longer.size(1), best % longer.size(1)
            ids = torch.cat((ids[rows], tokens[:, None]), dim=1)
        return ids[0].tolist()

    assert "hold it back" in verdict_on(check_until, lambda pieces, stop: pieces)
    assert "not yet" in verdict_on(check_until, first_in_the_list)
    held = verdict_on(check_until, lambda p, s: until(p, s, lambda held, stop: len(held)))
    assert "hold back only what may begin a stop string" in held
    assert "fewer continuations than 125" in verdict_on(check_beam, without_min)
    greedy = verdict_on(check_beam, lambda f, p, w, s: beam_search(f, p, 1, s))
    assert greedy.endswith("that is greedy's, so what else was kept is lost")
    wider = verdict_on(check_beam, lambda f, p, w, s: beam_search(f, p, 1000, s))
    assert wider == "not yet: width 1: more texts are kept than that: topk(width)"
    missing = verdict_on(check_beam, lambda *a: beam_search(*a)[1:])
    assert missing == "not yet: the prompt is missing: give back its ids as well"
