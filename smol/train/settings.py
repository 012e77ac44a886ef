"""What a run is told: sizes of model by name, and the settings with their checks."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from smol.checks import flag, named, number, one_of, seed, shown, whole
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


OPTIMIZERS = ("adamw", "muon")
PRESETS = {
    "tiny": Preset(_scaled_down(96, 3, 3), 1024, 8, 256, 6e-3),
    "small": Preset(_scaled_down(192, 4, 3), 2048, 16, 256, 3e-3),
    "135m": Preset(SmolLM2Config(), None, 4, 256, 1e-3),
}


def _among(known: Iterable[str]) -> Callable:
    return lambda name, value: one_of(name, value, known)


def _number(wanted: str, fits: Callable[[float], bool]) -> Callable:
    return lambda name, value: number(name, value, wanted, fits)


def _betas(name: str, value) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:  # JSON has lists only
        raise ValueError(f"{name} must be a pair of numbers, got {shown(value)}")
    return tuple(
        number(f"each of {name}", b, "from 0 to below 1", lambda b: 0 <= b < 1) for b in value
    )


_part = _number("a part of the steps, 0 to 1", lambda part: 0 <= part <= 1)
# For each setting what it may be; what comes back is what is kept, and can be saved as JSON.
CHECKS = {
    "preset": _among(PRESETS),
    "data": named,
    "steps": whole,
    "batch_size": whole,
    "seq_len": whole,
    "accumulate": whole,
    "learning_rate": _number("above 0 and at most 1e30", lambda rate: 0 < rate <= 1e30),
    "optimizer": _among(OPTIMIZERS),
    "schedule": _among(SCHEDULES),
    "warmup": _part,
    "decay": _part,
    "weight_decay": _number("from 0 to 1e6", lambda decay: 0 <= decay <= 1e6),
    "betas": _betas,
    "clip": _number("above 0 (inf = no clipping)", lambda norm: norm > 0),
    "seed": seed,
    "dtype": _among(DTYPES),
    "tokenizer": lambda name, value: None if value is None else named(name, value),
    "device": _among(DEVICES),
    "compile": lambda name, value: None if value is None else flag(name, value),
    "fsdp": flag,
    "log_every": whole,
    "eval_every": whole,
    "save_every": whole,
    "keep": whole,
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Above the line what a run and one that resumes it share, but for `steps`; below it the rest.

    The defaults are those of "tiny": the command takes batch_size, seq_len and learning_rate from
    its preset, whoever makes a TrainConfig gives them. `batch_size` is the number of windows a
    step, in all; `accumulate` cuts it into that many parts, one after another, to save memory.
    `warmup` and `decay` are parts of `steps`. With `compile` None blocks are compiled where it
    pays: on CUDA, where 3e15 FLOPs or more are to come (6 × parameters × tokens; of SmolLM2-135M
    3.7 million tokens). Raises ValueError, naming the setting, for what no run could use; what it
    keeps can be saved (of a Path the text, of NumPy's numbers Python's).
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
    compile: bool | None = None
    fsdp: bool = False
    log_every: int = 10
    eval_every: int = 100
    save_every: int = 100
    keep: int = 2

    def __post_init__(self):
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon, 2.9 has: take adamw")
        if self.optimizer == "muon" and self.fsdp:
            raise ValueError("muon needs whole matrices, and fsdp cuts them: take adamw")
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
        self.check_context()

    def check_context(self) -> None:
        """ValueError for a seq_len that the model cannot read."""
        longest = PRESETS[self.preset].config.max_position_embeddings
        if self.seq_len > longest:
            raise ValueError(f"seq_len {self.seq_len} is over the preset's context of {longest}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of rows for which steps are compiled."""
        return (self.seq_len,)

    @property
    def title(self) -> str:
        """What the bar calls the run."""
        return f"train {self.preset}"

    def deciding(self) -> dict:
        """The settings that a checkpoint and the run that resumes it must share, as JSON has them.

        Not `steps`: a run may be made longer, and goes on with the longer schedule.
        """
        often = ("log_every", "eval_every", "save_every", "keep")
        free = ("steps", "device", "compile", "fsdp", *often)
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        return json.loads(json.dumps(kept))
