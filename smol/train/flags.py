"""The flags that the commands of training and of fine-tuning share."""

import argparse

from smol.device import DEVICES, DTYPES
from smol.train.schedule import SCHEDULES


def add_flags(parser: argparse.ArgumentParser, **own: type) -> None:
    """Adds to the command's own flags those of every run, and `own` ones of a plain type."""
    parser.add_argument("--out", required=True, help="folder for log, checkpoints and the model")
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUT's last checkpoint, if any"
    )
    whole = ("steps", "batch_size", "seq_len", "accumulate", "seed")
    often = ("log_every", "eval_every", "save_every", "keep")
    kinds = {
        **dict.fromkeys((*whole, *often), int),
        "learning_rate": float,
        "warmup": float,
        **own,
    }
    for name, kind in kinds.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    parser.add_argument("--schedule", choices=SCHEDULES)
    parser.add_argument("--device", choices=DEVICES)
    parser.add_argument("--dtype", choices=DTYPES)
    either = argparse.BooleanOptionalAction
    parser.add_argument("--compile", action=either, help="blocks (default: where it pays)")


def given_flags(parser: argparse.ArgumentParser) -> tuple[dict, str, bool]:
    """What the command line says: the settings that it names, OUT, and whether to resume."""
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    return given, given.pop("out"), given.pop("resume")
