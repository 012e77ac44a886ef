"""`python -m smol.train`: the settings from the command line, checked, then the run."""

import argparse
import sys

import smol.train
from smol.data import FRESH, NAMES
from smol.device import DEVICES, DTYPES
from smol.terminal import command
from smol.train.loop import run
from smol.train.schedule import SCHEDULES
from smol.train.settings import OPTIMIZERS, PRESETS, TrainConfig


@command("smol.train")
def main() -> int:
    """Exit status 0 for a run at its end; 1 for one that was stopped, so that a script, a
    scheduler and torchrun --max-restarts know that there is more to do."""
    parser = argparse.ArgumentParser(
        prog="python -m smol.train", description=smol.train.__doc__.split("\n\n")[0]
    )
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--data", help=f"{', '.join((*NAMES, FRESH))}, a path")
    parser.add_argument("--out", required=True, help="folder for log and checkpoints")
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUT's last checkpoint, if any"
    )
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
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    parser.add_argument("--schedule", choices=SCHEDULES)
    parser.add_argument("--device", choices=DEVICES)
    parser.add_argument("--dtype", choices=DTYPES)
    either = argparse.BooleanOptionalAction
    parser.add_argument("--compile", action=either, help="blocks (default: where it pays)")
    parser.add_argument("--fsdp", action="store_true", default=None, help="shard under torchrun")
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    out, resume = given.pop("out"), given.pop("resume")
    preset = PRESETS[given.get("preset", TrainConfig.preset)]
    defaults = {k: getattr(preset, k) for k in ("batch_size", "seq_len", "learning_rate")}
    config = TrainConfig(**{**defaults, **given})
    return 0 if run(config, out, resume)[1] == config.steps else 1


if __name__ == "__main__":
    sys.exit(main())
