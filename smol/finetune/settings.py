"""What fine-tuning is told: `smol.train`'s settings with other defaults, and four of its own."""

import dataclasses
import math

from smol.checks import named, number, one_of, whole
from smol.train.settings import TrainConfig

STORIES = "stories-chat"  # conversations that the grammar writes as they are wanted
METHODS = ("sft", "lora")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """`model` is a folder, a hub repository or a .gguf file; `data` is "stories-chat" or a JSONL
    of messages; `batch_size` counts conversations. `rank` and `alpha` are LoRA's.

    The rest is as in TrainConfig; its preset, its tokenizer and shards are not used here.
    """

    data: str = STORIES
    batch_size: int = 16
    seq_len: int = 512
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    model: str = ""
    method: str = "sft"
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self):
        checked = {
            "model": named("model", self.model),
            "method": one_of("method", self.method, METHODS),
            "rank": whole("rank", self.rank),
            "alpha": number("alpha", self.alpha, "above 0 and finite", lambda a: 0 < a < math.inf),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        super().__post_init__()
        if self.tokenizer is not None:
            raise ValueError("a model is fine-tuned with its own tokenizer: leave tokenizer out")
        if self.fsdp:
            raise ValueError("fine-tuning keeps a model whole in each process: leave fsdp out")
        if self.optimizer != "adamw":
            raise ValueError(f"optimizer {self.optimizer!r} is not for fine-tuning: take adamw")

    def check_context(self) -> None:
        """Nothing: how much the model can read is in its own config (`Tuning.reading`)."""

    @property
    def title(self) -> str:
        """What the bar calls the run."""
        return self.method
