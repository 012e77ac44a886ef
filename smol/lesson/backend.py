"""A back-end for torch.compile that compiles nothing: it notes what would be compiled."""

import contextlib
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from torch import fx

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


def _forget() -> None:
    fixed._kept.clear()  # steps hold what was compiled for them
    fixed.compiled.cache_clear()
    torch.compiler.reset()
