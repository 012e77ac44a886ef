"""What a CUDA GPU is to show, in under five minutes: `python -m smol.bench gpu`.

First whether what is fast is equal, then how fast it is: decoding, training with large and with
small batches, and a run with its held-out loss. Each figure is printed and written as soon as
it is measured. What is wrong or fails is told and kept under "failed", the rest goes on, and the
exit status is 1.
"""

import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from smol import count
from smol.bench import gpu
from smol.bench.decode import Writers, cast, each_token, models_of, of_ours, of_transformers
from smol.bench.timing import Run, done, machine, rates
from smol.bench.train import Rung, train
from smol.count import decode_work, flops_per_token, training_memory
from smol.device import check_compiler, choose_dtype, choose_precision
from smol.generate import generate
from smol.generate.fixed import AHEAD, fixed_steps
from smol.generate.steps import unplanned
from smol.model import SmolLM2
from smol.terminal import reason
from smol.train import PRESETS

SECONDS = 280.0
PROMPT = 32  # tokens, drawn at random
# bf16 rounds the plain path's logits too, after thirty layers by up to 5 % of the largest one, and
# no two ways of adding up round alike. What is computed wrongly is further from fp32 than both.
FAR = 1.25


class Sizes(NamedTuple):
    """What is measured on a GPU. Tests take less."""

    preset: str = "135m"
    greedy: int = 256  # tokens whose ids are compared
    large: tuple[int, int] = (32, 1024)  # windows and tokens of a training step
    small: tuple[int, int] = (4, 256)
    cache: int = 1024  # tokens at the end of what is decoded
    new: int = 64  # of them timed
    batches: tuple[int, ...] = (1, 64)
    rounds: int = 5


def on_cuda(run: Run) -> dict:
    """All parts, in SECONDS unless the run has others. ValueError without a CUDA GPU."""
    if not torch.cuda.is_available():
        raise ValueError(
            "gpu needs a CUDA GPU, and there is none here: python -m smol.bench decode train "
            "measures this machine"
        )
    return measured(Run(run.left(SECONDS), run.write), Sizes(), torch.device("cuda"))


def measured(run: Run, sizes: Sizes, device: torch.device) -> dict:
    """The figures of each part by its name, and "failed": what was wrong, in a sentence each."""
    failed = []
    for name, part in PARTS.items():
        print(f"\n-- {name}")
        inner = Run(run.left(), lambda figures, name=name: run.note(**{name: figures}))
        try:
            found = part(inner, sizes, device)
            run.note(**{name: found})
            failed += [f"{name}: {why}" for why in found.get("failed", [])]
        except Exception as error:  # whatever it is, what comes after it is worth its time
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {reason(error)}")
        run.note(failed=failed)
        gc.collect()  # the models of the part, before the next one's
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print("\n" + ("\n".join(f"FAILED {why}" for why in failed) or "equal wherever it must be"))
    return run.figures


def no_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for the device; None where it can."""
    try:
        check_compiler(device)
    except ValueError as error:
        return str(error)
    return None


def plainly(model: SmolLM2, ids: Tensor, new: int) -> Tensor:
    """Greedily on from ids (B, T): (B, T + new). As one would write it: a cache that grows, the
    model as it stands."""
    cache = model.new_cache(len(ids), ids.size(1) + new)
    with torch.no_grad(), unplanned():
        for _ in range(new):
            hidden = model(ids[:, cache.length :], cache, head=False)[:, -1:]
            ids = torch.cat((ids, model.lm_head(hidden).argmax(-1)), dim=1)
    return ids


# -- equal ----------------------------------------------------------------------------------------


def equal(run: Run, sizes: Sizes, device: torch.device) -> dict:
    """Of steps that are captured, and compiled too: in fp32 the greedy ids, which must be the
    plain path's; in bf16 the logits of the next token after the same text, which must be about
    as near to fp32's as the plain path's."""
    torch.set_float32_matmul_precision("highest")
    _, model = models_of(PRESETS[sizes.preset].config, device)
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, PROMPT), generator=drawn).to(device)
    ways, skipped = {"captured": False, "captured and compiled": True}, {}
    if why := no_compiler(device):
        skipped["captured and compiled"] = why
        del ways["captured and compiled"]
        print(f"captured and compiled: skipped: {why}")
    text, failed, rows = plainly(model, ids, sizes.greedy), [], {}
    for name, compile in ways.items():
        start = time.perf_counter()
        got = done(generate(model, ids, sizes.greedy, compile=compile))
        rows[name] = {"seconds": time.perf_counter() - start, **_same_ids(model, got, text)}
        told = f"fp32, {name}: {rows[name]['told']}"
        print(f"{told} ({rows[name]['seconds']:.1f} s, compiling included)")
        if not torch.equal(got, text):
            failed.append(told)
        run.note(float32=rows, skipped=skipped, failed=failed)
    if device.type == "cuda" and choose_dtype(device) != torch.bfloat16:
        run.note(skipped={**skipped, "bf16": "this GPU has none"})
    else:
        run.note(**_bfloat16(model, text, ways, failed), failed=failed)
    return run.figures


def _bfloat16(model: SmolLM2, text: Tensor, ways: dict[str, bool], failed: list[str]) -> dict:
    """The model is rounded in place. What is wrong is added to `failed`."""
    rows, start = {}, PROMPT
    with torch.no_grad():
        exact = model(text)[0, start:]
        plain = model.to(torch.bfloat16)(text)[0, start:].float()
    usual = _distance(plain, exact)
    for name, compile in ways.items():
        begin = time.perf_counter()
        got = _logits_along(model, text, start, compile)
        seconds = time.perf_counter() - begin
        times = _distance(got, exact) / usual
        off = ((got - plain).abs().max() / plain.abs().max()).item()
        share = (got.argmax(-1) == plain.argmax(-1)).float().mean().item()
        rows[name] = {"times": times, "largest_difference": off, "equal_ids": share}
        rows[name]["seconds"] = seconds
        told = f"bf16, {name}: {times:.2f} × as far from fp32's logits as the plain path"
        print(
            f"{told} (at most {FAR}); from that by {off:.1e} of the largest logit where it is "
            f"most; {share:.1%} of {len(got)} next ids are equal"
        )
        if not times <= FAR:  # nor NaN
            failed.append(f"{told}, {FAR} is allowed")
    return {"bfloat16": rows, "plain_from_float32": usual}


def _distance(logits: Tensor, exact: Tensor) -> float:
    """The root of the mean square."""
    return (logits - exact).pow(2).mean().sqrt().item()


def _same_ids(model: SmolLM2, got: Tensor, text: Tensor) -> dict:
    """How many new ids of `text` (1, PROMPT + new) come before the first that is another one in
    `got`, and how near to it the plain path was."""
    new, other = text[0, PROMPT:], (got != text)[0].nonzero()
    row = {"equal": len(new), "of": len(new), "different_ids": len(new.unique())}
    if not len(other):
        told = f"{len(new)} of {len(new)} greedy ids are the plain path's"
        return {**row, "told": f"{told}, {row['different_ids']} different ones among them"}
    at = other[0].item()
    with torch.no_grad():
        logits = model(text[:, :at])[0, -1]
    gap = (logits[text[0, at]] - logits[got[0, at]]).item()
    told = f"greedy id {at - PROMPT + 1} of {len(new)} is not the plain path's"
    told += f", whose logit is larger by {gap:.1e}"
    return {**row, "equal": at - PROMPT, "gap": gap, "told": told}


def _logits_along(model: SmolLM2, text: Tensor, start: int, compile: bool) -> Tensor:
    """Logits (T - start, V) after each token from `start` on of text (1, T), by fixed steps."""
    with torch.no_grad(), fixed_steps(model, 1, text.size(1), compile) as steps:
        model(text[:, :start], steps.cache, head=False)
        tokens = text[:, start:].split(1, dim=1)
        return torch.cat([steps.logits(token).clone() for token in tokens])


# -- training -------------------------------------------------------------------------------------


def _how(device: torch.device) -> dict:
    """What all rungs share: the same loop, precision and optimizer."""
    best = choose_precision(device)
    dtype = "bfloat16" if best.autocast == torch.bfloat16 else "float32"
    return {"dtype": dtype, "tf32": best.tf32, "fused": True}


def large(run: Run, sizes: Sizes, device: torch.device) -> dict:
    """A step that fills the GPU: transformers' model, ours as it stands, and ours at its fastest,
    in one loop; of its memory, and of what the chip can do."""
    (B, T), config = sizes.large, PRESETS[sizes.preset].config
    if device.type == "cuda":  # the other contestants' weights and moments lie there too
        room = 0.95 * torch.cuda.mem_get_info()[0] - 32 * count.count_parameters(config)["total"]
        while B > 1 and training_memory(config, B, T)["total"] > room:
            B //= 2
    how, compile = _how(device), no_compiler(device) is None
    fastest = {"chunk": 4096, "own": True, "compile": compile}
    rungs = [
        Rung("transformers", theirs=True, **how),
        Rung("ours, plain", **how),
        Rung("ours, fastest", **fastest, **how),
    ]
    found = train(sizes.preset, B, T, sizes.rounds, run, rungs)
    theirs, *_, ours = found["rungs"]
    failed = [f"{name}: {why}" for name, why in found["skipped"].items()]
    causal = flops_per_token(config, T, causal=True) / flops_per_token(config, T)
    shares = {"measured": ours["mfu"], "data_sheet": ours["mfu_of_data_sheet"]}
    shares |= {f"{name}_causal": share and share * causal for name, share in shares.items()}
    memory = ours["memory"] and theirs["memory"] and ours["memory"] / theirs["memory"]
    best = {"name": ours["name"], "speedup": ours["speedup"], "memory_ratio": memory}
    run.note(best={**best, "mfu": shares}, failed=failed)
    percent = {name: f"{share:.0%}" if share else "unknown" for name, share in shares.items()}
    print(
        f"{B} × {T}, {ours['name']}: {ours['tokens_per_second']:,.0f} tokens/s, "
        f"{ours['speedup']:.2f} × transformers (aim: 2), memory {memory or math.nan:.2f} × "
        "(aim: 0.55)\n"
        f"share of the product measured here {percent['measured']} counting all pairs (aim: 42%), "
        f"{percent['measured_causal']} counting those that causal attention needs; of the data "
        f"sheet {percent['data_sheet']} and {percent['data_sheet_causal']}"
    )
    return run.figures


def small(run: Run, sizes: Sizes, device: torch.device) -> dict:
    """A step that waits for launches: as it stands, captured, and with compiled blocks too."""
    how = {"chunk": 4096, "own": True, **_how(device)}
    rungs = [Rung("eager", **how), Rung("captured", captured=True, **how)]
    if why := no_compiler(device):
        print(f"captured, compiled: skipped: {why}")
    else:
        rungs.append(Rung("captured, compiled", captured=True, compile=True, **how))
    found = train(sizes.preset, *sizes.small, 4 * sizes.rounds, run, rungs)
    run.note(failed=[f"{name}: {why}" for name, why in found["skipped"].items()])
    for row in found["rungs"]:
        middle = statistics.median(row["seconds"])
        print(
            f"{row['name']}: {1 / middle:.1f} steps/s, {row['speedup']:.1f} × eager (aim: 5); "
            f"5,000 steps would take {5000 * middle:,.0f} s"
        )
    return run.figures


def recipe(run: Run, sizes: Sizes, device: torch.device) -> dict:
    """A short run of `smol.train` with the small batch, and its held-out loss."""
    B, T = sizes.small
    changes = {"batch_size": B, "seq_len": T, "compile": no_compiler(device) is None}
    how = {"preset": sizes.preset, "device": device.type, **changes}
    return gpu.train_and_tell(max(0.0, run.left() - 40), **how)  # it compiles and looks as well


# -- decoding -------------------------------------------------------------------------------------


def decode(run: Run, sizes: Sizes, device: torch.device) -> dict:
    """Milliseconds a token at the end of a cache: transformers', ours as one would write it, its
    steps captured, and compiled too; of one text, and of many."""
    device, dtype, speeds = rates()
    config, about = PRESETS[sizes.preset].config, machine()
    theirs, ours = models_of(config, device)
    cast(theirs, [ours], dtype)
    ways = {
        "transformers": of_transformers(theirs),
        "ours, plain": partial(plainly, ours),
        "ours, captured": of_ours(ours),
    }
    skipped, failed, results = {}, [], []
    if why := no_compiler(device):
        skipped["ours, fastest"] = why
    else:
        ways["ours, fastest"] = of_ours(ours, compile=True)
    run.note(flops_per_second=speeds[0], bytes_per_second=speeds[1], dtype=str(dtype)[6:])
    length = sizes.cache - sizes.new - 1
    for B in sizes.batches:
        ids = torch.randint(config.vocab_size, (B, length), device=device)
        found = Writers({}, {}, {**skipped}, set())
        for name, write in ways.items():
            try:
                found.first[name] = _seconds(write, ids)
                found.rows[name] = write
            except RuntimeError as error:
                found.skipped[name] = reason(error)
                failed.append(f"batch of {B}, {name}: {reason(error)}")
        first = {**run.figures.get("first_call", {}), str(B): found.first}
        run.note(first_call=first, skipped=found.skipped, failed=failed)
        work = decode_work(config, length + sizes.new // 2, B, dtype.itemsize)
        bound = count.roofline(*work, *speeds)
        results += each_token(found, ids, sizes.new, sizes.rounds, bound, run)
        run.note(writers=results)
        best = results[-1]
        print(
            f"batch of {B}: {1e3 * statistics.median(best['seconds']):.2f} ms a token by "
            f"{best['name']} on {about.get('gpu', 'no GPU')} beside {about['cpu']}: "
            f"{best['speedup']:.1f} × transformers, {best['part_of_roofline']:.0%} of the "
            "bandwidth (aim on an H200: at most 1.1 ms, 2.6 for 64 texts)"
        )
    return run.figures


def _seconds(write: Callable, ids: Tensor) -> float:
    """Of a first call, in which all that is to be compiled and captured is."""
    start = time.perf_counter()
    done(write(ids, 2 + AHEAD))
    return time.perf_counter() - start


# Decoding second: it finds compiled what the first part compiled, which training drops.
PARTS = {"equal": equal, "decode": decode, "train": large, "small": small, "run": recipe}
