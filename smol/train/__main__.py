"""`python -m smol.train`: the settings from the command line, checked, then the run."""

import argparse
import sys
from pathlib import Path

import smol.train
from smol.device import DEVICES, DTYPES
from smol.train.loop import train
from smol.train.schedule import SCHEDULES
from smol.train.settings import PRESETS, TrainConfig


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.train", description=smol.train.__doc__.split("\n\n")[0]
    )
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument(
        "--data", default="stories", help="stories, fresh, shakespeare, cosmopedia, a path"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for log and checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's last checkpoint")
    for name, kind in (
        ("steps", int),
        ("batch-size", int),
        ("seq-len", int),
        ("accumulate", int),
        ("learning-rate", float),
        ("seed", int),
        ("log-every", int),
        ("eval-every", int),
        ("save-every", int),
        ("keep", int),
        ("tokenizer", str),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--optimizer", choices=("adamw", "muon"))
    parser.add_argument("--schedule", choices=SCHEDULES)
    parser.add_argument("--device", choices=DEVICES)
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--compile", action="store_true", default=None)
    parser.add_argument("--fsdp", action="store_true", default=None, help="shard under torchrun")
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    out, resume = given.pop("out"), given.pop("resume")
    preset = PRESETS[given["preset"]]
    defaults = {k: getattr(preset, k) for k in ("batch_size", "seq_len", "learning_rate")}
    try:
        train(TrainConfig(**{**defaults, **given}), out, resume)
    except (ValueError, OSError) as error:
        print(f"smol.train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
