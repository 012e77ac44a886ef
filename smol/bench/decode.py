"""Decode and prefill, under the roofline of this machine and beside transformers."""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smol import count
from smol.bench import llama
from smol.bench.timing import (
    Run,
    done,
    expect_slower,
    median_ratio,
    peak_memory,
    rates,
    side_by_side,
    spread,
)
from smol.config import SmolLM2Config
from smol.count import decode_work, forward_flops, prefill_work
from smol.generate import generate, prepare_for_decoding
from smol.model import SmolLM2
from smol.pretrained import from_reference
from smol.pretrained.wheel import in_cache


def roofline(config: SmolLM2Config | None = None, length: int = 256, rounds: int = 5) -> dict:
    """Prefill of `length` tokens and decode of one more, against the roofline of this machine.

    The model is SmolLM2-135M with random weights, in bf16 on CUDA and fp32 elsewhere. The bound is
    made of a matrix product and a read measured here (`count.roofline`); a measurement below it
    raises AssertionError, for then a count or a rate is wrong.
    """
    config = config or SmolLM2Config()
    device, dtype, speeds = rates()
    model = SmolLM2(config).to(device, dtype).eval()
    ids = torch.randint(config.vocab_size, (1, length), device=device)
    cache = model.new_cache(max_length=length + rounds + 1)
    work = {"prefill": prefill_work, "decode": decode_work}
    with torch.inference_mode():
        model(ids, cache)
        runs = {
            "prefill": lambda: done(model(ids)),
            "decode": lambda: done(model(ids[:, :1], cache)),
        }
        seconds = side_by_side(runs, rounds)
    print(f"{speeds[0] / 1e9:,.0f} GFLOP/s in a matrix product, {speeds[1] / 1e9:,.0f} GB/s read")
    rows = []
    for name, times in seconds.items():
        flops, moved = work[name](config, length, bytes_per_number=dtype.itemsize)
        bound = count.roofline(flops, moved, *speeds)
        expect_slower(name, times, bound)
        part = bound / statistics.median(times)
        rows.append({"work": name, "flops": flops, "bytes": moved, "seconds": times})
        rows[-1] |= {"bound": bound, "part_of_roofline": part}
        print(f"{name:8} {spread(times)}, at least {bound:.3f} s: {part:.0%} of the roofline")
    return {"flops_per_second": speeds[0], "bytes_per_second": speeds[1], "length": length} | {
        "dtype": str(dtype)[6:],
        "work": rows,
    }


Writer = Callable[[Tensor, int], Tensor]  # prompts (B, T), number of new tokens -> all ids
COMPILES = 60.0  # seconds that a row takes to compile, until one has shown how many it is here


class Row(NamedTuple):
    """A way to go on with a text greedily, a line of the table."""

    name: str
    make: Callable[[], Writer]
    compiled: bool = False  # its first call takes long
    needed: bool = True  # measured whatever the time; the others where it suffices
    same: bool = True  # the same weights, so the same ids


def models_of(config: SmolLM2Config, device: torch.device) -> tuple[nn.Module, SmolLM2]:
    """transformers' model and ours with the same random weights, in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None}  # so that none of them stops early
    theirs = LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), **ends})).eval().to(device)
    return theirs, from_reference(theirs).to(device)


def cast(theirs: nn.Module, ours: list[SmolLM2], dtype: torch.dtype) -> None:
    """The models in `dtype`; RoPE's table stays, which no checkpoint holds in half precision."""
    inverse = theirs.model.rotary_emb.inv_freq
    for model in (theirs, *ours):
        model.to(dtype)
    theirs.model.rotary_emb.inv_freq = inverse


def of_transformers(theirs: nn.Module, **settings) -> Writer:
    def write(ids: Tensor, new: int) -> Tensor:
        lengths = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
        mask = torch.ones_like(ids)
        return theirs.generate(ids, attention_mask=mask, do_sample=False, **lengths, **settings)

    return write


def of_ours(model: SmolLM2, **settings) -> Writer:
    return lambda ids, new: generate(model, ids, new, **settings)


def ladder(theirs: nn.Module, ours: SmolLM2) -> tuple[list[Row], list[SmolLM2]]:
    """The rows, and those of our models that they share: transformers' as it comes, with a cache
    of fixed size and compiled, and ours with one thing more in each row."""
    from transformers import CompileConfig

    models, cpu = [ours], theirs.device.type == "cpu"
    compiling = CompileConfig()
    compiling._compile_all_devices = True  # as they do by themselves on a GPU
    static = {"cache_implementation": "static", "compile_config": compiling}
    static = partial(of_transformers, theirs, **static)
    rows = [
        Row("transformers", lambda: of_transformers(theirs)),
        Row("transformers, static and compiled", static, True, False),
        Row("ours", lambda: of_ours(ours)),
    ]
    best = ours
    if cpu:
        best = prepare_for_decoding(copy.deepcopy(ours))
        models.append(best)
        rows.append(Row("ours, prepared", lambda: of_ours(best)))
    name = f"{rows[-1].name}, compiled"
    rows.append(Row(name, lambda: of_ours(best, compile=True), True, needed=not cpu))
    if cpu:
        rows.append(Row("llama.cpp, 4 bits", _llama, needed=False, same=False))
    return rows, models


def _llama() -> Writer:
    """llama.cpp on the packaged model. ImportError and OSError where it cannot be had."""
    if (file := in_cache()) is None:
        raise FileNotFoundError("the packaged model is not here: python -m smol.pretrained")
    return llama.writer(file)


class Writers(NamedTuple):
    """The rows that are measured, the seconds of their first call, and why others are not."""

    rows: dict[str, Writer]
    first: dict[str, float]
    skipped: dict[str, str]
    others: set[str]  # rows of another model: neither our bytes nor PyTorch's memory


def writers(
    config: SmolLM2Config, device: torch.device, dtype: torch.dtype, run: Run | None = None
) -> Writers:
    """The ladder's rows, each after its first call; its models in `dtype` then.

    A row that is not needed is skipped where the rest of the `run` does not suffice for it, or
    where it cannot be had. AssertionError where one gives other ids than transformers, in fp32.
    """
    run, found = run or Run(), Writers({}, {}, {}, set())
    theirs, ours = models_of(config, device)
    rows, models = ladder(theirs, ours)
    ids = torch.randint(config.vocab_size, (1, 32), device=device)
    long, reserve, want = COMPILES, 0.0, None
    for row in sorted(rows, key=lambda row: not row.needed):  # those first that are needed
        needs = long * row.compiled + reserve
        if not row.needed and run.left() < needs:
            found.skipped[row.name] = f"{run.left():.0f} s were left, it needs about {needs:.0f}"
            continue
        try:
            write = row.make()
            seconds, got = _timed(write, ids, 24)
        except (ImportError, OSError) as error:
            found.skipped[row.name] = str(error)
            continue
        want = got if want is None else want
        if row.same and not torch.equal(got, want):
            raise AssertionError(f"{row.name} gives other ids than transformers: no use in timing")
        found.rows[row.name], found.first[row.name] = write, seconds
        found.others.update([] if row.same else [row.name])
        if row.compiled:
            long = seconds
        else:
            reserve += 8 * seconds  # two rounds of some ninety tokens
        print(f"{row.name}: its first call took {seconds:.1f} s", file=sys.stderr)
        run.note(first_call={**found.first}, skipped={**found.skipped})
    run.note(skipped=found.skipped)
    cast(theirs, models, dtype)
    order = {row.name: found.rows[row.name] for row in rows if row.name in found.rows}
    return found._replace(rows=order)


def _timed(write: Writer, ids: Tensor, new: int) -> tuple[float, Tensor]:
    start = time.perf_counter()
    got = done(write(ids, new))
    return time.perf_counter() - start, got


def decode(
    config: SmolLM2Config | None = None,
    length: int = 64,
    new: int = 64,
    rounds: int = 5,
    run: Run | None = None,
) -> dict:
    """Seconds a token of writing `new` tokens after the first that follows `length` others.

    SmolLM2-135M with random weights; on the CPU in fp32, one text at a time; on CUDA in bf16, one
    and 64. In each round each writer writes 1 token and then 1 + `new`; the difference counts.
    The bound is the roofline of this machine's own rates, for the cache in the middle of the run.
    Where a `run` has little time, there are fewer rounds, and rows are skipped that take long to
    compile.
    """
    config, run = config or SmolLM2Config(), run or Run()
    device, dtype, speeds = rates()
    about = {"flops_per_second": speeds[0], "bytes_per_second": speeds[1]}
    run.note(**about, dtype=str(dtype)[6:], length=length, new=new)
    found = writers(config, device, dtype, run)
    run.note(**_by_position(config, device, dtype, rounds if run.left() > 60 else 1))
    results = []
    for B in (1, 64) if device.type == "cuda" else (1,):
        ids = torch.randint(config.vocab_size, (B, length), device=device)
        bound = count.roofline(*decode_work(config, length + new // 2, B, dtype.itemsize), *speeds)
        results += each_token(found, ids, new, rounds, bound, run)
        run.note(writers=results)
    run.figures.pop("rounds_of", None)  # they stand in the rows now
    run.note()
    return run.figures


def each_token(
    found: Writers, ids: Tensor, new: int, rounds: int, bound: float, run: Run
) -> list[dict]:
    """Seconds a token of each writer, `new` tokens after the first that follows `ids` (B, T), side
    by side; as rows, printed too."""
    runs = {}
    for name, write in found.rows.items():
        runs[f"{name}, first"] = partial(_write, write, ids, 1)
        runs[name] = partial(_write, write, ids, 1 + new)
    B = len(ids)

    def each(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
        pairs = {name: (seconds[f"{name}, first"], seconds[name]) for name in found.rows}
        return {
            name: [(whole - first) / new for first, whole in zip(*both, strict=True)]
            for name, both in pairs.items()
        }

    def after(seconds: dict[str, list[float]]) -> None:
        so_far = each(seconds)
        said = (f"{name} {1e3 * times[-1]:.1f}" for name, times in so_far.items())
        print(f"batch of {B}, ms a token: {', '.join(said)}", file=sys.stderr)
        run.note(rounds_of={**run.figures.get("rounds_of", {}), str(B): so_far})

    seconds = each(side_by_side(runs, rounds, run, after))
    few = {name: partial(_write, write, ids, 9) for name, write in found.rows.items()}
    memory = {name: peak_memory(work, ids.device) for name, work in few.items()}
    return _compared(seconds, bound, memory, B, found)


def prefill(
    config: SmolLM2Config | None = None, length: int = 512, rounds: int = 5, run: Run | None = None
) -> dict:
    """Seconds to the first token after a prompt of `length`; models and bound as in `decode`."""
    config, run = config or SmolLM2Config(), run or Run()
    device, dtype, speeds = rates()
    found = writers(config, device, dtype, run)
    ids = torch.randint(config.vocab_size, (1, length), device=device)
    runs = {name: partial(_write, write, ids, 1) for name, write in found.rows.items()}
    seconds = side_by_side(runs, rounds, run, lambda so_far: run.note(rounds_of=so_far))
    flops, moved = prefill_work(config, length, 1, dtype.itemsize)
    flops -= (length - 1) * forward_flops(config, 1)["lm_head"]  # only the last logits are made
    memory = {name: peak_memory(work, device) for name, work in runs.items()}
    return {
        "flops_per_second": speeds[0],
        "bytes_per_second": speeds[1],
        "dtype": str(dtype)[6:],
        "length": length,
        "writers": _compared(seconds, count.roofline(flops, moved, *speeds), memory, 1, found),
        "skipped": found.skipped,
    }


def _write(write: Writer, ids: Tensor, new: int) -> None:
    done(write(ids, new))


def _compared(
    seconds: dict[str, list[float]], bound: float, memory: dict, batch_size: int, found: Writers
) -> list[dict]:
    """A row for each contestant, printed too; AssertionError where one beats the bound."""
    print(
        f"batch of {batch_size}; at least {bound:.4f} s. Memory: at the worst, beside the weights"
    )
    print(f"{'':36}{'seconds':<30}x transformers  roofline  memory  first call")
    rows = []
    for name, times in seconds.items():
        middle, ours = statistics.median(times), name not in found.others
        if ours:
            expect_slower(name, times, bound)
        row = {
            "name": name,
            "batch_size": batch_size,
            "seconds": times,
            "tokens_per_second": batch_size / middle,
            "speedup": median_ratio(seconds["transformers"], times),
            "part_of_roofline": bound / middle if ours else None,
            "memory": memory[name] if ours else None,
            "first_call": found.first[name],
        }
        rows.append(row)
        part = f"{bound / middle:.0%}" if ours else ""
        held = "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f} MB"
        print(
            f"{name:36}{spread(times, 4):<30}{row['speedup']:14.2f}  {part:>8}  {held:>6}"
            f"{found.first[name]:10.1f} s"
        )
    for name, why in found.skipped.items():
        print(f"{name:36}skipped: {why}")
    return rows


def _by_position(config, device, dtype, rounds: int) -> dict:
    """Seconds a token with the cache at two lengths, and without it at several."""
    torch.manual_seed(0)
    model = SmolLM2(config).to(device, dtype).eval()
    near, far = 64, min(1024, config.max_position_embeddings - 2)
    cache = model.new_cache(max_length=far + 1)
    ids = torch.randint(config.vocab_size, (1, far), device=device)
    token = ids[:, :1]

    def at(length: int) -> Callable:
        def step() -> None:
            cache.length = length
            done(model(token, cache))

        return step

    with torch.inference_mode():
        model(ids, cache)
        cached = side_by_side({str(n): at(n) for n in (near, far)}, 4 * rounds)
        lengths = [near, 2 * near, 4 * near, 8 * near]
        whole = {str(n): lambda n=n: done(model(ids[:, :n], head=False)) for n in lengths}
        without = side_by_side(whole, max(1, rounds // 2))
    explained = [decode_work(config, n, 1, dtype.itemsize)[1] for n in (near, far)]
    ratio = median_ratio(cached[str(far)], cached[str(near)])
    beyond = ratio / (explained[1] / explained[0])
    print(
        f"with the cache: a token at position {far} takes {ratio:.2f} times one at {near}, and "
        f"moves {explained[1] / explained[0]:.2f} times the bytes: {beyond:.2f} beyond them"
    )
    middle = {n: statistics.median(times) for n, times in without.items()}
    print("without it: " + ", ".join(f"{seconds:.3f} s at {n}" for n, seconds in middle.items()))
    return {
        "seconds_by_position": cached,
        "beyond_the_bytes": beyond,
        "seconds_by_position_without_cache": without,
    }
