"""What torch.compile would compile: a back-end that only counts, and a layer that makes many."""

import contextlib
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from torch import fx, nn

from smol.generate import fixed


def operations(graph: fx.GraphModule) -> list[str]:
    """The names of what a traced graph calls, in order."""
    calls = [node for node in graph.graph.nodes if node.op.startswith("call_")]
    return [getattr(node.target, "__name__", str(node.target)) for node in calls]


@contextlib.contextmanager
def counted() -> Iterator[list[list[str]]]:
    """Within, what torch.compile is given is run as it is, and no compiler is needed; yields a
    list that gets the `operations` of each graph that would be compiled."""
    graphs = []

    def backend(graph, inputs, **options):
        graphs.append(operations(graph))
        return graph.forward

    _forget()
    try:
        with (
            mock.patch.object(torch, "compile", partial(torch.compile, backend=backend)),
            mock.patch("smol.generate.steps.check_compiler"),
        ):
            yield graphs
    finally:
        _forget()


class NumberedBlock(nn.Module):
    """Attention of one head over a cache that all layers share, as many projects write it."""

    def __init__(self, number: int, D: int = 16):
        super().__init__()
        self.number = number
        self.q, self.k, self.v, self.out = (nn.Linear(D, D, bias=False) for _ in range(4))

    def forward(self, x, cache, at):
        k, v = cache.k[self.number], cache.v[self.number]  # (B, S, D)
        k.index_copy_(1, at, self.k(x))
        v.index_copy_(1, at, self.v(x))
        seen = torch.arange(k.size(1), device=x.device) <= at
        scores = (self.q(x) @ k.mT * x.size(-1) ** -0.5).masked_fill(~seen, float("-inf"))
        return x + self.out(scores.softmax(-1) @ v)


def _forget() -> None:
    fixed._kept.clear()  # steps hold what was compiled for them
    fixed.compiled.cache_clear()
    torch.compiler.reset()
