"""Draws the README's picture: `python -m smol.lesson.figures`."""

from pathlib import Path

from smol.lesson.figures.readme import results_from

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[3]
    png, alt = results_from(root)
    (root / "assets/results.png").write_bytes(png)
    print(f"assets/results.png: {alt}")
