"""What a run is told: sizes of model by name, and the settings with their checks."""

import dataclasses
import json
import math
from typing import NamedTuple

import torch

from smol.config import SmolLM2Config
from smol.device import DEVICES, DTYPES
from smol.train.schedule import SCHEDULES


class Preset(NamedTuple):
    """A size of model, and what it is trained with unless the command says otherwise."""

    config: SmolLM2Config
    vocab_size: int | None  # of a tokenizer trained on the corpus; None: SmolLM2's own
    batch_size: int
    seq_len: int
    learning_rate: float


def _scaled_down(hidden_size: int, layers: int, heads: int) -> SmolLM2Config:
    """SmolLM2's shape, smaller: 3 query heads to a key/value head, an MLP of 8/3 the width."""
    return SmolLM2Config(
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3,
        max_position_embeddings=512,
        rope_theta=10_000.0,
        initializer_range=hidden_size**-0.5,
    )


PRESETS = {
    "tiny": Preset(_scaled_down(96, 3, 3), 1024, 8, 256, 6e-3),
    "small": Preset(_scaled_down(192, 4, 3), 2048, 16, 256, 3e-3),
    "135m": Preset(SmolLM2Config(), None, 4, 256, 1e-3),
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Above the line what a run and one that resumes it share, but for `steps`; below it the rest.

    The defaults are those of "tiny": the command takes batch_size, seq_len and learning_rate from
    its preset, whoever makes a TrainConfig gives them. `batch_size` is the number of windows a
    step, in all; `accumulate` cuts it into that many parts, one after another, to save memory.
    `warmup` and `decay` are parts of `steps`. Raises ValueError, naming the setting, for what no
    run could use.
    """

    preset: str = "tiny"
    data: str = "stories"
    steps: int = 300
    batch_size: int = 8
    seq_len: int = 256
    accumulate: int = 1
    learning_rate: float = 6e-3
    optimizer: str = "adamw"
    schedule: str = "wsd"
    warmup: float = 0.05
    decay: float = 0.2
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    dtype: str = "auto"
    tokenizer: str | None = None
    # -----
    device: str = "auto"
    compile: bool = False
    fsdp: bool = False
    log_every: int = 10
    eval_every: int = 100
    save_every: int = 100
    keep: int = 2

    def __post_init__(self):
        for name, known in (
            ("preset", PRESETS),
            ("schedule", SCHEDULES),
            ("optimizer", ("adamw", "muon")),
            ("device", DEVICES),
            ("dtype", DTYPES),
        ):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon, 2.9 has: take adamw")
        if self.optimizer == "muon" and self.fsdp:
            raise ValueError("muon needs whole matrices, and fsdp cuts them: take adamw")
        counts = ("steps", "batch_size", "seq_len", "accumulate", "keep")
        for name in (*counts, "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not self.clip > 0:
            raise ValueError(f"clip must be above 0 (inf = no clipping), got {self.clip}")
        for name in ("warmup", "decay"):
            if not 0 <= (part := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be a part of the steps, 0 to 1, got {part}")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:  # cosine has no decay
            raise ValueError(
                f"warmup {self.warmup} and decay {self.decay} are more than all the steps: "
                "together they may be 1"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulate} equal parts: "
                "take an --accumulate that divides it"
            )
        longest = PRESETS[self.preset].config.max_position_embeddings
        if self.seq_len > longest:
            raise ValueError(f"seq_len {self.seq_len} is over the preset's context of {longest}")

    def deciding(self) -> dict:
        """The settings that a checkpoint and the run that resumes it must share, as JSON has them.

        Not `steps`: a run may be made longer, and goes on with the longer schedule.
        """
        often = ("log_every", "eval_every", "save_every", "keep")
        free = ("steps", "device", "compile", "fsdp", *often)
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        return json.loads(json.dumps(kept))
