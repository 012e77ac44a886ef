"""Decode and prefill, under the roofline of this machine and beside transformers."""

import copy
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from smol import count
from smol.bench.timing import (
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


def writers(config: SmolLM2Config, device: torch.device, dtype: torch.dtype) -> dict[str, Writer]:
    """Ways to go on with the same text greedily, with the same random weights: transformers as
    it comes, with a cache of fixed size and compiled, and ours.

    AssertionError where one of them gives other ids than transformers in fp32, before `dtype`.
    """
    from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None}  # so that none of them stops early
    theirs = LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), **ends})).eval().to(device)
    ours = from_reference(theirs).to(device)
    compiling = CompileConfig()
    compiling._compile_all_devices = True  # as they do by themselves on a GPU
    static = {"cache_implementation": "static", "compile_config": compiling}

    def of_transformers(**settings) -> Writer:
        def write(ids: Tensor, new: int) -> Tensor:
            lengths = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
            mask = torch.ones_like(ids)
            return theirs.generate(
                ids, attention_mask=mask, do_sample=False, **lengths, **settings
            )

        return write

    def of_ours(model: SmolLM2, **settings) -> Writer:
        return lambda ids, new: generate(model, ids, new, **settings)

    rows = {
        "transformers": of_transformers(),
        "transformers, static and compiled": of_transformers(**static),
        "ours": of_ours(ours),
    }
    if device.type == "cpu":
        ours = prepare_for_decoding(copy.deepcopy(ours))
        rows["ours, prepared"] = of_ours(ours)
    rows[f"{list(rows)[-1]}, compiled"] = of_ours(ours, compile=True)
    ids = torch.randint(config.vocab_size, (2, 32), device=device)
    want = rows["transformers"](ids, 24)
    for name, write in rows.items():
        if not torch.equal(write(ids, 24), want):
            raise AssertionError(f"{name} gives other ids than transformers: no use in timing")
    inverse = theirs.model.rotary_emb.inv_freq
    theirs.to(dtype)
    ours.to(dtype)
    theirs.model.rotary_emb.inv_freq = inverse  # which no checkpoint holds in half precision
    return rows


def decode(
    config: SmolLM2Config | None = None, length: int = 64, new: int = 64, rounds: int = 5
) -> dict:
    """Seconds a token of writing `new` tokens after the first that follows `length` others.

    SmolLM2-135M with random weights; on the CPU in fp32, one text at a time; on CUDA in bf16, one
    and 64. In each round each writer writes 1 token and then 1 + `new`; the difference counts.
    The bound is the roofline of this machine's own rates, for the cache in the middle of the run.
    """
    config = config or SmolLM2Config()
    device, dtype, speeds = rates()
    rows = writers(config, device, dtype)
    results = []
    for B in (1, 64) if device.type == "cuda" else (1,):
        ids = torch.randint(config.vocab_size, (B, length), device=device)
        runs = {}
        for name, write in rows.items():
            runs[f"{name}, first"] = partial(_write, write, ids, 1)
            runs[name] = partial(_write, write, ids, 1 + new)
        seconds = side_by_side(runs, rounds)
        each = {}
        for name in rows:
            pairs = zip(seconds[f"{name}, first"], seconds[name], strict=True)
            each[name] = [(whole - first) / new for first, whole in pairs]
        work = decode_work(config, length + new // 2, B, dtype.itemsize)
        memory = {name: peak_memory(partial(_write, rows[name], ids, 9), device) for name in rows}
        results += _compared(each, count.roofline(*work, *speeds), memory, B)
    return {
        "flops_per_second": speeds[0],
        "bytes_per_second": speeds[1],
        "dtype": str(dtype)[6:],
        "length": length,
        "new": new,
        "writers": results,
        **_by_position(config, device, dtype, rounds),
    }


def prefill(config: SmolLM2Config | None = None, length: int = 512, rounds: int = 5) -> dict:
    """Seconds to the first token after a prompt of `length`; models and bound as in `decode`."""
    config = config or SmolLM2Config()
    device, dtype, speeds = rates()
    rows = writers(config, device, dtype)
    ids = torch.randint(config.vocab_size, (1, length), device=device)
    runs = {name: partial(_write, write, ids, 1) for name, write in rows.items()}
    seconds = side_by_side(runs, rounds)
    flops, moved = prefill_work(config, length, 1, dtype.itemsize)
    flops -= (length - 1) * forward_flops(config, 1)["lm_head"]  # only the last logits are made
    memory = {name: peak_memory(run, device) for name, run in runs.items()}
    return {
        "flops_per_second": speeds[0],
        "bytes_per_second": speeds[1],
        "dtype": str(dtype)[6:],
        "length": length,
        "writers": _compared(seconds, count.roofline(flops, moved, *speeds), memory, 1),
    }


def _write(write: Writer, ids: Tensor, new: int) -> None:
    done(write(ids, new))


def _compared(
    seconds: dict[str, list[float]], bound: float, memory: dict, batch_size: int
) -> list[dict]:
    """A row for each contestant, printed too; AssertionError where one beats the bound."""
    print(
        f"batch of {batch_size}; at least {bound:.4f} s. Memory: at the worst, beside the weights"
    )
    print(f"{'':36}{'seconds':<30}x transformers  roofline  memory")
    rows = []
    for name, times in seconds.items():
        expect_slower(name, times, bound)
        middle = statistics.median(times)
        row = {
            "name": name,
            "batch_size": batch_size,
            "seconds": times,
            "tokens_per_second": batch_size / middle,
            "speedup": median_ratio(seconds["transformers"], times),
            "part_of_roofline": bound / middle,
            "memory": memory[name],
        }
        rows.append(row)
        held = "not measured" if row["memory"] is None else f"{row['memory'] / 1e6:.0f} MB"
        print(
            f"{name:36}{spread(times, 4):<30}{row['speedup']:14.2f}  "
            f"{row['part_of_roofline']:8.0%}  {held}"
        )
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
