"""Training: from random weights towards the floor, and on after any interruption as if there had
been none.

    python -m smol.train --preset tiny --data stories --steps 300 --out runs/tiny
    python -m smol.train --preset tiny --data stories --steps 300 --out runs/tiny --resume
    python -m smol.train --preset small --data fresh --steps 3000 --out runs/small
    torchrun --nproc-per-node 8 -m smol.train --preset 135m ... (batch size: of all together)

OUT gets metrics.jsonl (an object for each logged step, a sample where it was evaluated) and the
last checkpoints, step-000300 and so on: folders that `load_pretrained` and transformers load, with
training.pt for the rest. A checkpoint is written beside and renamed when it is whole, so that a
kill at any moment leaves the last good one; on the CPU a resumed run repeats the uninterrupted one
to the bit.

The data "stories" are those of data/stories.txt; "fresh" ones are written as the run goes, so that
none comes twice; held out are the same ones of the file for both.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
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
from torch.utils.checkpoint import checkpoint

from smol.config import SmolLM2Config
from smol.data import (
    Corpus,
    FreshStories,
    Stream,
    Windows,
    encode,
    load_corpus,
    open_stream,
    padded,
    tokenise,
)
from smol.generate import generate
from smol.model import SmolLM2
from smol.pretrained import load_pretrained, on_disk, save_pretrained, skeleton, written_beside
from smol.tokenizer import SPECIAL_TOKENS, BPETokenizer


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


DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What decides a run's numbers, and what does not (below the line).

    `batch_size` is the number of windows a step, in all; `accumulate` cuts it into that many
    parts, one after another, to save memory. `warmup` and `decay` are parts of `steps`. Raises
    ValueError, naming the setting, for what no run could use.
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
        """The settings that a checkpoint and the run that resumes it must share.

        Not `steps`: a run may be made longer, and goes on with the longer schedule.
        """
        free = ("steps", "device", "compile", "fsdp", "log_every", "eval_every", "save_every")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in (*free, "keep")}


# -- how fast to learn ----------------------------------------------------------------------------


def wsd(step: int, config: TrainConfig) -> float:
    """Warm up, stay, go down to 0 in a straight line: the schedule of SmolLM2.

    The part of the full learning rate for the update that follows `step` others. (Hu et al. 2024,
    MiniCPM; Allal et al. 2025.) It can be broken off and cooled down anywhere on the plateau.
    """
    up, down = warmup_and_decay(config)
    return min(1.0, (step + 1) / up, (config.steps - step) / down)


def cosine(step: int, config: TrainConfig) -> float:
    """Warm up, then half a wave of the cosine down to 0 (Loshchilov & Hutter 2017, eq. 5)."""
    up, _ = warmup_and_decay(config)
    if step < up:
        return (step + 1) / up
    return 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, config.steps - up)))


def warmup_and_decay(config: TrainConfig) -> tuple[int, int]:
    """How many steps the warm-up has, and how many the decay: 1 at least, so that both divide."""
    return tuple(max(1, round(config.steps * part)) for part in (config.warmup, config.decay))


SCHEDULES = {"wsd": wsd, "cosine": cosine}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices, which decay, and vectors (the norms), which do not: a norm of 1 is no excess."""
    parameters = list(model.parameters())  # a tied head comes once
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def optimizers_of(
    model: nn.Module, config: TrainConfig, fused: bool
) -> list[torch.optim.Optimizer]:
    """What takes the step: AdamW alone (Loshchilov & Hutter 2019), or Muon and AdamW.

    Muon (Jordan et al. 2024) makes each matrix' step orthogonal, of the size that AdamW's would
    have (Liu et al. 2025). It is for the matrices between embedding and head; AdamW takes the
    rest, which then does not decay.
    """
    adamw = {"lr": config.learning_rate, "betas": config.betas, "fused": fused}
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(parameter_groups(model, config.weight_decay), **adamw)]
    named = dict(model.named_parameters()).items()
    rest = [p for name, p in named if p.ndim < 2 or name.startswith(("embed_tokens", "lm_head"))]
    matrices = [p for p in model.parameters() if not any(p is other for other in rest)]
    muon = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    return [
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **muon),
        torch.optim.AdamW(rest, weight_decay=0.0, **adamw),
    ]


# -- where, and in which precision ----------------------------------------------------------------


class Precision(NamedTuple):
    """How a device computes: weights are fp32 always, products in `autocast` where it is set."""

    autocast: torch.dtype | None
    scaler: bool  # fp16 has few exponents: gradients are scaled up before, and down after
    tf32: bool


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
        """The sum over all processes, in each of them."""
        if self.size > 1:
            dist.all_reduce(value)
        return value


def choose_device(name: str = "auto") -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, ok in there.items() if ok), "cpu")
    if not there.get(name, name == "cpu"):
        raise ValueError(f"device {name!r} is not to be had here: take --device auto or cpu")
    return torch.device(name)


def choose_precision(device: torch.device, dtype: str = "auto") -> Precision:
    """What `dtype` means on this device; "auto" is the fastest that is safe.

    CUDA of compute capability 8.0 or more (A100 and later): bf16 and TF32. Older CUDA (a T4):
    fp16 with a scaler, for its bf16 is emulated and slow, whatever is_bf16_supported() says. MPS
    and CPU: fp32. ValueError for what the device cannot do.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    if device.type != "cuda":
        if dtype == "float16":
            raise ValueError(f"float16 needs a CUDA GPU to train, not {device.type}: take auto")
        return Precision(torch.bfloat16 if dtype == "bfloat16" else None, False, False)
    capability = torch.cuda.get_device_capability(device)
    new = capability >= (8, 0)
    if dtype == "bfloat16" and not new:
        have = ".".join(map(str, capability))
        raise ValueError(f"bfloat16 needs compute capability 8.0, this GPU has {have}: take auto")
    if dtype == "auto":
        dtype = "bfloat16" if new else "float16"
    autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    return Precision(autocast, dtype == "float16", new)


# -- the loss -------------------------------------------------------------------------------------


def chunked_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """The sum of -ln p of the labels, never holding more than `chunk` rows of logits.

    hidden (B, T, D), head (V, D), labels (B, T), -100 = no target. For 32 × 1,024 tokens and
    49,152 ids the fp32 logits alone are 6.4 GB, and their gradient as much again. Here each
    chunk's logits are dropped after the sum and computed once more for the gradient, which is
    exact: one more product with the head (about a fifth of SmolLM2-135M's forward pass). Where one
    chunk is enough, nothing is computed twice.
    """
    rows, targets = hidden.flatten(0, 1), labels.flatten()

    def loss_of(rows: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(rows, head).float()
        return F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)

    if len(rows) <= chunk:
        return loss_of(rows, targets)
    pairs = zip(rows.split(chunk), targets.split(chunk), strict=True)
    return sum(checkpoint(loss_of, r, t, use_reentrant=False) for r, t in pairs)


class LossModel(nn.Module):
    """A model and its loss in one `forward`, which is what compile and DDP want to wrap.

    Logits of more than `chunk` tokens are never held at once.
    """

    def __init__(self, model: SmolLM2, chunk: int = 4096):
        super().__init__()
        self.model, self.chunk = model, chunk

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels (B, T) -> the sum of -ln p and the number of targets, both ()."""
        hidden = self.model(inputs, head=False)
        head = self.model.lm_head.weight
        loss = chunked_cross_entropy(hidden, head, labels, self.chunk)
        return loss, (labels != -100).sum()


# -- what it is worth -----------------------------------------------------------------------------


class Validation(NamedTuple):
    """Held-out text as batches, its bytes, and on the stories their own -ln p: the floor."""

    batches: list[tuple[Tensor, Tensor]]
    size: int  # bytes of all the text in them
    floor: float | None  # nats of all the text in them


def validation_of(corpus: Corpus, tokenizer: BPETokenizer, config: TrainConfig) -> Validation:
    """What to evaluate on: whole stories, each after an end of text; of other texts, windows.

    At most 128 batches of the windows, from the beginning, so that a large text takes seconds.
    """
    end, B, T = tokenizer.eos_id, config.batch_size, config.seq_len
    if corpus.name == "stories":
        from smol.stories import log_prob

        longest = PRESETS[config.preset].config.max_position_embeddings
        rows = [[end, *tokenizer.encode(s, special=False), end] for s in corpus.validation]
        rows.sort(key=len)  # rows of a batch are alike, and little of it is padding
        if too_long := sum(len(row) > longest + 1 for row in rows):
            raise ValueError(f"{too_long} stories are longer than the context of {longest}")
        batches = [padded(rows[i : i + B], pad_id=end) for i in range(0, len(rows), B)]
        size = sum(len(s.encode()) for s in corpus.validation)
        return Validation(batches, size, -sum(map(log_prob, corpus.validation)))
    ids = encode(corpus.validation, tokenizer)
    count = min((len(ids) - 1) // T, 128 * B)
    if count < 1:
        raise ValueError(f"{len(ids)} held-out tokens are too few for a window of {T} + 1")
    ids = torch.from_numpy(ids[: count * T + 1].astype("int64"))
    inputs, labels = ids[:-1].view(count, T), ids[1:].view(count, T)
    batches = [(inputs[i : i + B], labels[i : i + B]) for i in range(0, count, B)]
    special = set(tokenizer.special_tokens.values())
    size = sum(len(tokenizer.token_bytes(i)) for i in ids[1:].tolist() if i not in special)
    return Validation(batches, size, None)


def sample(model: SmolLM2, tokenizer: BPETokenizer, length: int = 60, seed: int = 0) -> str:
    """How the model begins a document: drawn at temperature 0.8, the same draws for a seed."""
    device = model.embed_tokens.weight.device
    end = torch.tensor([[tokenizer.eos_id]], device=device)
    drawn = torch.Generator(device).manual_seed(seed)
    settings = {"temperature": 0.8, "stop_ids": [tokenizer.eos_id], "generator": drawn}
    return tokenizer.decode(generate(model, end, length, **settings)[0, 1:].tolist(), True)


@torch.no_grad()
def evaluate(loss_model: nn.Module, validation: Validation, device: torch.device) -> dict:
    """val_loss in nats per token, val_bits_per_byte and, where the floor is known, how far above
    it: val_over_floor, 0.05 for 5 %."""
    nats = targets = 0.0
    for inputs, labels in validation.batches:
        loss, count = loss_model(inputs.to(device), labels.to(device))
        nats, targets = nats + loss.item(), targets + count.item()
    result = {
        "val_loss": nats / targets,
        "val_bits_per_byte": nats / validation.size / math.log(2),
    }
    if validation.floor is not None:
        result["val_over_floor"] = nats / validation.floor - 1
    return result


# -- checkpoints ----------------------------------------------------------------------------------


def save_checkpoint(
    out: Path, step: int, state: dict, model: SmolLM2, tokenizer, keep: int
) -> None:
    """Writes out/step-NNNNNN, whole or not at all, and deletes all but the last `keep`.

    Each file is on the disk before the folder gets its name, so a power cut leaves no torn one.
    """
    folder, part = out / f"step-{step:06}", out / f".step-{step:06}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        save_pretrained(model, part)
        tokenizer.save(part)
        weights = _sha256(part / "model.safetensors")
        torch.save({**state, "step": step, "weights": weights}, part / "training.pt")
        on_disk(part / "training.pt")
        os.replace(part, folder)
    except (OSError, RuntimeError) as error:  # the latter is how torch.save says "disk full"
        raise OSError(
            f"{folder} could not be written ({error}); the last one still stands"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old)


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    folders = (f for f in out.glob("step-*") if re.fullmatch(r"step-\d+", f.name) and f.is_dir())
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def load_checkpoint(folder: Path, config: TrainConfig) -> dict:
    """What `save_checkpoint` was given as `state`, with "step"; the weights' file is whole.

    ValueError, naming the checkpoint, where it is torn or was made with other settings.
    """
    remedy = "delete it, and --resume takes the one before it"
    try:
        state = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        whole = state["weights"] == _sha256(folder / "model.safetensors")
        made = dict(state["config"])
    except Exception as error:  # a cut file fails in many ways
        raise ValueError(f"{folder} is torn ({type(error).__name__}): {remedy}") from error
    if not whole:
        raise ValueError(
            f"{folder} is torn (the weights are not those it was saved with): {remedy}"
        )
    now = json.loads(json.dumps(config.deciding()))
    if changed := [k for k in now if made.get(k) != now[k]]:
        what = ", ".join(f"{k} {made.get(k)!r}, not {now[k]!r}" for k in changed)
        raise ValueError(
            f"{folder} was made with {what}: resume with the same, or take another --out"
        )
    return state


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Log:
    """metrics.jsonl: an object a line, written at once. A resumed run drops what it repeats."""

    def __init__(self, file: Path, after: int):
        kept = [row for row in read_log(file) if row["step"] <= after] if file.exists() else []
        with written_beside(file.parent, file.name) as (part,):
            part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.file = file

    def add(self, row: dict) -> None:
        """Appends one row, as a line."""
        with self.file.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")


def read_log(file: str | Path) -> list[dict]:
    """The rows of a metrics.jsonl. A last line that a kill cut short is left out.

    Raises ValueError, with its number, for any other line that is not JSON.
    """
    rows = []
    *lines, last = Path(file).read_bytes().split(b"\n")  # empty, or cut short
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{file}: line {number} is not JSON ({error}): delete that line"
            ) from error
    with contextlib.suppress(ValueError):  # what lacks its line end only is still a row
        rows.append(json.loads(last))
    return rows


# -- the loop -------------------------------------------------------------------------------------


def train(config: TrainConfig, out: str | Path, resume: bool = False) -> SmolLM2:
    """Trains as `config` says and gives the model. Logs and checkpoints go to the folder `out`.

    With `resume` it goes on from the newest checkpoint there. SIGINT and SIGTERM save and stop
    after the step at hand. Under torchrun every process draws the same batch and takes its share;
    the first one evaluates, logs and saves, and any number of them may resume.

    Raises ValueError for settings that do not fit each other, the device or the checkpoint, and
    FileExistsError for an `out` that holds a run already.
    """
    out, ranks = Path(out), Ranks.of_torchrun()
    device = choose_device(config.device)
    if config.batch_size % (ranks.size * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {ranks.size} processes in "
            f"{config.accumulate} parts each: take a multiple of {ranks.size * config.accumulate}"
        )
    if ranks.size > 1:
        if device.type == "cuda":
            device = torch.device("cuda", ranks.local)
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        return _train(config, out, resume, device, ranks)
    finally:
        if ranks.size > 1:
            dist.destroy_process_group()


def _train(
    config: TrainConfig, out: Path, resume: bool, device: torch.device, ranks: Ranks
) -> SmolLM2:
    from tqdm import tqdm

    first = ranks.rank == 0
    precision = choose_precision(device, config.dtype)
    torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
    old = checkpoints(out)
    if old and not resume:
        raise FileExistsError(
            f"{out} holds a run up to {old[-1].name}: --resume it, or another --out"
        )
    if resume and not old:
        raise FileNotFoundError(f"{out} holds no checkpoint to resume: start without --resume")
    state = load_checkpoint(old[-1], config) if resume else None
    if state and state["step"] > config.steps:
        raise ValueError(
            f"{out} is at step {state['step']}, past {config.steps}: take more --steps"
        )

    if config.data == "cosmopedia":
        corpus = open_stream(config.data)
    else:
        corpus = load_corpus("stories" if config.data == "fresh" else config.data)
    tokenizer = tokenizer_of(corpus, config)
    if not first:
        ranks.barrier()  # until the first one has written the tokens' file
    batches = batches_of(corpus, tokenizer, config)
    if first:
        ranks.barrier()
    validation = validation_of(corpus, tokenizer, config)
    if state:
        model = load_pretrained(old[-1])
        batches.load_state_dict(state["batches"])
    else:
        torch.manual_seed(config.seed)
        preset = PRESETS[config.preset].config
        model = SmolLM2(dataclasses.replace(preset, vocab_size=len(tokenizer)))
    model = model.to(device).train()
    loss_model = run = LossModel(model)
    if ranks.size > 1 and config.fsdp:  # weights, gradients, optimizer: a share of each to a rank
        mesh = init_device_mesh(device.type, (ranks.size,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(loss_model, mesh=mesh)
    elif ranks.size > 1:
        run = DistributedDataParallel(run, device_ids=[device] if device.type == "cuda" else None)
    sharded = ranks.size > 1 and config.fsdp
    optimizers = optimizers_of(model, config, fused=device.type == "cuda")
    scaler = torch.amp.GradScaler(device.type, enabled=precision.scaler)
    if state:
        whole = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(model, optimizers, state["optimizer"], options=whole)
        scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
    run = torch.compile(run) if config.compile else run

    step = state["step"] if state else 0
    if first:
        out.mkdir(parents=True, exist_ok=True)
        log = Log(out / "metrics.jsonl", after=step)
    share = config.batch_size // ranks.size
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)

    def autocast():
        enabled = precision.autocast is not None
        return torch.autocast(device.type, precision.autocast or torch.float32, enabled=enabled)

    def save():
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathered on rank 0
        state = {
            "config": json.loads(json.dumps(config.deciding())),
            "optimizer": get_optimizer_state_dict(model, optimizers, options=whole),
            "scaler": scaler.state_dict(),
            "batches": batches.state_dict(),
            "rng": torch.get_rng_state(),  # nothing in a step draws, on the CPU or on a GPU
        }
        plain = model
        if sharded:
            weights = get_model_state_dict(model, options=whole)
            plain = skeleton(model.config)
            if first:
                plain.load_state_dict(weights, assign=True)
                plain.tie_weights()
        if first:
            save_checkpoint(out, step, state, plain, tokenizer, config.keep)

    def synchronise(now: bool):
        """Whether the next backward pass adds up the gradients of all processes."""
        if sharded:
            loss_model.set_requires_gradient_sync(now)
        elif ranks.size > 1 and not now:
            return run.no_sync()
        return contextlib.nullcontext()

    about = {"desc": f"train {config.preset}", "unit": " steps", "disable": not first}
    bar = tqdm(total=config.steps, initial=step, **about)
    with _stopped_by_signals() as stopped, bar:
        since, tokens = time.perf_counter(), 0
        while step < config.steps:
            rate = config.learning_rate * SCHEDULES[config.schedule](step, config)
            for group in [group for o in optimizers for group in o.param_groups]:
                group["lr"] = rate
            inputs, labels = next(batches)
            targets = (labels != -100).sum().item()
            nats = torch.zeros((), device=device)
            parts = [t[mine].to(device).chunk(config.accumulate) for t in (inputs, labels)]
            for number, (x, y) in enumerate(zip(*parts, strict=True), 1):
                with autocast(), synchronise(number == config.accumulate):
                    loss, _ = run(x, y)
                    # They take the mean over processes, and the sum is wanted: hence their number.
                    scaler.scale(loss * ranks.size / targets).backward()
                nats += loss.detach()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            norm = norm.full_tensor() if sharded else norm
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad(set_to_none=True)
            scaler.update()
            step, tokens = step + 1, tokens + targets
            bar.update()

            last, row = step == config.steps, {}
            if step % config.log_every == 0 or last:
                seconds = time.perf_counter() - since
                row = {
                    "loss": ranks.sum(nats).item() / targets,
                    "lr": rate,
                    "grad_norm": norm.item(),
                    "tokens": batches.tokens_seen,
                    "unique_tokens": batches.unique_tokens,
                    "tokens_per_second": tokens / seconds,
                }
                bar.set_postfix(loss=f"{row['loss']:.3f}")
            if (first or sharded) and (
                step % config.eval_every == 0 or last
            ):  # it takes all shards
                model.eval()
                with autocast():
                    row |= evaluate(loss_model, validation, device)
                if not sharded:  # which samples cannot be taken from
                    row["sample"] = sample(model, tokenizer)
                    said = f"held out {row['val_loss']:.3f}: {' '.join(row['sample'].split())}"
                    bar.write(f"step {step}, {said}", file=sys.stderr)
                model.train()
                if sharded:  # FSDP keeps the root gathered after a forward, for its backward
                    loss_model.reshard()
            if row:
                if first:
                    log.add({"step": step, **row})
                if not math.isfinite(row.get("loss", 0.0)):
                    raise ValueError(
                        f"the loss is {row['loss']} at step {step}: take a lower learning rate "
                        "(the last checkpoint still stands)"
                    )
                since, tokens = time.perf_counter(), 0
            stop = bool(stopped)
            if ranks.size > 1:  # a signal may reach one before this step's end, another after it
                stop = ranks.sum(torch.tensor(float(stop), device=device)).item() > 0
            if (first or sharded) and (step % config.save_every == 0 or last or stop):
                save()
            if stop and not last:
                if first:
                    why = stopped[0] if stopped else "another process"
                    said = f"stopped by {why} after step {step}, saved: --resume goes on"
                    bar.write(said, file=sys.stderr)
                break
    if first:
        bar.write(_seen(batches), file=sys.stderr)
    ranks.barrier()
    return model.eval()


def _seen(batches: Windows | Stream | FreshStories) -> str:
    said = f"{batches.tokens_seen:,} tokens seen, {batches.unique_tokens:,} of them unique"
    if batches.corpus_tokens:
        return f"{said}: {batches.tokens_seen / batches.corpus_tokens:.2f} epochs"
    return said


def tokenizer_of(corpus: Corpus, config: TrainConfig) -> BPETokenizer:
    """The tokenizer that the run is to use: the one named, or one trained on the corpus."""
    size = PRESETS[config.preset].vocab_size
    if config.tokenizer or size is None:
        return BPETokenizer.load(config.tokenizer or "HuggingFaceTB/SmolLM2-135M-Instruct")
    texts = corpus.train if isinstance(corpus.train, list) else corpus.validation
    return BPETokenizer.train(texts, size, SPECIAL_TOKENS)


def batches_of(
    corpus: Corpus, tokenizer: BPETokenizer, config: TrainConfig
) -> Windows | Stream | FreshStories:
    """Windows of a corpus on disk, the packed documents of a stream, or whole new stories."""
    size = (config.batch_size, config.seq_len, config.seed)
    if config.data == "fresh":
        return FreshStories(tokenizer, *size)
    if isinstance(corpus.train, list):
        return Windows(tokenise(corpus, tokenizer).train, *size)
    return Stream(corpus.train, tokenizer, *size)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterable[list[str]]:
    """Yields a list that gets the name of a SIGINT or SIGTERM; a second one stops at once."""
    stopped: list[str] = []

    def note(number, frame):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        old = [signal.signal(number, note) for number in numbers]
    except ValueError:  # not in the main thread, where signals do not arrive
        yield stopped
        return
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument(
        "--data", default="stories", help="stories, fresh, shakespeare, cosmopedia, a path"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for log and checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's last checkpoint")
    for name, kind in (
        ("steps", int),
        ("batch-size", int),
        ("seq-len", int),
        ("accumulate", int),
        ("learning-rate", float),
        ("seed", int),
        ("log-every", int),
        ("eval-every", int),
        ("save-every", int),
        ("keep", int),
        ("tokenizer", str),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--optimizer", choices=("adamw", "muon"))
    parser.add_argument("--schedule", choices=SCHEDULES)
    parser.add_argument("--device", choices=DEVICES)
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--compile", action="store_true", default=None)
    parser.add_argument("--fsdp", action="store_true", default=None, help="shard under torchrun")
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    out, resume = given.pop("out"), given.pop("resume")
    preset = PRESETS[given["preset"]]
    defaults = {k: getattr(preset, k) for k in ("batch_size", "seq_len", "learning_rate")}
    try:
        train(TrainConfig(**{**defaults, **given}), out, resume)
    except (ValueError, OSError) as error:
        print(f"smol.train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
