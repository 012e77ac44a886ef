"""Side by side with the libraries: `python -m smol.bench [decode|train|…|all]`.

What each benchmark is stands in the docstring of the package.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from smol.bench import cuda, gpu
from smol.bench.answers import answers
from smol.bench.decode import decode, prefill, roofline
from smol.bench.parity import parity
from smol.bench.preferences import preferences
from smol.bench.series import notebooks
from smol.bench.timing import Run, machine
from smol.bench.tokenizer import tokenizer
from smol.bench.train import train
from smol.bench.traps import traps
from smol.checks import path
from smol.files import writable, written_beside
from smol.terminal import command

BENCHES: dict[str, Callable[[Run], dict | list]] = {
    "notebooks": lambda run: notebooks(),  # first: the next may be what their outputs show
    "parity": lambda run: parity(),
    "decode": lambda run: decode(run=run),
    "prefill": lambda run: prefill(run=run),
    "roofline": lambda run: roofline(),
    "train": lambda run: train(run=run),
    "tokenizer": lambda run: tokenizer(),
    "answers": lambda run: answers(run=run),
    "preferences": preferences,
    "traps": lambda run: traps(run),
    "gpu": cuda.on_cuda,
    "gpu_train": lambda run: gpu.train_and_tell(run.left(gpu.SECONDS)),
}
# "all" leaves them out: they take as long as all the others, or need a GPU
BY_NAME = ("preferences", "traps", "gpu", "gpu_train")


@command("smol.bench")
def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "names",
        nargs="*",
        default=["all"],
        help=", ".join([*BENCHES, "all"]) + " (without preferences and traps, which take long, "
        "and gpu and gpu_train, which need a GPU)",
    )
    parser.add_argument(
        "--json",
        type=lambda given: path("--json", given),
        help="write command, date, machine and figures, each as soon as it is measured, into this "
        "FILE.json; or into this folder, a file for each, those of a GPU in gpu/ITS-NAME",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=math.inf,
        help="decode, prefill, train and traps share so much time: fewer rounds, and rows are "
        "skipped that take long to compile (transformers, ours and ours at its fastest never "
        "are); gpu "
        f"and gpu_train take so much (default: {cuda.SECONDS:.0f}, {gpu.SECONDS:.0f})",
    )
    args = parser.parse_args()
    with contextlib.suppress(AttributeError, ValueError):  # in a file, too, as soon as measured
        sys.stdout.reconfigure(line_buffering=True)
    names = args.names
    if "all" in names:
        names = [name for name in BENCHES if name not in BY_NAME]
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(BENCHES)}, all")
    about = machine()
    place = Path()
    if "gpu" in about:  # its figures beside the CPU's
        place = Path("gpu", about["gpu"].replace(" ", "-"))
    one_file = args.json and args.json.suffix == ".json"
    if args.json:
        writable(args.json.parent if one_file else args.json / place)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    line = f"python -m smol.bench {' '.join(args.names)}"
    line += f" --seconds {args.seconds:g}" if args.seconds < math.inf else ""

    def write(file: Path, figures: dict) -> None:
        result = {"command": line, "date": str(date.today()), "machine": about, **figures}
        with written_beside(file.parent, file.name) as (part,):
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    figures, end = {}, time.monotonic() + args.seconds

    def note(name: str, measured: dict | list) -> None:
        figures[name] = measured
        if args.json:
            file = args.json if one_file else args.json / place / f"{name}.json"
            write(file, figures if one_file else {name: measured})

    for number, name in enumerate(names):
        print(f"\n== {name}")
        share = (end - time.monotonic()) / (len(names) - number)  # of what the others left
        run = Run(share, lambda measured, name=name: note(name, measured))
        note(name, BENCHES[name](run))
    failed = [m for m in figures.values() if isinstance(m, dict) and m.get("failed")]
    return int(bool(failed))


def _seconds(given: str) -> float:
    seconds = float(given)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{given} seconds: take a number above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
