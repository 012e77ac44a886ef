"""Is this machine fit for the notebooks? `python -m smol.doctor`, the day before a workshop.

One line for each thing that a room full of machines gets wrong, with the remedy; exit status 1
where something stands in the way. Times are scaled from those measured on two cores by how fast
this machine takes one training step.
"""

import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TIMES = ROOT / "assets" / "results" / "notebooks.json"
INSTALL = "`pip install -r requirements.txt`"
GB = 1e9
MEMORY, DISK = 4 * GB, 3 * GB  # notebooks 2, 3, 5 and 6 take 3 GB; an environment 1.8, weights 0.3


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
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Finding(what, "unfit", f"not looked at ({why}): {INSTALL}")


def space(what: str, have: float, want: float, remedy: str) -> Finding:
    """Bytes of memory or disk against what the series needs."""
    if have >= want:
        return Finding(what, "fit", f"{have / GB:.0f} GB free")
    return Finding(what, "unfit", f"{have / GB:.1f} GB free, {want / GB:.0f} wanted: {remedy}")


def memory() -> Finding:
    """What is free now, against what the largest notebooks take."""
    import psutil

    remedy = "close other programs, or leave out notebooks 2, 3, 5 and 6"
    return space("memory", psutil.virtual_memory().available, MEMORY, remedy)


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


def hub() -> Finding:
    """Whether the published weights can be had. Without them all runs, on random ones."""
    if os.environ.get("SMOL_OFFLINE") == "1":
        return Finding("hub", "note", "SMOL_OFFLINE=1 is set: random weights, which is enough")
    from huggingface_hub import HfApi

    from smol.pretrained import REPO_ID

    try:
        HfApi().model_info(REPO_ID, timeout=5)
    except Exception as error:  # whatever keeps the hub away
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Finding("hub", "note", f"not in reach ({reason}): random weights, which is enough")
    return Finding("hub", "fit", f"{REPO_ID} is in reach")


def probe(rounds: int = 5) -> float:
    """Seconds of one training step of the preset "tiny" on 8 × 256 tokens of 1,024, on the CPU."""
    import dataclasses

    import torch
    import torch.nn.functional as F

    from smol import SmolLM2
    from smol.train import PRESETS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmolLM2(dataclasses.replace(PRESETS["tiny"].config, vocab_size=1024))
        ids = torch.randint(1024, (8, 257))
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def expected_times(stored: dict, seconds: float) -> list[Finding]:
    """For each notebook the seconds measured there, scaled by the two machines' probes."""
    ratio = seconds / stored["probe_seconds"]
    fast = f"a training step takes {ratio:.1f} × as long as where the times were measured"
    rows = [Finding("speed", "fit" if ratio < 3 else "note", fast)]
    for name, measured in stored["seconds"].items():
        rows.append(Finding(name, "note", f"runs in about {max(1, round(measured * ratio))} s"))
    return rows


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    yield python_version(sys.version_info[:2])
    yield from packages((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    yield from tried("memory", memory)
    yield space("disk", shutil.disk_usage(ROOT).free, DISK, "make room")
    yield from tried("GPU", gpu)
    yield from tried("hub", hub)
    if TIMES.is_file():
        stored = json.loads(TIMES.read_text(encoding="utf-8"))["notebooks"]
        yield from tried("speed", lambda: expected_times(stored, probe()))


def main() -> int:
    unfit = 0
    for finding in examine():
        sign = {"fit": "ok", "unfit": "!!", "note": "  "}[finding.verdict]
        print(f"{sign}  {finding.what:18} {finding.seen}", flush=True)
        unfit += finding.verdict == "unfit"
    if unfit:
        print(f"\n{unfit} thing{'s' * (unfit > 1)} to put right: see !! above")
    else:
        print("\nThis machine is fit for the series.")
    return 1 if unfit else 0


if __name__ == "__main__":
    sys.exit(main())
