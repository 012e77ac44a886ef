"""The key to notebook 3's planted bugs, seed by seed: `python -m smol.lesson`."""

import sys

from smol.lesson.checks.parity import answer_key
from smol.terminal import command


@command("smol.lesson")
def main() -> int:
    print("seed  place                     bug                        story")
    for seed in range(32):
        print(answer_key(seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
