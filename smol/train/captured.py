"""A whole step as one CUDA graph, where a GPU would wait for the launches of a small batch."""

import torch
from torch import Tensor

from smol.device import Precision
from smol.train.ranks import Ranks
from smol.train.settings import TrainConfig

# Up to how many tokens at a time a step waits: with compiled blocks SmolLM2-135M takes 2.9 µs for
# each of them on an H200, 24 ms for so many. The launches took a slow host 40 ms, and may take a
# faster one half of that.
TOKENS = 8192
WARM = 3  # steps that are taken before one is captured: PyTorch's notes on CUDA graphs


def captures(
    config: TrainConfig, device: torch.device, precision: Precision, ranks: Ranks
) -> bool:
    """Whether a run's steps are captured: on CUDA, in one process, with few tokens at a time.

    Not with the scaler of fp16, which leaves steps out: whether it does, a graph cannot ask.
    """
    tokens = config.batch_size // config.accumulate * config.seq_len
    fits = tokens <= TOKENS and ranks.size == 1 and not precision.scaler
    return device.type == "cuda" and fits


class CapturedStep:
    """A Learner's steps: the first three as they are, on a stream aside; then one is captured, and
    replayed for every step to come, the first of them included.

    The graph reads a batch, its number of targets and the rate where they lay at the capture, so
    they are written there. What it makes, gradients too, stays in memory of its own.
    """

    def __init__(self, learner):
        self.learner, self.graph, self.taken = learner, None, 0
        device = learner.device
        self.rate, self.targets = (torch.zeros((), device=device) for _ in range(2))
        self.inputs = self.labels = self.made = None

    def __call__(
        self, inputs: Tensor, labels: Tensor, targets: int, rate: float
    ) -> tuple[Tensor, Tensor]:
        """Takes the step. The sum of -ln p and the norm of the gradients, unclipped, both () and
        overwritten by the next one."""
        if self.inputs is None:
            self.inputs, self.labels = (t.clone() for t in (inputs, labels))
        self.inputs.copy_(inputs, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.targets.fill_(targets)
        self.rate.fill_(rate)
        if self.taken < WARM:
            self._aside()
        else:
            if self.graph is None:
                self._capture()
            self.graph.replay()
        self.taken += 1
        self._set("lr", rate)  # as a step that is not captured leaves it, and a checkpoint has it
        return self.made

    def _run(self) -> None:
        self._set("lr", self.rate)
        nats = self.learner.backward(self.inputs, self.labels, self.targets)
        self.made = nats, self.learner.descend()

    def _aside(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._run()
        torch.cuda.current_stream().wait_stream(aside)

    def _capture(self) -> None:
        """Nothing is computed here; of what Python does, only what it asks of the GPU is kept."""
        self.graph = torch.cuda.CUDAGraph()
        self._set("capturable", True)
        # What other threads do meanwhile, a notebook's say, does not spoil it.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self._run()
        self._set("capturable", False)

    def _set(self, name: str, value) -> None:
        for group in [group for o in self.learner.optimizers for group in o.param_groups]:
            if name in group:
                group[name] = value
