"""The same model in less time on a CPU: one token times columns, in threads."""

from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter

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
    rows = x.view(1, 1, I).expand(n, 1, I)
    # A compiler makes loops of a bmm with one row, which take up to ten times as long.
    return torch.baddbmm(x.new_zeros(()), rows, columns, beta=0).view(*x.shape[:-1], O)


class ColumnLinear(nn.Linear):
    """A Linear for one token at a time on a CPU: its weight is stored column by column, and each
    thread makes a part of the outputs. Other inputs go the usual way."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.threads)


def prepare_for_decoding(model: SmolLM2) -> SmolLM2:
    """The same model, in place, with those Linear layers made `ColumnLinear` that gain by it: for
    a CPU.

    On some processors a product of a matrix with one vector runs on one thread, and down the
    columns faster than along the rows; on others it is the other way round. So each shape is
    tried, for some hundredths of a second: see `columns_pay`. Values, shapes and names stay; sums
    run in another order, so the last bits differ. After `torch.set_num_threads`: once more.
    """
    threads, shapes = torch.get_num_threads(), defaultdict(list)
    for module in model.modules():
        if type(module) in (nn.Linear, ColumnLinear) and module.bias is None:
            shapes[module.weight.shape].append(module)
    for modules in shapes.values():
        pays = columns_pay([module.weight.detach() for module in modules], threads)
        for module in modules:
            weight = module.weight.data
            module.weight.data = weight.t().contiguous().t() if pays else weight.contiguous()
            module.__class__ = ColumnLinear if pays else nn.Linear
            module.threads = threads
    return model


ENOUGH = 64e6  # bytes that no cache holds: a token's weights always come from memory
GAIN = 1.1  # below it the trial may be chance


@torch.no_grad()
def columns_pay(weights: Sequence[Tensor], threads: int) -> bool:
    """Whether one token is multiplied by weights of this shape at least GAIN times faster down
    the columns: over ENOUGH of them, each one's best of three rounds, for the machine may be busy
    with something else."""
    many = weights[: max(1, int(ENOUGH // weights[0].nbytes))]
    ways = [w.contiguous() for w in many], [w.t().contiguous().t() for w in many]
    x = many[0].new_ones(1, 1, many[0].size(1))

    def seconds(weight: Tensor) -> float:
        start = perf_counter()
        product(x, weight, threads)
        return perf_counter() - start

    rounds = [[[seconds(weight) for weight in way] for way in ways] for _ in range(3)]
    rows, columns = (sum(map(min, zip(*way, strict=True))) for way in zip(*rounds, strict=True))
    return rows > GAIN * columns
