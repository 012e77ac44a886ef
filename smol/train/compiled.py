"""Blocks compiled one by one: what is made for the first layer serves them all."""

import contextlib
from collections.abc import Iterator

import torch

from smol.count import count_parameters
from smol.device import check_compiler
from smol.model import SmolLM2
from smol.terminal import say
from smol.train.loss import LossModel
from smol.train.ranks import Ranks
from smol.train.settings import TrainConfig

# From how many FLOPs on (6 for each parameter and token) a run repays its compiling. It takes some
# ten seconds, and on an H200 saves 2.8 µs of each token of SmolLM2-135M: 3.6 million tokens.
REPAYS = 3e15


def will_compile(
    config: TrainConfig, device: torch.device, model: SmolLM2, step: int, ranks: Ranks
) -> bool:
    """Whether a run that goes on from `step` is compiled: as its settings say, or where it pays.

    Where it would pay and nothing compiles, the first process says so.
    """
    if config.compile is not None:
        return config.compile
    parameters = count_parameters(model.config)["total"]
    tokens = (config.steps - step) * config.batch_size * config.seq_len
    if device.type != "cuda" or 6 * parameters * tokens < REPAYS:
        return False
    try:
        check_compiler(device)
    except ValueError as error:
        if ranks.rank == 0:
            say(f"{error}: the run goes on without")
        return False
    return True


@contextlib.contextmanager
def compiled_blocks(loss_model: LossModel) -> Iterator[None]:
    """Within, each layer of the model and the loss' slope are compiled for the shapes that they
    meet: one compilation of each for all layers and steps.

    A model as a whole takes a minute to compile, its thirty layers one after another. It is their
    `forward` that is compiled, so that the hooks by which FSDP gathers a layer stay outside.
    """
    # PyTorch refuses a ninth shape of a function: what earlier runs compiled is dropped.
    torch.compiler.reset()
    how = {"fullgraph": True, "dynamic": False}
    layers, slope_of = loss_model.model.layers, loss_model.slope_of
    for layer in layers:
        layer.forward = torch.compile(layer.forward, **how)
    loss_model.slope_of = torch.compile(slope_of, **how)
    try:
        yield
    finally:
        loss_model.slope_of = slope_of
        for layer in layers:
            del layer.forward  # the class has it


def uncompiled() -> contextlib.AbstractContextManager:
    """Within, nothing is compiled, nor what was compiled used: for shapes that come once."""
    return torch.compiler.set_stance("force_eager")
