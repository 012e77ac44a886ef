"""`python -m smol.finetune`: the settings from the command line, checked, then the run.

python -m smol.finetune --model assets/smol-stories --data stories-chat --steps 600 --out DIR
python -m smol.finetune --model WHERE --method lora --data FILE.jsonl --steps 100 --out DIR
python -m smol.finetune --model WHERE --method lora --data smoltalk --steps 600 --out DIR
python -m smol.finetune --model WHERE --method dpo --data PAIRS.jsonl --steps 100 --out DIR
"""

import argparse
import sys

from smol.finetune.messages import SMOLTALK, SMOLTALK_COUNT
from smol.finetune.run import finetune
from smol.finetune.settings import EVERY, METHODS, STORIES, FinetuneConfig
from smol.terminal import command
from smol.train.flags import add_flags, given_flags


@command("smol.finetune")
def main() -> int:
    """Exit status 0 for a run at its end; 1 for one that was stopped, as `smol.train` has it."""
    parser = argparse.ArgumentParser(
        prog="python -m smol.finetune", description="from a model to one that answers"
    )
    parser.add_argument("--model", required=True, help="a folder, a hub repository, a .gguf file")
    parser.add_argument(
        "--data",
        help=f"{STORIES}; {SMOLTALK}, {SMOLTALK_COUNT:,} conversations from the hub; or a .jsonl "
        "with messages or pairs a line",
    )
    parser.add_argument(
        "--kinds", help=f"what {STORIES} asks, with commas: some of {', '.join(EVERY)}"
    )
    parser.add_argument("--method", choices=METHODS, help="all weights, a few, or by preference")
    parser.add_argument(
        "--freeze-embedding",
        action="store_const",
        const=True,
        help="all of it but the special tokens: words that the data lacks are not unlearned",
    )
    add_flags(parser, rank=int, alpha=float, beta=float)
    given, out, resume = given_flags(parser)
    config = FinetuneConfig(**given)
    return 0 if finetune(config, out, resume)[1] == config.steps else 1


if __name__ == "__main__":
    sys.exit(main())
