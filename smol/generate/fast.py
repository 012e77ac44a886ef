"""The same model in less time on a CPU: one token times columns, in threads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.model import SmolLM2


def product(x: Tensor, weight: Tensor, threads: int) -> Tensor:
    """`x` (…, I) times `weight` (O, I) -> (…, O). One token times a weight that is stored column
    by column: each of the threads makes a part of the outputs."""
    (O, I), n = weight.shape, threads  # noqa: E741 (out and in)
    if not n or x.numel() > I or O % n or weight.stride(0) != 1:
        return F.linear(x, weight)
    columns = weight.t().view(I, n, O // n).transpose(0, 1)  # (n, I, O / n)
    return torch.bmm(x.view(1, 1, I).expand(n, 1, I), columns).view(*x.shape[:-1], O)


class ColumnLinear(nn.Linear):
    """A Linear for one token at a time on a CPU: its weight is stored column by column, and each
    thread makes a part of the outputs. Other inputs go the usual way."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.threads)


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
