"""The processes that torchrun started, and what they have to do together."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
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

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in each of them; `value` itself becomes it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, here: bool) -> bool:
        """Whether it is so in one of the processes: the same answer in each of them.

        They agree by way of the CPU: to ask a GPU would be to wait for all that it has to do.
        """
        if self.size == 1:
            return here
        return self.sum(torch.tensor(float(here))).item() > 0

    def share_of(self, batch: Tensor) -> Tensor:
        """This process' rows of a batch (B, …) that all of them have drawn."""
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def own(self, device: torch.device) -> torch.device:
        """This process' device: of several GPUs its own."""
        if self.size == 1 or device.type != "cuda":
            return device
        if self.local >= (count := torch.cuda.device_count()):
            raise ValueError(f"this machine has {count} GPUs: take --nproc-per-node {count}")
        device = torch.device("cuda", self.local)
        torch.cuda.set_device(device)
        return device

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Within, the processes can talk to each other: by way of the CPU, and of their GPUs."""
        if self.size == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        about = {"store": _store_of_this_start(), "rank": self.rank, "world_size": self.size}
        # The usual half hour is less than the first one may need to make a large corpus' tokens.
        dist.init_process_group(backend, timeout=timedelta(days=1), **about)
        try:
            yield
        finally:
            # gloo's threads need the GIL to let go of what they sent last, and PyTorch holds it
            # while it waits for their end: without a pause both may wait for ever.
            time.sleep(0.1)
            dist.destroy_process_group()

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Comes back when all processes are through the block. Where it fails in one of them it
        fails in all, with the reason, so that none waits for one that is gone.

        Within the block no process may wait for another.
        """
        try:
            yield
        except Exception as error:
            self.gathered(f"{type(error).__name__}: {error}")
            raise
        for number, why in enumerate(self.gathered(None)):
            if why:
                raise ValueError(f"process {number} failed: {why}")

    def gathered(self, value) -> list:
        """What each process has, the first one's first: the same list in all of them."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found


def _store_of_this_start(patience: float = 300.0) -> dist.Store:
    """What the processes tell each other their addresses by, and nobody else's are in it.

    torchrun starts processes anew with the store of those that died, in which their addresses
    still stand, to be waited for (pytorch/pytorch#135712; its count of restarts is not the same
    on all machines). So the first process draws a name for this start. The others ask for it, each
    by a word of its own, until they are answered; to an old question the answer does no harm.
    """
    store, rank, size = next(dist.rendezvous("env://"))
    own, others, end = uuid.uuid4().hex, range(1, size), time.monotonic() + patience
    while time.monotonic() < end:
        if rank:
            store.set(f"question {rank}", own)
            if store.check([f"answer {own}"]):
                name = store.get(f"answer {own}").decode()
                store.set(f"{name} {rank}", "")
                return dist.PrefixStore(name, store)
        else:
            for other in others:
                if store.check([f"question {other}"]):
                    store.set(f"answer {store.get(f'question {other}').decode()}", own)
            if store.check([f"{own} {other}" for other in others]):
                return dist.PrefixStore(own, store)
        time.sleep(0.02)
    raise ValueError(f"not all of {size} processes came within {patience:.0f} s: start them anew")
