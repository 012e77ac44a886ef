"""Notebook 8's second half: each slip is named, and the stand-ins are what they stand for."""

import math

import pytest
import torch
import torch.nn.functional as F

from smol.generate import fixed as steps
from smol.generate import generate
from smol.lesson import figures
from smol.lesson.backend import counted
from smol.lesson.checks import fixed
from smol.lesson.checks.fixed import ONE_QUERY, check_one_query, check_replayed, check_run_blocks
from smol.lesson.checks.slips_train import all_of
from smol.lesson.exercise import SMALL
from smol.lesson.graph import Graph, new_graph, recording
from smol.model import SmolLM2, eager_attention
from smol.tests.answers_fixed import replayed, run_blocks, step
from smol.tests.test_exercises import verdict_on

# -- 8.4: one compilation for all layers ----------------------------------------------------------


def with_weights(blocks, x, cache, at, compile):
    """Right: a function of tensors alone."""

    def step(x, q, k_w, v_w, out, k, v, at):
        k.index_copy_(1, at, F.linear(x, k_w))
        v.index_copy_(1, at, F.linear(x, v_w))
        seen = torch.arange(k.size(1)) <= at
        scores = F.linear(x, q) @ k.mT * x.size(-1) ** -0.5
        scores = scores.masked_fill(~seen, float("-inf"))
        return x + F.linear(scores.softmax(-1) @ v, out)

    step = compile(step)
    for b, k, v in zip(blocks, cache.k, cache.v, strict=True):
        x = step(x, b.q.weight, b.k.weight, b.v.weight, b.out.weight, k, v, at)
    return x


def number_in_a_tensor(blocks, x, cache, at, compile):
    """Right: the number is data then. It copies a layer's part to read it."""

    def step(block, x, cache_k, cache_v, number, at):
        cache_k[number, :, at] = block.k(x)[:, 0]
        cache_v[number, :, at] = block.v(x)[:, 0]
        k, v = (t.index_select(0, number)[0] for t in (cache_k, cache_v))
        seen = torch.arange(k.size(1)) <= at
        scores = (block.q(x) @ k.mT * x.size(-1) ** -0.5).masked_fill(~seen, float("-inf"))
        return x + block.out(scores.softmax(-1) @ v)

    step = compile(step)
    for i, block in enumerate(blocks):
        x = step(block, x, cache.k, cache.v, torch.tensor([i]), at)
    return x


def as_it_was(blocks, x, cache, at, compile):
    one = compile(lambda block, x, cache, at: block(x, cache, at))
    for block in blocks:
        x = one(block, x, cache, at)
    return x


def number_as_an_argument(blocks, x, cache, at, compile):
    one = compile(lambda block, x, i, at: step(block, x, cache.k[i], cache.v[i], at))
    for i, block in enumerate(blocks):
        x = one(block, x, i, at)
    return x


def number_as_a_default(blocks, x, cache, at, compile):
    for i, block in enumerate(blocks):
        x = compile(lambda x, at, i=i, b=block: step(b, x, cache.k[i], cache.v[i], at))(x, at)
    return x


def number_from_outside(blocks, x, cache, at, compile):
    for i, block in enumerate(blocks):
        x = compile(lambda x, at: step(block, x, cache.k[i], cache.v[i], at))(x, at)  # noqa: B023
    return x


def copied_parts(blocks, x, cache, at, compile):
    one = compile(lambda b, x, k, v, i, at: step(b, x, *(t[i][0] for t in (k, v)), at))
    for i, block in enumerate(blocks):
        x = one(block, x, cache.k, cache.v, torch.tensor([i]), at)
    return x


def a_new_cache(block, x, k, v, at):
    new = block.k(x), block.v(x)
    k, v = (torch.cat((t[:, :2], n, t[:, 3:]), 1) for t, n in zip((k, v), new, strict=True))
    seen = torch.arange(k.size(1)) <= at
    scores = (block.q(x) @ k.mT * x.size(-1) ** -0.5).masked_fill(~seen, float("-inf"))
    return x + block.out(scores.softmax(-1) @ v)


def all_at_once(blocks, x, cache, at, compile):
    def whole(x, at):
        for block, k, v in zip(blocks, cache.k, cache.v, strict=True):
            x = step(block, x, k, v, at)
        return x

    return compile(whole)(x, at)


def without_a_mask(block, x, k, v, at):
    k.index_copy_(1, at, block.k(x))
    v.index_copy_(1, at, block.v(x))
    return x + block.out((block.q(x) @ k.mT * x.size(-1) ** -0.5).softmax(-1) @ v)


def at_as_a_number(blocks, x, cache, at, compile):
    def one(block, x, k, v, at):
        k[:, at : at + 1], v[:, at : at + 1] = block.k(x), block.v(x)
        scores = block.q(x) @ k[:, : at + 1].mT * x.size(-1) ** -0.5
        return x + block.out(scores.softmax(-1) @ v[:, : at + 1])

    return run_blocks(blocks, x, cache, at.item(), compile, one)


def only_softmax(blocks, x, cache, at, compile):
    softmax = compile(lambda scores: scores.softmax(-1))
    for block, k, v in zip(blocks, cache.k, cache.v, strict=True):
        k.index_copy_(1, at, block.k(x))
        v.index_copy_(1, at, block.v(x))
        seen = torch.arange(k.size(1)) <= at
        scores = (block.q(x) @ k.mT * x.size(-1) ** -0.5).masked_fill(~seen, float("-inf"))
        x = x + block.out(softmax(scores) @ v)
    return x


def looked_at(block, x, k, v, at):
    return step(block, x, k[:, : at.item() + 1], v[:, : at.item() + 1], at)


def in_place(blocks, x, cache, at, compile):
    return x.copy_(run_blocks(blocks, x, cache, at, compile))


LAYERS_SAID = "4 compilations for 4 layers: what is compiled still reads something of Python's"
BLOCKS = [
    (as_it_was, LAYERS_SAID),
    (number_as_an_argument, LAYERS_SAID),
    (number_as_a_default, LAYERS_SAID),
    (number_from_outside, LAYERS_SAID),
    (
        all_at_once,
        "operations holds all layers: compile what one layer does, and call it for each",
    ),
    (copied_parts, "cache.k, column 2: nothing was written. Write into the layer's part in place"),
    (
        lambda *about: run_blocks(*about, a_new_cache),
        "cache.k, column 2: nothing was written. Write into the layer's part in place",
    ),
    (
        lambda *about: run_blocks(*about, parts=lambda i: 0),
        "cache.k, column 2: only layer 0 was written: each has a part of its own, cache.k[i]",
    ),
    (
        lambda b, x, c, at, _: run_blocks(b, x, c, at, lambda f: f),
        "nothing was compiled: call what",
    ),
    (
        lambda *about: run_blocks(*about, without_a_mask),
        "cache.k, column 2: layer 0's is right, a later layer's is not: what comes out of a layer",
    ),
    (only_softmax, "what is compiled holds 0 products, a layer has 6: compile all"),
    (at_as_a_number, "2 compilations after 2 tokens: `at` must stay a tensor"),
    (lambda *about: run_blocks(*about, looked_at), "what is compiled must not look into a tensor"),
    (lambda b, x, *rest: (run_blocks(b, x, *rest), x)[1], "x of token 0 is off: "),
    (in_place, "your function changes x or at, which are only to be read"),
    (lambda b, x, c, at, _: x, "cache.k, column 2: nothing was written"),
    (lambda b, *_: b[0].nothing, "it raised AttributeError: "),
]


@pytest.mark.parametrize("answer", [run_blocks, with_weights, number_in_a_tensor])
def test_one_compilation_for_all_layers_is_right_however_it_is_written(answer):
    said = "exact: one compilation for four layers and three tokens, and the numbers as before"
    assert verdict_on(check_run_blocks, answer) == said


@pytest.mark.parametrize(("answer", "said"), BLOCKS)
def test_what_is_compiled_for_each_layer_is_named(answer, said):
    line = verdict_on(check_run_blocks, answer)
    assert line.startswith("not yet: ") and said in line, line


# -- 8.5: a step that is replayed -----------------------------------------------------------------


def in_numbers(*about):
    """Right: each look waits for the step, on a GPU."""
    graph, step, batches, rates = about
    ids, rate, losses = torch.empty_like(batches[0]), torch.zeros(()), []
    ids.copy_(batches[0])
    with recording(graph):
        loss = step(ids, rate)
    for batch, new in zip(batches, rates, strict=True):
        ids.copy_(batch)
        rate.fill_(new)
        graph.replay()
        losses.append(loss.item())
    return losses


def warmed_up(graph, step, batches, rates):
    """Right, as the package does it: the first steps are taken, and count."""
    losses = [step(batches[0], torch.tensor(rates[0]))]
    ids, rate = batches[1].clone(), torch.tensor(rates[1])
    with recording(graph):
        loss = step(ids, rate)
    for batch, new in zip(batches[1:], rates[1:], strict=True):
        ids.copy_(batch)
        rate.fill_(new)
        graph.replay()
        losses.append(loss.clone())
    return losses


def a_number_recorded(graph, step, batches, rates):
    return replayed(graph, lambda ids, rate: step(ids, rates[0]), batches, rates)


def looks_while_recording(graph, step, batches, rates):
    return replayed(graph, lambda ids, rate: step(ids, rate).item(), batches, rates)


def plain(graph, step, batches, rates):
    return [step(batch, torch.tensor(rate)) for batch, rate in zip(batches, rates, strict=True)]


def copied_too_late(graph, step, batches, rates, rate_too=True):
    ids, rate, losses = batches[0].clone(), torch.tensor(rates[0]), []
    with recording(graph):
        loss = step(ids, rate)
    for batch, new in zip(batches, rates, strict=True):
        rate.fill_(rate if rate_too else new)
        graph.replay()
        losses.append(loss.clone())
        ids.copy_(batch)
        rate.fill_(new)
    return losses


def all_in_one(graph, step, batches, rates):
    with recording(graph):
        losses = plain(graph, step, batches, rates)
    graph.replay()
    return losses


def by_pytorchs_name(graph, step, batches, rates):
    with torch.cuda.graph(graph):
        return [step(batches[0], torch.tensor(rates[0]))] * 4


def into_an_empty_buffer(graph, step, batches, rates):
    """What is in it may be no id. Here it never is."""
    return replayed(
        graph, lambda ids, rate: step(torch.full_like(ids, 10**9), rate), batches, rates
    )


def with_(**slip):
    return lambda *about: replayed(*about, **slip)


REPLAYS = [
    (with_(ids="stale"), "every replay read the first batch: the graph reads where it lay"),
    (with_(rate="old"), "every replay took the first rate: a number is recorded for ever"),
    (a_number_recorded, "every replay took the first rate: a number is recorded for ever"),
    (with_(ids="stale", rate="old"), "read the first batch and took the first rate"),
    (with_(ids="exchanged"), "every replay read the first batch: the graph reads where it lay"),
    (with_(warm=1), "a step more was taken before the first: to warm up trains as well"),
    (with_(counted=True), "the first loss is NaN: recording computes nothing, replay first"),
    (with_(back="buffer"), "the losses are one and the same tensor, which each replay overwrites"),
    (with_(buffer="the batch"), "your buffer is the first batch itself, and copy_ wrote over it"),
    (with_(anew=True), "already owns a captured graph: record once, before the loop"),
    (with_(most=3), "4 batches: the losses that come back: 3, should be 4"),
    (copied_too_late, "each replay read the batch before: copy the new one first"),
    (
        lambda *about: copied_too_late(*about, rate_too=False),
        "each replay read the batch before: copy the new one first",
    ),
    (all_in_one, "1 replays for 4 batches: record one step, and replay it for each batch"),
    (by_pytorchs_name, "recording(graph) works on a CPU, too"),
    (into_an_empty_buffer, "let the buffer begin as a real batch, batches[0].clone()"),
    (plain, "4 steps and no replay: record one step, then graph.replay() for each batch"),
    (looks_while_recording, "while it records nothing may ask for a value"),
    (lambda graph, *_: graph.replay(), "record first: with recording(graph): …"),
    (
        lambda graph, *rest: (replayed(graph, *rest), graph.replay())[0],
        "the losses are right, the weights are not: a step more was taken",
    ),
    (lambda graph, step, batches, rates: [5.0] * 4, "the loss of batch 0 is 5, plain steps give"),
]


@pytest.mark.parametrize("answer", [replayed, in_numbers, warmed_up])
def test_replayed_steps_are_right_however_they_are_written(answer):
    said = "exact: the losses and weights of plain steps, to the bit"
    if answer is in_numbers:
        said += ". But each .item() waits for the GPU: keep a clone() instead"
    assert verdict_on(check_replayed, answer) == said


@pytest.mark.parametrize(("answer", "said"), REPLAYS)
def test_what_a_replay_gets_wrong_is_named(answer, said):
    line = verdict_on(check_replayed, answer)
    assert line.startswith("not yet: ") and said in line, line


# -- 8.6: attention for one query -----------------------------------------------------------------


def written_out(q, k, v, mask):
    rows = q.unflatten(1, (k.size(1), -1))[:, :, :, 0]
    scores = torch.einsum("bkgd,bksd->bkgs", rows, k) / math.sqrt(q.size(-1))
    weights = torch.where(mask, scores, -math.inf).softmax(-1)
    return torch.einsum("bkgs,bksd->bkgd", weights, v).flatten(1, 2)[:, :, None]


def head_by_head(q, k, v, mask):
    group = q.size(1) // k.size(1)
    heads = []
    for h in range(q.size(1)):
        scores = q[:, h] @ k[:, h // group].mT * q.size(-1) ** -0.5
        shares = scores.masked_fill(~mask[:, 0], -math.inf).softmax(-1)
        heads.append(shares @ v[:, h // group])
    return torch.stack(heads, dim=1)


def the_judge(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def test_attention_for_one_query_is_right_however_it_is_written():
    said = "correct: PyTorch's own attention up to rounding, and no key was copied"
    for answer in (written_out, fixed._one_query):
        assert verdict_on(check_one_query, answer) == said
    said = (
        "correct: PyTorch's own attention up to rounding, but keys or values were copied 3 times"
    )
    assert verdict_on(check_one_query, eager_attention).startswith(said)
    said = "correct: PyTorch's own attention up to rounding, but it took 18 products"
    assert verdict_on(check_one_query, head_by_head).startswith(said)


@pytest.mark.parametrize("says", ONE_QUERY)
def test_each_slip_of_attention_is_named(says):
    for slip in all_of(ONE_QUERY[says]):
        line = verdict_on(check_one_query, slip)
        assert line == f"not yet: 9 heads, 3 key heads: {says}", line


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda q, k, v, m: fixed._one_query(
                q, k, v, m, rows=lambda q: q.view(len(q), q.size(1) // k.size(1), k.size(1), -1)
            ),
            "the key heads first, then the queries that share one: q.view(B, K, H // K, hd)",
        ),
        (lambda q, k, v, m: q @ k.mT, "the key heads first, then the queries that share one"),
        (
            lambda q, k, v, m: q.view(1, 3, 5, 16),
            "with H heads and K key heads a group has H // K",
        ),
        (lambda q, k, v, m: v.mul_(2)[:, :, :1], "your function changes what it was given"),
        (lambda q, k, v, m: q, "your answer is off: 0 % right"),
        (the_judge, "that is the judge itself: write it out"),
    ],
)
def test_what_attention_raises_has_a_cause(answer, said):
    line = verdict_on(check_one_query, answer)
    assert line.startswith("not yet: ") and said in line, line


# -- what stands in for a GPU's graphs, and for a compiler ----------------------------------------


def test_a_graph_records_and_computes_nothing_until_it_is_replayed():
    graph, x, w = new_graph(torch.device("cpu")), torch.ones(3), torch.ones(3)
    assert isinstance(graph, Graph)
    with recording(graph):
        y = x * 2
        w.add_(y)
    assert y.isnan().all() and torch.equal(w, torch.ones(3))
    for turn in (1, 2):
        x.fill_(turn)
        graph.replay()
        assert torch.equal(y, torch.full((3,), 2.0 * turn))
    assert torch.equal(w, torch.full((3,), 7.0))


def test_a_graph_is_recorded_once_and_before_it_is_replayed():
    graph = Graph()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()
    with recording(graph):
        torch.ones(3) * 2
    with pytest.raises(RuntimeError, match="already owns a captured graph"), recording(graph):
        pass


def test_on_cuda_the_graphs_are_pytorchs_own(monkeypatch):
    class Real:
        pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Real)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: ("captures", graph))
    graph = new_graph(torch.device("cuda"))
    assert isinstance(graph, Real) and recording(graph) == ("captures", graph)


def test_a_value_is_no_ones_to_look_at_while_a_graph_records():
    x = torch.ones(3)
    refused = pytest.raises(RuntimeError, match="not permitted when stream is capturing")
    with refused, recording(Graph()):
        x.sum().item()
    assert x.sum().item() == 3  # and then it may be


def test_what_would_be_compiled_is_counted_and_run_as_it_is():
    ids, compile = torch.tensor([[1, 2, 3]]), torch.compile
    model = SmolLM2(SMALL).eval()
    want = generate(model, ids, 20)
    with counted() as graphs:
        assert torch.equal(generate(model, ids, 20, compile=True), want)
        assert len(graphs) == 4 and any("logsumexp" in graph for graph in graphs)
        generate(model, ids, 30, compile=True)
        assert len(graphs) == 4
    assert torch.compile is compile
    assert model not in steps._kept and steps.compiled.cache_info().currsize == 0
    with counted() as again:  # nothing of it is left
        generate(model, ids, 20, compile=True)
    assert len(again) == 4


def test_the_figures_say_what_they_show(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    figures.fused_norm()
    figures.launched()
    figures.shared_keys(8, 2)
    figures.ladder({"plain": 18.3, "captured": 0.99}, "ms a token", ("the bytes", 0.07))
    figures.ladder({"plain": 69, "captured": 10}, "ms a step")
    said = [data["text/plain"].removeprefix("Figure: ") for data in shown]
    assert "x is read 4 times and written 3 times, and as one: once each" in said[0]
    assert said[1].startswith("7 short kernels: launched one by one the GPU waits; replayed: ")
    assert said[2] == "8 queries: with copies 8 reads of the keys, as rows 2"
    assert said[3] == "ms a token: plain 18.3, captured 0.99; the bytes 0.07"
    assert said[4] == "ms a step: plain 69, captured 10"
    assert all(len(data["image/png"]) > 2000 for data in shown)
