"""A model and what trains it: one step, on one device or on a share of several."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from smol.device import Precision
from smol.model import SmolLM2
from smol.pretrained import skeleton
from smol.train.captured import CapturedStep, captures
from smol.train.compiled import compiled_blocks, uncompiled
from smol.train.data import Validation
from smol.train.evaluation import evaluate
from smol.train.loss import LossModel
from smol.train.optimizer import optimizers_of
from smol.train.ranks import Ranks
from smol.train.settings import TrainConfig

NOTHING = contextlib.nullcontext()


class Learner:
    """A model with its loss and optimizers, alone or as one of several processes.

    Under DDP each process has all of them; with `fsdp` (FSDP2) a share of weights, gradients and
    optimizer, and whoever wants a whole one has to ask in all processes at once. Another
    `loss_model` than `LossModel` gives the sum of its losses and their number as that does, and
    says beforehand, by `count(labels)`, how many there will be. Its steps are not captured.
    """

    def __init__(
        self,
        model: SmolLM2,
        config: TrainConfig,
        device: torch.device,
        precision: Precision,
        ranks: Ranks,
        loss_model: nn.Module | None = None,
    ):
        self.config, self.device, self.precision, self.ranks = config, device, precision, ranks
        self.model = model.to(device).train()
        self.loss_model = self.wrapped = (loss_model or LossModel(self.model)).to(device)
        self.sharded = ranks.size > 1 and config.fsdp
        if self.sharded:
            mesh = init_device_mesh(device.type, (ranks.size,))
            for layer in self.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(self.loss_model, mesh=mesh)
        elif ranks.size > 1:
            ids = [device] if device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.loss_model, device_ids=ids)
        self.optimizers = optimizers_of(self.model, config, fused=device.type == "cuda")
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.scaler)
        self.compiled = False
        capture = captures(config, device, precision, ranks)
        usual = isinstance(self.loss_model, LossModel)  # another may ask the GPU within a step
        self.captured = CapturedStep(self) if capture and usual else None

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Within, steps are compiled: see `compiled_blocks`. Evaluations and samples are not, nor
        a batch of other lengths than the settings', as stories that are short make: each new shape
        would be compiled for itself."""
        with compiled_blocks(self.loss_model):
            self.compiled = True
            try:
                yield
            finally:
                self.compiled = False

    @property
    def wanted(self) -> bool:
        """Whether this process is needed where the whole model is: the first one, or its shard."""
        return self.ranks.rank == 0 or self.sharded

    def step(self, inputs: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, int, Tensor]:
        """`gradients` and `update`, captured where that pays (`captured.py`): what they give."""
        if self.captured is None or inputs.size(1) != self.config.seq_len:
            nats, count = self.gradients(inputs, labels)
            return nats, count, self.update(rate)
        count = self.loss_model.count(labels).item()
        nats, norm = self.captured(self._here(inputs), self._here(labels), count, rate)
        return nats, count, norm

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Leaves the gradients of a batch's mean loss in the parameters, in `accumulate` parts.

        inputs and labels (B, T) are the whole batch's. Gives the sum of the losses of this
        process' share, (), and the number of losses in the whole batch: one a target, and -ln p,
        unless the loss model is another.
        """
        count = self.loss_model.count(labels).item()
        mine = (self._here(self.ranks.share_of(t)) for t in (inputs, labels))
        return self.backward(*mine, count), count

    def backward(self, inputs: Tensor, labels: Tensor, count: int | Tensor) -> Tensor:
        """`gradients` of this process' share, (B, T) on the device; `count` is the batch's."""
        nats, parts = torch.zeros((), device=self.device), self.config.accumulate
        mine = (t.chunk(parts) for t in (inputs, labels))
        for number, (x, y) in enumerate(zip(*mine, strict=True), 1):
            usual = inputs.size(1) in self.config.lengths
            plain = NOTHING if usual else self.uncompiled()
            with plain, self._autocast(), self._synchronised(number == parts):
                loss, _ = self.wrapped(x, y)
                # DDP and FSDP take the mean over processes, and the sum is wanted.
                self.scaler.scale(loss * self.ranks.size / count).backward()
            nats += loss.detach()
        return nats

    def update(self, rate: float) -> Tensor:
        """Takes the step at this learning rate, drops the gradients; their norm unclipped, ()."""
        for group in [group for o in self.optimizers for group in o.param_groups]:
            group["lr"] = rate
        return self.descend()

    def descend(self) -> Tensor:
        """`update` at the rate that the optimizers have."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        norm = norm.full_tensor() if self.sharded else norm
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return norm

    def evaluate(self, validation: Validation, how: Callable = evaluate) -> dict:
        """`smol.train.evaluate` of the model as it stands, or another way of it."""
        self.model.eval()
        with self.uncompiled(), self._autocast():
            row = how(self.loss_model, validation, self.device)
        self.model.train()
        if self.sharded:  # FSDP keeps the root gathered after a forward, for its backward
            self.loss_model.reshard()
        return row

    def state_dict(self) -> dict:
        """Optimizer and scaler, whole, on the CPU (sharded: in the first process only)."""
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            "optimizer": get_optimizer_state_dict(self.model, self.optimizers, options=whole),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was taken, in any number of processes."""
        whole = StateDictOptions(full_state_dict=True)
        for group in state["optimizer"]["param_groups"]:
            if "fused" in group:  # as it is here, wherever the state was taken
                group["fused"] = self.optimizers[-1].defaults["fused"]
        set_optimizer_state_dict(self.model, self.optimizers, state["optimizer"], options=whole)
        self.scaler.load_state_dict(state["scaler"])

    def whole_model(self) -> SmolLM2:
        """The model that can be saved (sharded: whole in the first process only)."""
        if not self.sharded:
            return self.model
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights, plain = (
            get_model_state_dict(self.model, options=whole),
            skeleton(self.model.config),
        )
        if self.ranks.rank == 0:
            plain.load_state_dict(weights, assign=True)
            plain.tie_weights()
        return plain

    def uncompiled(self) -> contextlib.AbstractContextManager:
        """A context in which compiled blocks run as they are written."""
        return uncompiled() if self.compiled else NOTHING

    def _here(self, batch: Tensor) -> Tensor:
        """The batch on this device. From pinned memory a GPU fetches it when it comes to it, and
        nobody waits: meanwhile the next batch is made."""
        if self.device.type != "cuda":
            return batch.to(self.device)
        return batch.pin_memory().to(self.device, non_blocking=True)

    def _autocast(self):
        dtype = self.precision.autocast
        # A cast that is kept would be gone when a captured step is replayed.
        how = {"enabled": dtype is not None, "cache_enabled": self.captured is None}
        return torch.autocast(self.device.type, dtype or torch.float32, **how)

    def _synchronised(self, now: bool):
        """A context whose backward pass adds up all processes' gradients, or keeps its own."""
        if self.sharded:
            self.loss_model.set_requires_gradient_sync(now)
        elif self.ranks.size > 1 and not now:
            return self.wrapped.no_sync()
        return NOTHING
