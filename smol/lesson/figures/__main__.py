"""Draws the README's picture: `python -m smol.lesson.figures`."""

import sys
from pathlib import Path

from smol.lesson.figures.readme import results_from
from smol.terminal import command


@command("smol.lesson.figures")
def main() -> int:
    root = Path(__file__).resolve().parents[3]
    png, alt = results_from(root)
    (root / "assets/results.png").write_bytes(png)
    print(f"assets/results.png: {alt}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
