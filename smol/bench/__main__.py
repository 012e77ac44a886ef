"""Side by side with the libraries: `python -m smol.bench [decode|train|…|all] [--json PATH]`.

What each benchmark is stands in the docstring of the package.
"""

import argparse
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch

from smol.bench.decode import decode, prefill, roofline
from smol.bench.parity import parity
from smol.bench.series import notebooks
from smol.bench.tokenizer import tokenizer
from smol.bench.train import train
from smol.checks import path
from smol.files import writable, written_beside
from smol.terminal import command

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


@command("smol.bench")
def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", default=["all"], help=", ".join([*BENCHES, "all"]))
    parser.add_argument(
        "--json",
        type=lambda given: path("--json", given),
        help="write command, date, machine and figures, each as soon as it is measured, into this "
        "FILE.json; or into this folder, a file for each",
    )
    args = parser.parse_args()
    names = list(BENCHES) if "all" in args.names else args.names
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(BENCHES)}, all")
    if args.json:
        writable(args.json.parent if args.json.suffix == ".json" else args.json)
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    line = f"python -m smol.bench {' '.join(args.names)}"

    def write(file: Path, figures: dict) -> None:
        result = {"command": line, "date": str(date.today()), "machine": about, **figures}
        with written_beside(file.parent, file.name) as (part,):
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    figures, one_file = {}, args.json and args.json.suffix == ".json"
    for name in names:
        print(f"\n== {name}")
        figures[name] = BENCHES[name]()
        if args.json:
            file = args.json if one_file else args.json / f"{name}.json"
            write(file, figures if one_file else {name: figures[name]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
