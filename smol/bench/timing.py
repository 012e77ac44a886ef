"""Contestants in turn, and what this machine can do at most."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from smol.device import choose_device, choose_dtype


class Run:
    """One benchmark's time, and where its figures go as soon as they are measured."""

    def __init__(self, seconds: float = math.inf, write: Callable[[dict], None] | None = None):
        self.end, self.write = time.monotonic() + seconds, write
        self.figures = {}

    def left(self, unless: float = math.inf) -> float:
        """Seconds, none of them below 0; `unless` where nobody has said how many."""
        return unless if self.end == math.inf else max(0.0, self.end - time.monotonic())

    def note(self, **figures) -> None:
        """Adds to the figures, and writes all that there are."""
        self.figures |= figures
        if self.write:
            self.write(self.figures)


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


def side_by_side(
    contestants: dict[str, Callable],
    rounds: int,
    run: Run | None = None,
    after: Callable[[dict], None] = lambda seconds: None,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that is not counted.

    With a `run` there are fewer rounds where its time does not suffice, and one at least. `after`
    each round gets what was measured so far.
    """
    seconds = {name: [] for name in contestants}
    longest = 0.0
    for number in range(rounds + 1):
        begin = time.perf_counter()
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - start)
        if number:  # in the first something may be compiled anew
            longest = max(longest, time.perf_counter() - begin)
            after(seconds)
            if run and run.left() < longest:
                break
    return seconds


def spread(seconds: list[float], digits: int = 3) -> str:
    """ "0.251 s (0.249–0.260)": the median, the fastest, the slowest."""
    middle, low, high = (f(seconds) for f in (statistics.median, min, max))
    return f"{middle:.{digits}f} s ({low:.{digits}f}–{high:.{digits}f})"


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' own ratios, in which what slows a whole round down cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def done(result: Tensor) -> Tensor:
    """`result`, when the GPU has really computed it."""
    if result.device.type == "cuda":
        torch.cuda.synchronize()
    elif result.device.type == "mps":
        torch.mps.synchronize()
    return result


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOPs per second of a product of two `size` × `size` matrices: the best of ten."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = side_by_side({"product": lambda: done(a @ b)}, rounds=10)["product"]
    return 2 * size**3 / min(seconds)


def read_rate(device: torch.device, size: int = 2**28) -> float:
    """Bytes a second of reading `size` bytes, far more than a cache holds, into a sum: the best of
    ten. What a copy reaches, which reads and writes, is taken where it is more."""
    x = torch.ones(size // 4, device=device)
    y = torch.empty_like(x)
    work = {"read": lambda: done(x.sum()), "copy": lambda: done(y.copy_(x))}
    seconds = {name: min(times) for name, times in side_by_side(work, rounds=10).items()}
    return max(size / seconds["read"], 2 * size / seconds["copy"])


def rates() -> tuple[torch.device, torch.dtype, tuple[float, float]]:
    """The device, the dtype to run in there, and its FLOPs and bytes per second."""
    device = choose_device()
    dtype, size = choose_dtype(device), 8192 if device.type == "cuda" else 2048
    return device, dtype, (matmul_rate(device, dtype, size), read_rate(device))


def expect_slower(name: str, times: list[float], bound: float) -> None:
    """AssertionError where the median of `times` is below what is possible."""
    middle = statistics.median(times)  # one round alone may be off by chance
    if middle < bound:
        raise AssertionError(
            f"{name} took {middle:.5f} s, less than the {bound:.5f} s that are possible: "
            "a count or a rate is wrong"
        )


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
    return max((held for _, held in allocations(step)[0]), default=0)


def allocations(step: Callable, *marks: str) -> tuple[list[tuple[float, int]], dict]:
    """What a call of `step` on the CPU holds, beyond what is held before it, after each allocation
    and each release, as PyTorch tells its profiler: (seconds, bytes). And of each of the `marks`,
    names of `torch.profiler.record_function`, from when to when it ran."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    begin = changes[0][0] if changes else 0
    held = accumulate(change for _, change in changes)
    curve = [((at - begin) / 1e9, n) for (at, _), n in zip(changes, held, strict=True)]
    spans = {
        e.name(): tuple((e.start_ns() - begin + n) / 1e9 for n in (0, e.duration_ns()))
        for e in events
        if e.name() in marks
    }
    return curve, spans
