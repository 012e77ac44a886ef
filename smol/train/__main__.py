"""`python -m smol.train`: the settings from the command line, checked, then the run."""

import argparse
import sys

import smol.train
from smol.data import FRESH, NAMES
from smol.terminal import command
from smol.train.flags import add_flags, given_flags
from smol.train.loop import run
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
    add_flags(parser, tokenizer=str)
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    parser.add_argument("--fsdp", action="store_true", default=None, help="shard under torchrun")
    given, out, resume = given_flags(parser)
    preset = PRESETS[given.get("preset", TrainConfig.preset)]
    defaults = {k: getattr(preset, k) for k in ("batch_size", "seq_len", "learning_rate")}
    config = TrainConfig(**{**defaults, **given})
    return 0 if run(config, out, resume)[1] == config.steps else 1


if __name__ == "__main__":
    sys.exit(main())
