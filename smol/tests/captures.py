"""CUDA graphs on the CPU: what is asked of tensors is noted at the capture, and done again."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Graph:
    """Stands in for torch.cuda.CUDAGraph: operations with the very tensors that they had. Numbers
    of Python's are those of the capture for ever."""

    replays = 0

    def __init__(self):
        self.calls = []

    def replay(self):
        Graph.replays += 1
        with torch.no_grad():
            for func, args, kwargs, results in self.calls:
                made = func(*args, **kwargs)
                for old, new in zip(tensors(results), tensors(made), strict=True):
                    if old.data_ptr() != new.data_ptr():  # in place, or a view
                        old.copy_(new)


class Recording(TorchDispatchMode):
    """Notes each operation in a graph; at its end all is as it was before, for at a real capture
    nothing is computed."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph, self.made, self.before = graph, set(), {}

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
                    if memory(tensor) not in self.made | self.before.keys():
                        storage = tensor.untyped_storage()
                        self.before[memory(tensor)] = (storage, storage.clone())
        results = func(*args, **kwargs)
        writes = [result.alias_info for result in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in writes):  # no view
            self.graph.calls.append((func, args, kwargs, results))
            self.made |= {memory(t) for t in tensors(results)} - self.before.keys()
        return results

    def __exit__(self, *error):
        super().__exit__(*error)
        for storage, before in self.before.values():
            storage.copy_(before)


@contextlib.contextmanager
def graphs_on_the_cpu(monkeypatch):
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

    with monkeypatch.context() as patched:
        for name, fake in (
            *[("Stream", Stream), ("current_stream", Stream), ("stream", stream)],
            *[("CUDAGraph", Graph), ("graph", graph)],
        ):
            patched.setattr(torch.cuda, name, fake)
        yield said
