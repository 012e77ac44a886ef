"""One training step, an improvement at a time, and transformers' model in the same loop."""

import copy
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol import count
from smol.bench.timing import (
    Run,
    done,
    matmul_rate,
    median_ratio,
    peak_memory,
    side_by_side,
    spread,
)
from smol.count import flops_per_token
from smol.device import Precision, choose_device, choose_precision
from smol.pretrained import from_reference
from smol.terminal import reason
from smol.train import (
    PRESETS,
    LossModel,
    Ranks,
    TrainConfig,
    chunked_cross_entropy,
    parameter_groups,
)
from smol.train.captured import CapturedStep
from smol.train.compiled import compiled_blocks
from smol.train.learner import Learner


class Rung(NamedTuple):
    """One way to take the same training step."""

    name: str
    dtype: str = "float32"
    tf32: bool = False
    theirs: bool = False  # the model of transformers, its logits in one piece
    chunk: int | None = None  # None: ours too holds all logits at once
    own: bool = False  # the loss makes its gradient while it has a chunk's logits
    fused: bool = False
    compile: bool = False  # ours block by block; its first step takes long
    captured: bool = False  # the whole step is one CUDA graph
    needed: bool = True  # measured whatever the time; the others where it suffices

    @property
    def product(self) -> str:
        """The kind of matrix product that it is made of."""
        return "tf32" if self.tf32 and self.dtype == "float32" else self.dtype


def ladder(device: torch.device) -> list[Rung]:
    """Each rung adds one thing to the one before. What a device has not is no rung of its ladder:
    TF32 and captured steps are CUDA's."""
    rows, best = [Rung("transformers", theirs=True), Rung("ours")], choose_precision(device)
    if best.tf32:
        rows.append(Rung("+ TF32", tf32=True))
    dtype = "float32"
    if best.autocast == torch.bfloat16 or device.type == "cpu":
        dtype = "bfloat16"
        rows.append(Rung("+ bf16", dtype, best.tf32))
    more = {"tf32": rows[-1].tf32, "dtype": dtype}
    for name, key, value in (
        ("+ fused AdamW", "fused", True),
        ("+ chunked loss", "chunk", 4096 if device.type == "cuda" else 512),
        ("+ its own gradient", "own", True),
        ("+ compile", "compile", True),
    ):
        more[key] = value
        rows.append(Rung(name, **more))
    plain = {"tf32": more["tf32"], "dtype": dtype, "theirs": True}
    too = Rung("transformers, so too", fused=True, needed=False, **plain)
    best = rows[-1]  # and transformers' and our plain model
    rows = [row._replace(needed=row.name in ("transformers", "ours", best.name)) for row in rows]
    if device.type == "cuda":
        rows.append(best._replace(name="+ captured", captured=True, needed=False))
    return [*rows, too, too._replace(name="transformers, so too, compiled", compile=True)]


class Contestant(NamedTuple):
    """A rung that has taken its first step."""

    rung: Rung
    step: Callable[[], float]
    loss: float  # before the first step
    first: float  # seconds of the first step
    resident: int  # bytes of the weights and of what the optimizer remembers


COMPILES = 40.0  # seconds that a rung takes to compile, until one has shown how many it is here


def train(
    preset: str | None = None,
    batch_size: int = 0,
    seq_len: int = 0,
    rounds: int = 5,
    run: Run | None = None,
    rungs: list[Rung] | None = None,
) -> dict:
    """One training step on every rung of the ladder, and transformers' model in the same loop.

    On a CUDA GPU SmolLM2-135M, 32 × 1,024 tokens; on the CPU the preset "small", 16 × 256. The
    model's share of the arithmetic (MFU) is taken against a matrix product measured here, in the
    rung's own precision, and of a known chip in bf16 against its data sheet too; its FLOPs count
    full attention. Memory is what one contestant holds at most in a step, weights and optimizer
    with it. Where a `run` has little time, there are fewer rounds, and rungs are skipped. Other
    `rungs` than the ladder's are compared with the first of them.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    device = choose_device()
    cuda = device.type == "cuda"
    preset = PRESETS[preset or ("135m" if cuda else "small")]
    config = dataclasses.replace(preset.config, vocab_size=preset.vocab_size or 49_152)
    B, T = batch_size or (32 if cuda else 16), seq_len or (1024 if cuda else 256)
    torch.manual_seed(0)
    ids = torch.randint(config.vocab_size, (B, T + 1), device=device)
    theirs = LlamaForCausalLM(LlamaConfig(**config.to_dict())).to(device)
    run = run or Run()
    flops = B * T * flops_per_token(config, T)
    run.note(preset=dataclasses.asdict(config), batch_size=B, seq_len=T, flops_per_step=flops)
    contestants, skipped = _equal_contestants(rungs or ladder(device), theirs, ids, run)

    def after(seconds: dict[str, list[float]]) -> None:
        said = (f"{name} {times[-1]:.3f}" for name, times in seconds.items())
        print(f"seconds a step: {', '.join(said)}", file=sys.stderr)
        run.note(seconds=seconds)

    steps = {c.rung.name: c.step for c in contestants}
    seconds = side_by_side(steps, rounds, run, after)
    peaks = {c.rung.name: _peak(c, device) for c in contestants}
    rates = _product_rates({c.rung.product for c in contestants}, device)
    rows = _compared(contestants, device, seconds, peaks, rates, B * T, flops)
    for name, why in skipped.items():
        print(f"{name:32}skipped: {why}")
    for dtype, rate in rates.items():
        print(f"matrix product, {dtype}: {rate / 1e12:.2f} TFLOP/s measured")
    del run.figures["seconds"]  # they stand in the rows now
    run.note(matmul_flops_per_second=rates, rungs=rows, skipped=skipped)
    return run.figures


def _peak(contestant: Contestant, device: torch.device) -> int | None:
    # A graph's memory is its own from the capture on: a step takes nothing more.
    return None if contestant.rung.captured else peak_memory(contestant.step, device)


def training_step(
    model: nn.Module, rung: Rung, inputs: Tensor, labels: Tensor
) -> tuple[Callable, torch.optim.Optimizer]:
    """A function that takes a step on always the same batch and gives the loss before it; and its
    optimizer."""
    if rung.captured:
        return _captured_step(model, rung, inputs, labels)
    if rung.own:
        run = LossModel(model, rung.chunk)
    elif rung.chunk:

        def run(inputs, labels):
            hidden = model(inputs, head=False)
            head = model.lm_head.weight
            return chunked_cross_entropy(hidden, head, labels, rung.chunk), None

    else:

        def run(inputs, labels):
            logits = model(inputs)
            logits = getattr(logits, "logits", logits).float()
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), None

    kept = ExitStack()
    if rung.compile and rung.own:
        kept.enter_context(compiled_blocks(run))
    elif rung.compile:
        run = torch.compile(run)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-5, fused=rung.fused)
    dtype, kind = getattr(torch, rung.dtype), inputs.device.type

    def step() -> float:
        torch.set_float32_matmul_precision("high" if rung.tf32 else "highest")
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            loss = run(inputs, labels)[0] / labels.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return done(loss.detach()).item()

    step.kept = kept  # with the step goes what was compiled for it
    return step, optimizer


def _captured_step(
    model: nn.Module, rung: Rung, inputs: Tensor, labels: Tensor
) -> tuple[Callable, torch.optim.Optimizer]:
    """`training_step` as `smol.train` takes it where a step is one CUDA graph: its batch comes
    from the CPU. The first call takes the steps before the capture too."""
    dtype, kept = getattr(torch, rung.dtype), ExitStack()
    precision = Precision(dtype if dtype != torch.float32 else None, False, rung.tf32)
    B, T = inputs.shape
    config = TrainConfig(preset="135m", batch_size=B, seq_len=T)
    batch = inputs.cpu(), labels.cpu()
    learner = Learner(model, config, inputs.device, precision, Ranks())
    learner.captured = CapturedStep(learner)  # however large the batch is
    if rung.compile:
        kept.enter_context(learner.compiling())

    def step() -> float:
        torch.set_float32_matmul_precision("high" if rung.tf32 else "highest")
        nats, targets, _ = learner.step(*batch, 1e-5)
        loss = nats.item() / targets
        while learner.captured.graph is None:
            learner.step(*batch, 1e-5)
        return loss

    step.kept = kept
    return step, learner.optimizers[0]


def _equal_contestants(
    rungs: list[Rung], theirs: nn.Module, ids: Tensor, run: Run
) -> tuple[list[Contestant], dict[str, str]]:
    """Each rung after its first step, and why others are skipped: there is no time for them, no
    memory, or they do not compile. AssertionError where a loss is not the first one's."""
    found, skipped, long, reserve = {}, {}, COMPILES, 0.0
    for rung in sorted(rungs, key=lambda rung: not rung.needed):  # those first that are needed
        needs = long * rung.compile + reserve
        if not rung.needed and run.left() < needs:
            skipped[rung.name] = f"{run.left():.0f} s were left, it needs about {needs:.0f}"
            continue
        try:
            step, optimizer, loss, seconds = _first_step(rung, theirs, ids)
        except RuntimeError as error:
            if not found:
                raise
            skipped[rung.name] = reason(error)
            continue
        if rung.compile:
            long = seconds
        else:
            reserve += 4 * seconds  # two rounds, the memory
        weights = (p for group in optimizer.param_groups for p in group["params"])
        held = [*weights, *(t for s in optimizer.state.values() for t in s.values())]
        resident = sum(tensor.nbytes for tensor in held)
        found[rung.name] = Contestant(rung, step, loss, seconds, resident)
        base = next(iter(found.values()))
        if abs(loss - base.loss) > (2e-2 if rung.dtype != "float32" or rung.tf32 else 1e-4):
            first = f"{base.rung.name} {base.loss}"
            raise AssertionError(f"{rung.name} has a loss of {loss}, {first}")
        print(f"{rung.name}: loss {loss:.4f} in a first step of {seconds:.1f} s", file=sys.stderr)
        run.note(first_step={name: c.first for name, c in found.items()}, skipped={**skipped})
    return [found[rung.name] for rung in rungs if rung.name in found], skipped


def _first_step(rung: Rung, theirs: nn.Module, ids: Tensor) -> tuple:
    model = copy.deepcopy(theirs) if rung.theirs else from_reference(theirs).to(ids.device)
    step, optimizer = training_step(model.train(), rung, ids[:, :-1], ids[:, 1:])
    start = time.perf_counter()
    loss = step()
    return step, optimizer, loss, time.perf_counter() - start


def _product_rates(products: set[str], device: torch.device) -> dict[str, float]:
    """FLOPs per second of each kind of matrix product."""
    rates = {}
    for product in sorted(products):
        torch.set_float32_matmul_precision("high" if product == "tf32" else "highest")
        dtype = torch.bfloat16 if product == "bfloat16" else torch.float32
        rates[product] = matmul_rate(device, dtype, 8192 if device.type == "cuda" else 2048)
    return rates


def _compared(
    contestants: list[Contestant],
    device: torch.device,
    seconds: dict[str, list[float]],
    peaks: dict[str, int | None],
    rates: dict[str, float],
    tokens: int,
    flops: int,
) -> list[dict]:
    """A row for each contestant, printed too; `tokens` and `flops` are those of one step."""
    chip = count.chip(torch.cuda.get_device_name()) if device.type == "cuda" else None
    base = contestants[0].rung.name
    titles = f"{'tokens/s':>9}  {f'x {base}':>14}  {'MFU':>5}  memory  first step"
    print(f"{'':32}{'a step':<30}{titles}")
    rows = []
    for rung, _, loss, first, resident in contestants:
        name, times = rung.name, seconds[rung.name]
        middle, peak = statistics.median(times), peaks[name]
        of_sheet = chip and rung.dtype == "bfloat16"
        row = {
            "name": name,
            "loss": loss,
            "seconds": times,
            "tokens_per_second": tokens / middle,
            "speedup": median_ratio(seconds[base], times),
            "mfu": flops / middle / rates[rung.product],
            "mfu_of_data_sheet": flops / middle / chip.flops if of_sheet else None,
            "memory": peak and peak + resident,
            "first_step": first,
        }
        rows.append(row)
        held = f"{row['memory'] / 1e9:.1f} GB" if row["memory"] else "not measured"
        print(
            f"{name:32}{spread(times):<30}{row['tokens_per_second']:9,.0f}  "
            f"{row['speedup']:14.2f}  {row['mfu']:5.0%}  {held}  {first:7.1f} s"
        )
    return rows
