"""Side by side with the libraries: `python -m smol.bench [decode|train|…|all] [--json PATH]`.

One process, the contestants in turn, round after round, so that what else the machine does hits
all of them alike; equal results first, then medians and spreads, then ratios. A speed by itself
says more about the machine than about the code.
"""

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol import count
from smol.config import SmolLM2Config
from smol.count import decode_work, flops_per_token, forward_flops, prefill_work
from smol.doctor import probe
from smol.generate import generate, prepare_for_decoding
from smol.model import SmolLM2
from smol.pretrained import from_reference, written_beside
from smol.tokenizer import DIGITS_PATTERN, BPETokenizer, byte_alphabet, merge_pair
from smol.train import PRESETS, LossModel, choose_device, choose_precision, parameter_groups


def side_by_side(contestants: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that is not counted."""
    seconds = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: list[float], digits: int = 3) -> str:
    """ "0.251 s (0.249–0.260)": the median, the fastest, the slowest."""
    middle, low, high = (f(seconds) for f in (statistics.median, min, max))
    return f"{middle:.{digits}f} s ({low:.{digits}f}–{high:.{digits}f})"


def naive_merges(pieces: list[bytes], vocab_size: int) -> list[tuple[bytes, bytes]]:
    """Byte-pair encoding as it is defined: for each merge, count all pairs of the text anew."""
    tokens = byte_alphabet()
    ids = {token: i for i, token in enumerate(tokens)}
    words = [[ids[bytes([b])] for b in piece] for piece in pieces]
    merges = []
    while len(tokens) < vocab_size:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))  # ties: the smaller ids
        words = [merge_pair(word, best, len(tokens))[0] for word in words]
        merges.append((tokens[best[0]], tokens[best[1]]))
        tokens.append(b"".join(merges[-1]))
    return merges


def library_tokenizer(texts: list[str], vocab_size: int):
    """A `tokenizers.Tokenizer` trained with the settings of `BPETokenizer.train`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer(rounds: int = 5, vocab_size: int = 4096, naive_count: int = 30) -> list[dict]:
    """Training and encoding, ours and the library's, on a quarter, a half, all of the stories.

    The naive trainer would take the better part of an hour: it gets `naive_count` merges, of the
    whole text, and what it has taken by then is a lower bound.
    """
    import regex

    from smol.data import load_corpus

    corpus = load_corpus("stories")
    stories = [*corpus.train, *corpus.validation]
    ours = BPETokenizer.train(stories, vocab_size)
    theirs = library_tokenizer(stories, vocab_size)
    model = json.loads(theirs.to_str())["model"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    if ours.to_dict()["model"]["merges"] != pairs:
        raise AssertionError("our merges are not the library's: no use in timing")
    if any(ours.encode(text) != theirs.encode(text).ids for text in stories):
        raise AssertionError("our ids are not the library's: no use in timing")
    print(f"equal: {len(pairs):,} merges (all pairs there are), ids of {len(stories):,} stories")
    print(f"\n{'':24}{'text':>9}  {'ours':<28}{'tokenizers':<28}ours / tokenizers")

    def train_ours(texts):
        BPETokenizer.train(texts, vocab_size)

    def train_theirs(texts):
        library_tokenizer(texts, vocab_size)

    def encode_ours(texts):
        fresh = BPETokenizer(ours.vocab, ours.merges)  # one that has met no word yet
        for text in texts:
            fresh.encode(text)

    def encode_theirs(texts):
        for text in texts:
            theirs.encode(text)

    rows = []
    for work, pair in (
        ("train", (train_ours, train_theirs)),
        ("encode", (encode_ours, encode_theirs)),
        ("encode, they in a batch", (encode_ours, theirs.encode_batch)),  # on all cores
    ):
        for part in (4, 2, 1):
            texts = stories[: len(stories) // part]
            runs = [partial(run, texts) for run in pair]
            seconds = side_by_side({"ours": runs[0], "tokenizers": runs[1]}, rounds)
            ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
            row = {"work": work, "bytes": sum(len(text.encode()) for text in texts)}
            rows.append({**row, "seconds": seconds, "ratio": statistics.median(ratios)})
            print(
                f"{work:24}{row['bytes'] / 1e6:6.2f} MB  {spread(seconds['ours']):<28}"
                f"{spread(seconds['tokenizers']):<28}{rows[-1]['ratio']:.2f}"
            )
        quarter, _, whole = (statistics.median(row["seconds"]["ours"]) for row in rows[-3:])
        print(f"{work}: four times the text takes us {whole / quarter:.1f} times as long")

    pieces = [piece.encode() for text in stories for piece in regex.findall(DIGITS_PATTERN, text)]
    start = time.perf_counter()
    merges = naive_merges(pieces, 256 + naive_count)
    naive = time.perf_counter() - start
    if merges != ours.merges[:naive_count]:
        raise AssertionError("the naive trainer learned other merges: no use in timing")
    fast = statistics.median(rows[2]["seconds"]["ours"])
    rows.append(
        {"work": "train, naive", "merges": naive_count, "seconds": naive, "ratio": naive / fast}
    )
    print(
        f"naive trainer: {naive:.1f} s for {naive_count} of {len(pairs):,} merges, the same ones: "
        f"{naive / fast:.0f} times what ours takes for all of them"
    )
    return rows


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOPs per second of a product of two `size` × `size` matrices: the best of ten."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = side_by_side({"product": lambda: _done(a @ b)}, rounds=10)["product"]
    return 2 * size**3 / min(seconds)


def read_rate(device: torch.device, size: int = 2**28) -> float:
    """Bytes a second of reading `size` bytes, far more than a cache holds, into a sum: the best of
    ten. What a copy reaches, which reads and writes, is taken where it is more."""
    x = torch.ones(size // 4, device=device)
    y = torch.empty_like(x)
    work = {"read": lambda: _done(x.sum()), "copy": lambda: _done(y.copy_(x))}
    seconds = {name: min(times) for name, times in side_by_side(work, rounds=10).items()}
    return max(size / seconds["read"], 2 * size / seconds["copy"])


def _done(result: Tensor) -> Tensor:
    """`result`, when the GPU has really computed it."""
    if result.device.type == "cuda":
        torch.cuda.synchronize()
    return result


class Rung(NamedTuple):
    """One way to take the same training step."""

    name: str
    dtype: str = "float32"
    tf32: bool = False
    theirs: bool = False  # the model of transformers, its logits in one piece
    chunk: int | None = None  # None: ours too holds all logits at once
    fused: bool = False
    compile: bool = False

    @property
    def product(self) -> str:
        """The kind of matrix product that it is made of."""
        return "tf32" if self.tf32 and self.dtype == "float32" else self.dtype


def ladder(device: torch.device) -> list[Rung]:
    """Each rung adds one thing to the one before, where this device has it."""
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
        ("+ compile", "compile", True),
    ):
        more[key] = value
        rows.append(Rung(name, **more))
    plain = {"tf32": more["tf32"], "dtype": dtype, "theirs": True}
    rows += [Rung("transformers, so too", fused=True, **plain)]
    return [*rows, rows[-1]._replace(name="transformers, so too, compiled", compile=True)]


def train(
    preset: str | None = None, batch_size: int = 0, seq_len: int = 0, rounds: int = 5
) -> dict:
    """One training step on every rung of the ladder, and transformers' model in the same loop.

    On a CUDA GPU SmolLM2-135M, 32 × 1,024 tokens; on the CPU the preset "small", 16 × 256. The
    model's share of the arithmetic (MFU) is taken against a matrix product measured here, in the
    rung's own precision, and of a known chip in bf16 against its data sheet too; its FLOPs count
    full attention. Memory is what one contestant holds at most in a step, weights and optimizer
    with it.
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
    rungs = {rung.name: rung for rung in ladder(device)}
    steps, losses, resident = {}, {}, {}
    for name, rung in rungs.items():
        model = copy.deepcopy(theirs) if rung.theirs else from_reference(theirs).to(device)
        steps[name], optimizer = _training_step(model.train(), rung, ids[:, :-1], ids[:, 1:])
        losses[name] = steps[name]()
        held = [*model.parameters(), *(t for s in optimizer.state.values() for t in s.values())]
        resident[name] = sum(tensor.nbytes for tensor in held)
        first = losses["transformers"]
        if abs(losses[name] - first) > (2e-2 if rung.dtype != "float32" or rung.tf32 else 1e-4):
            raise AssertionError(f"{name} has a loss of {losses[name]}, transformers {first}")
        print(f"{name}: loss {losses[name]:.4f} in the first step", file=sys.stderr)
    seconds = side_by_side(steps, rounds)
    peaks = {name: peak_memory(step, device) for name, step in steps.items()}
    rates = {}
    for product in sorted({rung.product for rung in rungs.values()}):
        torch.set_float32_matmul_precision("high" if product == "tf32" else "highest")
        dtype = torch.bfloat16 if product == "bfloat16" else torch.float32
        rates[product] = matmul_rate(device, dtype, 8192 if cuda else 2048)
    chip = count.chip(torch.cuda.get_device_name()) if cuda else None
    flops = B * T * flops_per_token(config, T)
    print(f"{'':32}{'a step':<30}{'tokens/s':>9}  {'x transformers':>14}  {'MFU':>5}  memory")
    rows = []
    for name, rung in rungs.items():
        middle = statistics.median(seconds[name])
        pairs = zip(seconds["transformers"], seconds[name], strict=True)
        row = {
            "name": name,
            "loss": losses[name],
            "seconds": seconds[name],
            "tokens_per_second": B * T / middle,
            "speedup": statistics.median(a / b for a, b in pairs),
            "mfu": flops / middle / rates[rung.product],
            "mfu_of_data_sheet": flops / middle / chip.flops
            if chip and rung.dtype == "bfloat16"
            else None,
            "memory": peaks[name] and peaks[name] + resident[name],
        }
        rows.append(row)
        print(
            f"{name:32}{spread(seconds[name]):<30}{row['tokens_per_second']:9,.0f}  "
            f"{row['speedup']:14.2f}  {row['mfu']:5.0%}  "
            + (f"{row['memory'] / 1e9:.1f} GB" if row["memory"] else "not measured")
        )
    for dtype, rate in rates.items():
        print(f"matrix product, {dtype}: {rate / 1e12:.2f} TFLOP/s measured")
    return {
        "preset": dataclasses.asdict(config),
        "batch_size": B,
        "seq_len": T,
        "flops_per_step": flops,
        "matmul_flops_per_second": rates,
        "rungs": rows,
    }


def _training_step(
    model: nn.Module, rung: Rung, inputs: Tensor, labels: Tensor
) -> tuple[Callable, torch.optim.Optimizer]:
    """A function that takes a step on always the same batch and gives the loss before it; and its
    optimizer."""
    if rung.chunk:
        run = LossModel(model, rung.chunk)
    else:

        def run(inputs, labels):
            logits = model(inputs)
            logits = getattr(logits, "logits", logits).float()
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), None

    run = torch.compile(run) if rung.compile else run
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
        return _done(loss.detach()).item()

    return step, optimizer


def peak_memory(step: Callable, device: torch.device) -> int | None:
    """Bytes that a call of `step` takes at its worst, beyond what is held before it.

    On CUDA by the allocator's own counters, on the CPU by what PyTorch tells its profiler of each
    allocation; elsewhere None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    if device.type != "cpu":
        return None
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes), default=0)


def _rates() -> tuple[torch.device, torch.dtype, tuple[float, float]]:
    """The device, the dtype to run in there, and its FLOPs and bytes per second."""
    device = choose_device()
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    return device, dtype, (matmul_rate(device, dtype, 8192 if cuda else 2048), read_rate(device))


def _expect_slower(name: str, times: list[float], bound: float) -> None:
    middle = statistics.median(times)  # one round alone may be off by chance
    if middle < bound:
        raise AssertionError(
            f"{name} took {middle:.5f} s, less than the {bound:.5f} s that are possible: "
            "a count or a rate is wrong"
        )


def roofline(config: SmolLM2Config | None = None, length: int = 256, rounds: int = 5) -> dict:
    """Prefill of `length` tokens and decode of one more, against the roofline of this machine.

    The model is SmolLM2-135M with random weights, in bf16 on CUDA and fp32 elsewhere. The bound is
    made of a matrix product and a read measured here (`count.roofline`); a measurement below it
    raises AssertionError, for then a count or a rate is wrong.
    """
    config = config or SmolLM2Config()
    device, dtype, rates = _rates()
    model = SmolLM2(config).to(device, dtype).eval()
    ids = torch.randint(config.vocab_size, (1, length), device=device)
    cache = model.new_cache(max_length=length + rounds + 1)
    work = {"prefill": prefill_work, "decode": decode_work}
    with torch.inference_mode():
        model(ids, cache)
        runs = {
            "prefill": lambda: _done(model(ids)),
            "decode": lambda: _done(model(ids[:, :1], cache)),
        }
        seconds = side_by_side(runs, rounds)
    print(f"{rates[0] / 1e9:,.0f} GFLOP/s in a matrix product, {rates[1] / 1e9:,.0f} GB/s read")
    rows = []
    for name, times in seconds.items():
        flops, moved = work[name](config, length, bytes_per_number=dtype.itemsize)
        bound = count.roofline(flops, moved, *rates)
        _expect_slower(name, times, bound)
        part = bound / statistics.median(times)
        rows.append({"work": name, "flops": flops, "bytes": moved, "seconds": times})
        rows[-1] |= {"bound": bound, "part_of_roofline": part}
        print(f"{name:8} {spread(times)}, at least {bound:.3f} s: {part:.0%} of the roofline")
    return {"flops_per_second": rates[0], "bytes_per_second": rates[1], "length": length} | {
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
    device, dtype, rates = _rates()
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
        results += _compared(each, count.roofline(*work, *rates), memory, B)
    return {
        "flops_per_second": rates[0],
        "bytes_per_second": rates[1],
        "dtype": str(dtype)[6:],
        "length": length,
        "new": new,
        "writers": results,
        **_by_position(config, device, dtype, rounds),
    }


def prefill(config: SmolLM2Config | None = None, length: int = 512, rounds: int = 5) -> dict:
    """Seconds to the first token after a prompt of `length`; models and bound as in `decode`."""
    config = config or SmolLM2Config()
    device, dtype, rates = _rates()
    rows = writers(config, device, dtype)
    ids = torch.randint(config.vocab_size, (1, length), device=device)
    runs = {name: partial(_write, write, ids, 1) for name, write in rows.items()}
    seconds = side_by_side(runs, rounds)
    flops, moved = prefill_work(config, length, 1, dtype.itemsize)
    flops -= (length - 1) * forward_flops(config, 1)["lm_head"]  # only the last logits are made
    memory = {name: peak_memory(run, device) for name, run in runs.items()}
    return {
        "flops_per_second": rates[0],
        "bytes_per_second": rates[1],
        "dtype": str(dtype)[6:],
        "length": length,
        "writers": _compared(seconds, count.roofline(flops, moved, *rates), memory, 1),
    }


def _write(write: Writer, ids: Tensor, new: int) -> None:
    _done(write(ids, new))


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
        _expect_slower(name, times, bound)
        middle = statistics.median(times)
        pairs = zip(seconds["transformers"], times, strict=True)
        row = {
            "name": name,
            "batch_size": batch_size,
            "seconds": times,
            "tokens_per_second": batch_size / middle,
            "speedup": statistics.median(a / b for a, b in pairs),
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
            _done(model(token, cache))

        return step

    with torch.inference_mode():
        model(ids, cache)
        cached = side_by_side({str(n): at(n) for n in (near, far)}, 4 * rounds)
        lengths = [near, 2 * near, 4 * near, 8 * near]
        whole = {str(n): lambda n=n: _done(model(ids[:, :n], head=False)) for n in lengths}
        without = side_by_side(whole, max(1, rounds // 2))
    explained = [decode_work(config, n, 1, dtype.itemsize)[1] for n in (near, far)]
    ratio = statistics.median(
        b / a for a, b in zip(cached[str(near)], cached[str(far)], strict=True)
    )
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


def notebooks() -> dict:
    """Seconds of `pytest --nbval` for each notebook, and of the doctor's probe beside them."""
    root, seconds = Path(__file__).resolve().parent.parent, {}
    rate = probe()
    for file in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        command = [sys.executable, "-m", "pytest", "--nbval", "-n0", "--quiet", str(file)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        seconds[file.stem] = round(time.perf_counter() - start, 1)
        if done.returncode:
            raise AssertionError(f"{file.name} fails, no use in timing: {done.stdout[-500:]}")
        print(f"{file.stem:16} {seconds[file.stem]:5.1f} s")
    print(f"{'all':16} {sum(seconds.values()):5.1f} s; a training step {rate:.3f} s")
    return {"probe_seconds": rate, "seconds": seconds}


def parity() -> dict:
    """Parity of SmolLM2-135M, and the bug table: notebook 3's own cells, up to that table."""
    import nbformat

    root, space, seconds = Path(__file__).resolve().parent.parent, {}, time.perf_counter()
    notebook = nbformat.read(root / "notebooks/03_parity.ipynb", as_version=4)
    # The cells switch gradients off; the next benchmark needs them as they were.
    with contextlib.redirect_stdout(io.StringIO()), torch.enable_grad():
        for cell in (c for c in notebook.cells if c.cell_type == "code"):
            exec(cell.source, space)
            if "caught" in space:
                break
    caught, report = space["caught"], space["report"]
    totals = {name: sum(row[name] for row in caught.values()) for name in caught["no_mask"]}
    print(report)
    print(f"of {len(caught)} bugs: {totals}, in {time.perf_counter() - seconds:.0f} s")
    if not report.ok:
        raise AssertionError(f"not the same model: {report.first}")
    rungs = {rung.name: rung.seen for rung in report.rungs}
    return {"rungs": rungs, "bugs": len(caught), "caught": totals, "by_bug": caught}


BENCHES = {
    "notebooks": notebooks,  # first: what is measured next may be what their outputs show
    "parity": parity,
    "decode": decode,
    "prefill": prefill,
    "roofline": roofline,
    "train": train,
    "tokenizer": tokenizer,
}


def machine() -> dict[str, str | int]:
    """What the figures depend on: the processor, and the versions of what was run."""
    from importlib.metadata import version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", "regex")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["all"], help=", ".join([*BENCHES, "all"]))
    parser.add_argument(
        "--json",
        type=Path,
        help="write command, date, machine and figures into this FILE.json; or into this folder, "
        "a file for each, as soon as it is measured",
    )
    args = parser.parse_args()
    names = list(BENCHES) if "all" in args.names else args.names
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(BENCHES)}, all")
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    command = f"python -m smol.bench {' '.join(args.names)}"

    def write(file: Path, figures: dict) -> None:
        result = {"command": command, "date": str(date.today()), "machine": about, **figures}
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(file.parent, file.name) as (part,):
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    figures, one_file = {}, args.json and args.json.suffix == ".json"
    for name in names:
        print(f"\n== {name}")
        figures[name] = BENCHES[name]()
        if args.json and not one_file:
            write(args.json / f"{name}.json", {name: figures[name]})
    if one_file:
        write(args.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
