"""The processes that torchrun started, and what they have to do together."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(NamedTuple):
    """Which of how many processes this is; torchrun says so in the environment."""

    rank: int = 0
    size: int = 1
    local: int = 0  # among those of this machine

    @classmethod
    def of_torchrun(cls) -> "Ranks":
        """Rank 0 of 1 where torchrun has not started this process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(
            *(int(os.environ.get(name, own)) for name, own in zip(names, cls(), strict=True))
        )

    def barrier(self) -> None:
        """Comes back when all processes have come here; at once where there is one."""
        if self.size > 1:
            dist.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in each of them; `value` itself becomes it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether it is so in one of the processes: the same answer in each of them."""
        if self.size == 1:
            return here
        return self.sum(torch.tensor(float(here), device=device)).item() > 0

    def share_of(self, batch: Tensor) -> Tensor:
        """This process' rows of a batch (B, …) that all of them have drawn."""
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[torch.device]:
        """Yields this process' own device; within, the processes can talk to each other."""
        if self.size == 1:
            yield device
            return
        if device.type == "cuda":
            device = torch.device("cuda", self.local)
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield device
        finally:
            dist.destroy_process_group()
