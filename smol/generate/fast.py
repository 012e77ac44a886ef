"""The same steps in less time: one of fixed shapes for a GPU, columns and threads for a CPU."""

from functools import cache as once

import torch
from torch import Tensor, nn

from smol.model import KVCache, LayerCache, SmolLM2


def captures(device: torch.device) -> bool:
    """Whether decode steps on this device are captured: a GPU waits for the thousand small calls
    of a step longer than it computes, and a captured step is one call."""
    return device.type == "cuda"


class FixedLayer(LayerCache):
    """One layer's part of a `FixedCache`, whose `start` is a tensor."""

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one token's k and v (B, K, 1, hd) and returns all the memory."""
        self.k.index_copy_(2, self.start, k)
        self.v.index_copy_(2, self.start, v)
        return self.k, self.v


class FixedCache(KVCache):
    """A KVCache that can take one token without changing a shape: it is written at column `at`, a
    tensor, and all the memory is given back, of which a mask must hide what is not filled."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.k.device)
        self.stepping = False

    def __getitem__(self, layer: int) -> LayerCache:
        if not self.stepping:
            return super().__getitem__(layer)
        return FixedLayer(self.k[layer], self.v[layer], self.at)


def fixed_step(model: SmolLM2, cache: FixedCache, ids: Tensor, padding: Tensor) -> Tensor:
    """Logits (B, V) after `ids` (B, 1), which stand in column `cache.at`; `padding` (B,) columns
    at the left of each row are padding."""
    column = torch.arange(cache.max_length, device=ids.device)
    mask = (column <= cache.at) & (column >= padding[:, None])  # (B, S)
    positions = (cache.at - padding)[:, None, None]  # (B, 1, 1)
    hidden = model(ids, cache, False, positions, mask[:, None, None])
    return model.lm_head(hidden[:, -1])


@once
def _compiled_step():
    return torch.compile(fixed_step, fullgraph=True, dynamic=False)


class FixedStep:
    """`fixed_step` over buffers that stay where they are: compiled, captured as a CUDA graph (at
    the first call), both or neither."""

    def __init__(self, model: SmolLM2, cache: FixedCache, compile: bool, capture: bool):
        self.model, self.cache, self.capture = model, cache, capture
        self.run_step = _compiled_step() if compile else fixed_step
        self.ids = self.padding = self.graph = None

    def __call__(self, ids: Tensor, real: Tensor | None) -> Tensor:
        """Logits (B, V) after `ids` (B, 1); `real` (B, S) is False at padding. They are
        overwritten by the next call."""
        if self.ids is None:
            self.ids, self.padding = ids.clone(), torch.zeros_like(ids[:, 0])
        self.ids.copy_(ids)
        if real is not None:
            self.padding.copy_((~real).sum(-1))
        self.cache.at.fill_(self.cache.length)
        if not self.capture:
            logits = self._run()
        else:
            if self.graph is None:
                self._capture()
            self.graph.replay()
            logits = self.logits
        self.cache.length += 1
        return logits

    def _run(self) -> Tensor:
        # The column is in `at`. A length that changed would be compiled anew at each step.
        cache, length = self.cache, self.cache.length
        cache.length, cache.stepping = 0, True
        try:
            return self.run_step(self.model, cache, self.ids, self.padding)
        finally:
            cache.length, cache.stepping = length, False

    def _capture(self) -> None:
        # As PyTorch's notes on CUDA graphs want it: first run on another stream, to warm up.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._run()


class ColumnLinear(nn.Linear):
    """A Linear for one token at a time on a CPU: its weight is stored column by column, and each
    thread makes a part of the outputs. Other inputs go the usual way."""

    def forward(self, x: Tensor) -> Tensor:
        (O, I), n = self.weight.shape, self.threads  # noqa: E741 (out and in)
        if x.numel() > I or O % n:
            return super().forward(x)
        columns = self.weight.t().view(I, n, O // n).transpose(0, 1)  # (n, I, O / n)
        return torch.bmm(x.view(1, 1, I).expand(n, 1, I), columns).view(*x.shape[:-1], O)


def prepare_for_decoding(model: SmolLM2) -> SmolLM2:
    """The same model, in place, its Linear layers made `ColumnLinear`: for a CPU.

    There a product of a matrix with one vector runs on one thread, and down the columns faster
    than along the rows: see `python -m smol.bench decode`. Values, shapes and names stay; sums
    run in another order, so the last bits differ. After `torch.set_num_threads`: once more.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
            module.__class__, module.threads = ColumnLinear, torch.get_num_threads()
    return model
