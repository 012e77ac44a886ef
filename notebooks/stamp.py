"""Says where the series is to be fetched from: `python notebooks/stamp.py https://github.com/me/it`.

Whoever publishes the series, or a fork of it, runs this once and commits. The address is kept in
pyproject.toml (project.urls, Repository); from there it goes into the set-up cell of every
notebook, so that Colab can fetch the rest, and, where it is on GitHub, into "Open in Colab" badges
and the README's table. Without an argument the address of pyproject.toml is stamped again, into a
new notebook say; "" takes it out everywhere.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import refresh

from smol.terminal import command

ROOT = refresh.HERE.parent
COLAB = "https://colab.research.google.com"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n\n")
SET_UP = re.compile(r'(?m)^REPOSITORY = "[^"]*"')
ROW = re.compile(r"(?m)^(\| \[[^]]*\]\(notebooks/(\w+\.ipynb)\))(?: · \[Colab\]\([^)]*\))?")
URLS = re.compile(r'\n\[project\.urls\]\nRepository = "[^"]*"\n')


def address_of(root: Path = ROOT) -> str:
    """The address in pyproject.toml; "" where there is none."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def colab_link(address: str, name: str) -> str | None:
    """Where Colab opens a notebook of a GitHub repository (its branch main); None for others."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", address)
    return f"{COLAB}/github/{found[1]}/blob/main/notebooks/{name}" if found else None


def stamp(address: str, root: Path = ROOT) -> None:
    """Writes the address into pyproject.toml, the notebooks and the README of the series."""
    if re.search(r'["\\\s]', address) or (address and "/" not in address):
        raise ValueError(f"{address!r} is no address: give one such as https://github.com/me/it")
    file = root / "pyproject.toml"
    text = URLS.sub("", file.read_text(encoding="utf-8"))
    urls = f'\n[project.urls]\nRepository = "{address}"\n' if address else ""
    build = text.index("\n[build-system]")
    file.write_text(text[:build] + urls + text[build:], encoding="utf-8")
    for file in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        title, set_up = notebook.cells[:2]
        set_up.source, count = SET_UP.subn(f'REPOSITORY = "{address}"', set_up.source)
        if count != 1:
            raise ValueError(f"{file.name}: its second cell is not the set-up cell")
        link = colab_link(address, file.name)
        badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})\n\n" if link else ""
        heading, _, rest = BADGE.sub("", title.source).partition("\n\n")
        title.source = f"{heading}\n\n{badge}{rest}"
        file.write_text(refresh.normalise(notebook), encoding="utf-8")

    def row(found: re.Match) -> str:
        link = colab_link(address, found[2])
        return found[1] + (f" · [Colab]({link})" if link else "")

    file = root / "README.md"
    file.write_text(ROW.sub(row, file.read_text(encoding="utf-8")), encoding="utf-8")


@command("stamp")
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="?", help="of the repository; without: pyproject.toml's")
    args = parser.parse_args()
    address = address_of() if args.address is None else args.address
    stamp(address)
    badges = "with" if colab_link(address, "x") else "without"
    print(f"stamped {address or 'no address'}, {badges} links to Colab: look at `git diff`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
