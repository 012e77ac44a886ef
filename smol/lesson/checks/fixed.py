"""The checks of notebook 8's second half: one compilation for all layers, a step that is replayed,
attention for one query. The first half: fast.py.

The tests hand in each classic wrong answer, and read the sentence that names it.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from smol.lesson import kind
from smol.lesson.backend import NumberedBlock, counted
from smol.lesson.checks.slips_train import ask_and_explain, named
from smol.lesson.exercise import (
    SMALL,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_like,
)
from smol.lesson.graph import Graph, tensors
from smol.lesson.kind import NotYet
from smol.model import SmolLM2

# -- 8.4: a block that knows no number ------------------------------------------------------------


LAYERS = 4
LOOKED = (
    "what is compiled must not look into a tensor, for a GPU would be waited for: leave `at` a "
    "tensor, take all columns, and hide those behind it by a mask"
)
PRODUCTS = ("linear", "matmul", "einsum", "bmm")  # their names in a graph
RAISED_BY_BLOCKS = {"Tensor.item": LOOKED, "Data-dependent": LOOKED}


@exercise
@torch.no_grad()
def check_run_blocks(run):
    blocks = nn.ModuleList(NumberedBlock(number) for number in range(LAYERS))
    given = torch.randn(2, LAYERS, 2, 8, 16)  # keys and values; the first two columns are known
    given[..., 2:, :] = 0
    cache, theirs = (SimpleNamespace(k=t[0], v=t[1]) for t in (given.clone(), given.clone()))
    with counted() as graphs:
        # By torch's own name, which `counted` exchanges for one that compiles nothing.
        compile = lambda function: torch.compile(function, fullgraph=True, dynamic=False)  # noqa: E731
        for token in range(3):
            x, at = torch.randn(2, 1, 16), torch.tensor([2 + token])
            want = x
            for block in blocks:
                want = block(want, theirs, at)
            hand, place = x.clone(), at.clone()
            about = run, blocks, hand, cache, place, compile
            got = ask_and_explain(RAISED_BY_BLOCKS, *about, kind=kind.tensor)
            unchanged = torch.equal(hand, x) and torch.equal(place, at)
            expect(unchanged, "your function changes x or at, which are only to be read")
            _hear_the_cache(cache, theirs, 2 + token)
            expect_close(got, want, f"x of token {token}")
            _hear_the_count(graphs, token)
    return "exact: one compilation for four layers and three tokens, and the numbers as before"


def _hear_the_cache(cache, theirs, at: int) -> None:
    for name in "kv":
        got, want = getattr(cache, name), getattr(theirs, name)
        got = expect_like(got, want, f"cache.{name}")
        written = [not torch.equal(part[:, at], torch.zeros_like(part[:, at])) for part in got]
        where = f"cache.{name}, column {at}:"
        expect(any(written), f"{where} nothing was written. Write into the layer's part in place")
        few = f"{where} only layer {written.index(True)} was written"
        expect(sum(written) > 1, f"{few}: each has a part of its own, cache.{name}[i]")
        expect(all(written), f"{where} not every layer was written")
        first, *later = (_close(a, b) for a, b in zip(got, want, strict=True))
        expect(
            not first or all(later),
            f"{where} layer 0's is right, a later layer's is not: what comes out of a layer is "
            "off. x + …? The mask? This block's own weights?",
        )
        expect_close(got, want, f"cache.{name} after column {at}")


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def _hear_the_count(graphs: list[list[str]], token: int) -> None:
    expect(graphs, "nothing was compiled: call what `compile` gives back")
    expect(not any("item" in graph for graph in graphs), LOOKED)
    sizes = [len(graph) for graph in graphs]
    one_block = 20  # operations; it has 14
    expect(
        sizes[0] < 2 * one_block,
        f"one graph of {sizes[0]} operations holds all layers: compile what one layer does, and "
        "call it for each",
    )
    products = sum(name in PRODUCTS for name in graphs[0])
    few = f"what is compiled holds {products} products, a layer has 6"
    expect(products >= 4, f"{few}: compile all that a layer does")
    if token == 0:
        expect(
            len(graphs) == 1,
            f"{len(graphs)} compilations for {LAYERS} layers: what is compiled still reads "
            "something of Python's that differs from layer to layer, as block.number does",
        )
    expect(
        len(graphs) == 1,
        f"{len(graphs)} compilations after {token + 1} tokens: `at` must stay a tensor, and what "
        "is compiled must be the same function for all",
    )


# -- 8.5: a step that is replayed -----------------------------------------------------------------

RATES = (0.5, 0.25, 0.125, 0.0625)
RAISED_BY_REPLAY = {
    "already owns a captured graph": "record once, before the loop, then replay for each batch",
    "without a preceding successful capture": "record first: with recording(graph): …",
    "not permitted when stream is capturing": "while it records nothing may ask for a value: read "
    "the loss after the replay",
    "CUDA": "recording(graph) works on a CPU, too",
    "outside the vocabulary": "the stand-in looks at ids while it records: let the buffer begin "
    "as a real batch, batches[0].clone()",
}


class _Training:
    """A small model, and a step that trains it, which counts how often Python runs it."""

    def __init__(self):
        torch.manual_seed(3)
        self.model, self.calls = SmolLM2(SMALL), 0
        self.weights = [*self.model.parameters()]

    def __call__(self, ids: Tensor, rate: Tensor) -> Tensor:
        self.calls += 1
        with torch.enable_grad():
            logits = self.model(ids[:, :-1]).flatten(0, 1)
            loss = F.cross_entropy(logits, ids[:, 1:].flatten())
            gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.sub_(rate * gradient)
        return loss.detach()


def _losses(batches: list[Tensor], rates: tuple, before: int = 0) -> tuple[list[float], Tensor]:
    """Of plain steps, after `before` steps with the first batch; and the weights at the end."""
    step = _Training()
    for _ in range(before):
        step(batches[0], torch.tensor(rates[0]))
    pairs = zip(batches, map(torch.tensor, rates), strict=True)
    losses = [step(*pair).item() for pair in pairs]
    return losses, torch.cat([w.detach().flatten() for w in step.weights])


@exercise
def check_replayed(replayed):
    batches = [torch.randint(SMALL.vocab_size, (2, 9)) for _ in RATES]
    graph, step, handed = Graph(), _Training(), [b.clone() for b in batches]
    Graph.replays = 0
    about = replayed, graph, step, handed, RATES
    answer = ask_and_explain(RAISED_BY_REPLAY, *about, kind=kind.items)
    over = "your buffer is the first batch itself, and copy_ wrote over it: clone() it"
    expect(all(map(torch.equal, batches, handed)), over)
    expect_equal(len(answer), len(batches), f"{len(batches)} batches: the losses that come back")
    places = {loss.data_ptr() for loss in answer if isinstance(loss, Tensor)}
    same = "the losses are one and the same tensor, which each replay overwrites: clone() it"
    expect(len(places) != 1, same)
    got = [kind.number(loss, "one of the losses") for loss in answer]
    expect(got[0] == got[0], "the first loss is NaN: recording computes nothing, replay first")
    want, weights = _losses(batches, RATES)
    if got != want:
        _name_the_replay(got, want, batches)
    expect(
        Graph.replays > 0,
        f"{step.calls} steps and no replay: record one step, then graph.replay() for each batch",
    )
    expect(
        Graph.replays >= len(batches) - 1,  # the first step may be taken as it is
        f"{Graph.replays} replays for {len(batches)} batches: record one step, and replay it for "
        "each batch",
    )
    mine = torch.cat([w.detach().flatten() for w in step.weights])
    more = (
        "the losses are right, the weights are not: a step more was taken than there are batches"
    )
    expect(torch.equal(mine, weights), more)
    if not all(isinstance(loss, Tensor) for loss in answer):
        return (
            "exact: the losses and weights of plain steps, to the bit. But each .item() waits for "
            "the GPU: keep a clone() instead"
        )
    return "exact: the losses and weights of plain steps, to the bit"


def _name_the_replay(got: list[float], want: list[float], batches: list[Tensor]) -> None:
    first, slow = [batches[0]] * len(batches), RATES[:1] * len(RATES)
    late, late_rates = [batches[0], *batches[:-1]], (RATES[0], *RATES[:-1])
    too_late = "each replay read the batch before: copy the new one first, then replay"
    for says, made in (
        (
            "every replay read the first batch: the graph reads where it lay, so copy_ the new "
            "one there",
            _losses(first, RATES),
        ),
        (
            "every replay took the first rate: a number is recorded for ever, so record a tensor "
            "and fill_ it",
            _losses(batches, slow),
        ),
        (
            "every replay read the first batch and took the first rate: the graph reads where "
            "they lay, so copy_ and fill_ into what it was recorded with",
            _losses(first, slow),
        ),
        (
            "a step more was taken before the first: to warm up trains as well, unless the "
            "weights are put back",
            _losses(batches, RATES, before=1),
        ),
        (too_late, _losses(late, late_rates)),
        (too_late, _losses(late, RATES)),
    ):
        expect(got != made[0], says)
    pairs = enumerate(zip(got, want, strict=True))
    k, (mine, right) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
    raise NotYet(f"the loss of batch {k} is {mine:.6g}, plain steps give {right:.6g}")


# -- 8.6: attention for one query -----------------------------------------------------------------

LOW = float("-inf")


def _one_query(q, k, v, mask, /, **slip):
    """The answer, or one with a slip."""
    B, H, _, hd = q.shape
    K = k.size(1)
    rows = slip.get("rows", lambda q: q.view(B, K, H // K, hd))(q)
    scores = rows @ k.mT * slip.get("scale", hd**-0.5)
    scores = slip.get("hide", lambda s: s.masked_fill(~mask, LOW))(scores)
    weights = slip.get("softmax", lambda s: s.softmax(-1))(scores)
    return slip.get("back", lambda y: y.reshape(B, H, 1, hd))(weights @ v)


def _slip(make: Callable) -> Callable:
    """`make` gives the slip for these tensors."""
    return lambda q, k, v, mask: _one_query(q, k, v, mask, **make(q, k, mask))


def _crossed(q, k, mask) -> dict:
    (B, H, _, hd), K = q.shape, k.size(1)
    return {"rows": lambda q: q.view(B, H // K, K, hd).transpose(1, 2)}


def _heads_first(q, k) -> Callable:
    """The heads back in one dimension, but a group's first queries together."""
    return lambda y: y.transpose(1, 2).reshape(q.shape)


ONE_QUERY: dict[str, Callable | tuple] = {
    "heads 0, 1, 2 share key head 0, the next three key head 1: view(B, K, H // K, hd)": (
        _slip(_crossed)
    ),
    "the scale is missing: scores times hd ** -0.5": _slip(lambda q, k, mask: {"scale": 1.0}),
    "the scale is 1/√hd, not 1/hd": _slip(lambda q, k, mask: {"scale": 1 / q.size(-1)}),
    "the scale is of one head: hd, not H · hd": (
        _slip(lambda q, k, mask: {"scale": (q.size(1) * q.size(-1)) ** -0.5})
    ),
    "the mask came after softmax: the shares of what is left no longer add up to 1": _slip(
        lambda q, k, mask: {
            "hide": lambda s: s,
            "softmax": lambda s: s.softmax(-1).masked_fill(~mask, 0.0),
        }
    ),
    "a hidden score of 0 still has a share, e to the 0 is 1: fill in -inf": (
        _slip(lambda q, k, mask: {"hide": lambda s: s.masked_fill(~mask, 0.0)})
    ),
    "the mask is the wrong way round: True may be seen, so fill where ~mask": (
        _slip(lambda q, k, mask: {"hide": lambda s: s.masked_fill(mask, LOW)})
    ),
    "the mask is not used: empty columns of the cache got a share": (
        _slip(lambda q, k, mask: {"hide": lambda s: s})
    ),
    "softmax over the heads: over the keys, softmax(-1)": (
        _slip(lambda q, k, mask: {"softmax": lambda s: s.softmax(-2)}),
        _slip(lambda q, k, mask: {"softmax": lambda s: s.softmax(1)}),
    ),
    "True added to a score is 1: that hides nothing. Fill in -inf": (
        _slip(lambda q, k, mask: {"hide": lambda s: s + mask})
    ),
    "each query got the keys of another group, or the heads came back in another order: no "
    "transpose is needed": (
        _slip(lambda q, k, mask: {**_crossed(q, k, mask), "back": _heads_first(q, k)}),
        _slip(lambda q, k, mask: {"back": _heads_first(q, k)}),
    ),
    "softmax is missing: the scores themselves are no shares": (
        _slip(lambda q, k, mask: {"hide": lambda s: s * mask, "softmax": lambda s: s})
    ),
    "the groups' rows are still apart: put the heads in one dimension, (B, H, 1, hd)": (
        _slip(lambda q, k, mask: {"back": lambda y: y})
    ),
}
RAISED_BY_QUERY = {
    "must match the size of tensor": "the key heads first, then the queries that share one: "
    "q.view(B, K, H // K, hd), then @ k.mT",
    "is invalid for input of size": "with H heads and K key heads a group has H // K rows",
    "view size is not compatible": "what attention made may lie in another order: reshape",
}


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that was made, and how many products."""

    size, products, judge = 0, 0, False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.judge |= "scaled_dot_product" in name
        self.products += name in ("mm", "bmm", "addmm", "baddbmm", "mv", "dot")
        storages = (t.untyped_storage() for t in tensors(made))
        self.size = max([self.size, *(s.nbytes() for s in storages)])
        return made


@exercise
@torch.no_grad()
def check_one_query(one_query):
    copied = ""
    for B, H, K, S in ((1, 9, 3, 12), (3, 9, 3, 40), (2, 8, 2, 16), (2, 4, 4, 7)):
        q = torch.randn(B, H, 1, 16) * 2
        k, v = torch.randn(2, B, K, S, 16)
        mask = torch.arange(S) <= torch.tensor([S // 2 + row for row in range(B)])[:, None]
        given = q, k, v, mask[:, None, None]
        want = F.scaled_dot_product_attention(*given, enable_gqa=True)
        handed = [t.clone() for t in given]
        with _Largest() as made:
            about = RAISED_BY_QUERY, one_query, *handed
            got = ask_and_explain(*about, kind=kind.tensor)
        itself = "that is the judge itself: write it out, in two products and a softmax"
        expect(not made.judge, itself)
        untouched = all(map(torch.equal, handed, given))
        expect(untouched, "your function changes what it was given: masked_fill, not …fill_")
        about = f"{H} heads, {K} key heads"
        if not _alike(got, want):
            said = named(ONE_QUERY, got, *given, same=_alike)
            expect(said is None, f"{about}: {said}")
            expect_close(got, want, f"{about}: your answer")
        if H > K and made.size >= H * B * S * 16 * 4:
            costs = f"keys or values were copied {H // K} times, which costs their bytes"
            copied = copied or f", but {costs} (a product copies what it stretches)"
        if made.products > 2:
            costs = f"it took {made.products} products: make the queries of a group rows of one"
            copied = copied or f", but {costs}"
    return f"correct: PyTorch's own attention up to rounding{copied or ', and no key was copied'}"


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, 1e-4, 1e-5, True)
