"""`python -m smol.finetune`: the settings from the command line, checked, then the run.

python -m smol.finetune --model assets/smol-stories --data stories-chat --steps 600 --out DIR
python -m smol.finetune --model WHERE --method lora --data FILE.jsonl --steps 100 --out DIR
"""

import argparse
import sys

from smol.device import DEVICES, DTYPES
from smol.finetune.run import finetune
from smol.finetune.settings import METHODS, STORIES, FinetuneConfig
from smol.terminal import command
from smol.train.schedule import SCHEDULES


@command("smol.finetune")
def main() -> int:
    """Exit status 0 for a run at its end; 1 for one that was stopped, as `smol.train` has it."""
    parser = argparse.ArgumentParser(
        prog="python -m smol.finetune", description="from a model to one that answers"
    )
    parser.add_argument("--model", required=True, help="a folder, a hub repository, a .gguf file")
    parser.add_argument("--data", help=f"{STORIES}, or a .jsonl with messages in each line")
    parser.add_argument("--out", required=True, help="folder for log, checkpoints and the model")
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUT's last checkpoint, if any"
    )
    parser.add_argument("--method", choices=METHODS, help="all weights, or a few beside them")
    for name, kind in (
        ("steps", int),
        ("batch-size", int),
        ("seq-len", int),
        ("accumulate", int),
        ("learning-rate", float),
        ("rank", int),
        ("alpha", float),
        ("seed", int),
        ("log-every", int),
        ("eval-every", int),
        ("save-every", int),
        ("keep", int),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--schedule", choices=SCHEDULES)
    parser.add_argument("--device", choices=DEVICES)
    parser.add_argument("--dtype", choices=DTYPES)
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    out, resume = given.pop("out"), given.pop("resume")
    config = FinetuneConfig(**given)
    return 0 if finetune(config, out, resume)[1] == config.steps else 1


if __name__ == "__main__":
    sys.exit(main())
