"""Draws the README's pictures: `python -m smol.lesson.figures`."""

import sys
from pathlib import Path

from smol.lesson.figures.readme import learned_from, results_from
from smol.terminal import command


@command("smol.lesson.figures")
def main() -> int:
    root = Path(__file__).resolve().parents[3]
    for name, draw in (("learned", learned_from), ("results", results_from)):
        png, alt = draw(root)
        (root / f"assets/{name}.png").write_bytes(png)
        print(f"assets/{name}.png: {alt}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
