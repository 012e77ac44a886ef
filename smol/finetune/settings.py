"""What fine-tuning is told: `smol.train`'s settings with other defaults, and seven of its own."""

import dataclasses
import math

from smol.checks import flag, named, number, one_of, whole
from smol.finetune.messages import SMOLTALK
from smol.stories.chat import ASKED, KINDS
from smol.train.settings import TrainConfig

STORIES = "stories-chat"  # conversations that the grammar writes as they are wanted
ECHO = "echo"  # no question: `smol.stories.exercises.echo`
EVERY = (*KINDS, ECHO)
# Each with its learning rate where none is given. DPO's is small: at SFT's rate a small model lost
# four nats of ln p of the right answers within 16 steps, and the margins grew all the same.
METHODS = {"sft": 1e-3, "lora": 1e-3, "dpo": 1e-5}


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """`model` is a folder, a hub repository or a .gguf file; `data` is "stories-chat",
    "smoltalk" or a JSONL of messages, for "dpo" of pairs; `batch_size` counts conversations, or
    pairs. `kinds` is what stories-chat asks, some names of EVERY with commas between them; None
    is all. `rank` and `alpha` are LoRA's, `beta` is DPO's: the larger, the nearer to the model
    that it began with. With `learning_rate` None it is the method's own. With `freeze_embedding`
    only the special tokens' rows of the embedding are trained: a word that no conversation has
    stays what it was.

    The rest is as in TrainConfig; its preset, its tokenizer and shards are not used here.
    """

    data: str = STORIES
    batch_size: int = 16
    seq_len: int = 512
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    model: str = ""
    kinds: str | None = None
    method: str = "sft"
    rank: int = 8
    alpha: float = 16.0
    beta: float = 0.1
    freeze_embedding: bool = False

    def __post_init__(self):
        checked = {
            "model": named("model", self.model),
            "method": one_of("method", self.method, METHODS),
            "rank": whole("rank", self.rank),
            "freeze_embedding": flag("freeze_embedding", self.freeze_embedding),
        }
        for name in ("alpha", "beta"):
            checked[name] = number(
                name, getattr(self, name), "above 0 and finite", lambda x: 0 < x < math.inf
            )
        if self.kinds is not None:
            checked["kinds"] = _kinds_of(named("kinds", self.kinds), self.data, self.method)
        if self.learning_rate is None:
            checked["learning_rate"] = METHODS[checked["method"]]
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        super().__post_init__()
        if self.tokenizer is not None:
            raise ValueError("a model is fine-tuned with its own tokenizer: leave tokenizer out")
        if self.fsdp:
            raise ValueError("fine-tuning keeps a model whole in each process: leave fsdp out")
        if self.optimizer != "adamw":
            raise ValueError(f"optimizer {self.optimizer!r} is not for fine-tuning: take adamw")
        if self.method == "lora" and self.freeze_embedding:
            raise ValueError("lora trains no embedding: leave freeze_embedding out")
        if self.method == "dpo":
            if self.data == SMOLTALK:
                raise ValueError(f"{SMOLTALK} has no pairs: name a .jsonl of them for dpo")
            if self.compile:
                raise ValueError("dpo's reference is not compiled with it: leave compile out")
            object.__setattr__(self, "compile", False)

    def check_context(self) -> None:
        """Nothing: how much the model can read is in its own config (`Tuning.reading`)."""

    def deciding(self) -> dict:
        """As in TrainConfig; `beta` for DPO only, so that what was saved before there was DPO is
        resumed as ever."""
        return {**super().deciding(), "beta": self.beta if self.method == "dpo" else None}

    @property
    def lengths(self) -> tuple[int, ...]:
        """How long rows are: see `lengths_of`."""
        return lengths_of(self.seq_len)

    @property
    def title(self) -> str:
        """What the bar calls the run."""
        return self.method


def _kinds_of(kinds: str, data: str, method: str) -> str:
    """The same without spaces."""
    if data != STORIES or method == "dpo":
        raise ValueError(f"kinds are those of {STORIES}, and not for dpo: leave kinds out")
    names = [one_of("kinds", kind.strip(), EVERY) for kind in kinds.split(",")]
    if names != [ECHO] and not set(names) & set(ASKED):
        raise ValueError(f"kinds names no kind of question: add one of {', '.join(ASKED)}")
    return ",".join(names)


def lengths_of(seq_len: int) -> tuple[int, ...]:
    """The lengths that rows are filled up to, eighths of the longest: few enough to compile."""
    return tuple(sorted({-(-seq_len * part // 8) for part in range(1, 9)}))
