"""CUDA graphs where there is no GPU: a recording of operations, done again at each replay.

A CUDA graph is made by running some code once while the GPU only takes notes: which kernels, with
which arguments, at which addresses. A replay does all of that again in one launch. `Graph` does
the same with PyTorch's operations on the CPU. It shows what a real one does to a reader's numbers,
and nothing of its speed. As there, nothing is computed while it records, memory keeps its place,
a number of Python's is what it was, and code that has to look at a value is refused.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def new_graph(device: torch.device) -> "torch.cuda.CUDAGraph | Graph":
    """An empty graph for this device: PyTorch's own on CUDA, elsewhere the stand-in."""
    return torch.cuda.CUDAGraph() if device.type == "cuda" else Graph()


def recording(graph: "torch.cuda.CUDAGraph | Graph") -> contextlib.AbstractContextManager:
    """A context in which operations are recorded in the graph, and not computed."""
    return Recording(graph) if isinstance(graph, Graph) else torch.cuda.graph(graph)


class Graph:
    """Stands in for torch.cuda.CUDAGraph: operations with the very tensors that they had. Numbers
    of Python's are those of the recording for ever."""

    replays = 0  # of all graphs together

    def __init__(self):
        self.calls = []

    def replay(self) -> None:
        if not self.calls:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        Graph.replays += 1
        with torch.no_grad():
            for func, args, kwargs, results in self.calls:
                made = func(*args, **kwargs)
                for old, new in zip(tensors(results), tensors(made), strict=True):
                    if old.data_ptr() != new.data_ptr():  # in place, or a view
                        old.copy_(new)


class Recording(TorchDispatchMode):
    """Notes each operation in a graph; at its end what was there before is as it was, and what
    was made holds nothing, for at a real capture nothing is computed."""

    def __init__(self, graph: Graph):
        if graph.calls:
            raise RuntimeError("This CUDAGraph instance already owns a captured graph.")
        super().__init__()
        self.graph, self.made, self.before = graph, {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name == "aten::_local_scalar_dense":
            if args[0].dtype == torch.int64:  # ids, which are looked at on the CPU only
                return func(*args)
            raise RuntimeError("operation not permitted when stream is capturing")
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in tensors(given):
                    if memory(tensor) not in self.made.keys() | self.before.keys():
                        storage = tensor.untyped_storage()
                        self.before[memory(tensor)] = (storage, storage.clone())
        results = func(*args, **kwargs)
        writes = [result.alias_info for result in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in writes):  # no view
            self.graph.calls.append((func, args, kwargs, results))
            for tensor in tensors(results):
                if memory(tensor) not in self.before:
                    self.made[memory(tensor)] = tensor.detach()
        return results

    def __exit__(self, *error):
        super().__exit__(*error)
        for storage, before in self.before.values():
            storage.copy_(before)
        for tensor in self.made.values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))


def tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextlib.contextmanager
def graphs_on_the_cpu() -> Iterator[list[str]]:
    """Within, torch.cuda has streams and graphs; yields what was asked of them, in order."""
    said = []

    class Stream:
        def wait_stream(self, other):
            said.append("wait")

    @contextlib.contextmanager
    def stream(stream):
        said.append("aside")
        yield

    @contextlib.contextmanager
    def graph(graph, capture_error_mode):
        said.append("capture")
        with Recording(graph):
            yield

    fakes = {"Stream": Stream, "current_stream": Stream, "stream": stream, "graph": graph}
    with mock.patch.multiple(torch.cuda, CUDAGraph=Graph, **fakes):
        yield said
