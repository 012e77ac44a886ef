"""Writes a corpus: `python -m smol.stories [--check]`, or `python -m smol.stories my.txt`.

Without a file, data/stories.txt and its card, the same bytes on every machine. With one, in the
notation that sentences.txt begins with, its grammar is proved, its entropy said, and its texts
written to my.jsonl, which `python -m smol.train --data my.jsonl` reads.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from smol import stories
from smol.checks import path, seed, whole
from smol.stories.card import card
from smol.stories.grammar import Grammar
from smol.terminal import command


@command("smol.stories")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.stories",
        description="Writes data/stories.txt and data/stories.md, or a corpus of your own.",
    )
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="your own rules and pools, in one file"
    )
    parser.add_argument("--count", type=int, help=f"how many texts of FILE ({stories.COUNT})")
    parser.add_argument("--seed", type=int, help=f"the same texts for the same ({stories.SEED})")
    parser.add_argument("--out", type=Path, help="the .jsonl to write (FILE's name with .jsonl)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, compare the stories' files"
    )
    args = parser.parse_args(arguments)
    if args.file is None:
        if (args.count, args.seed, args.out) != (None, None, None):
            raise ValueError("--count, --seed and --out are for a FILE of your own: name it")
        _write_stories(args.check)
    else:
        if args.check:
            raise ValueError("--check is for the stories: leave it out, or FILE")
        file = path("FILE", args.file)
        count = stories.COUNT if args.count is None else whole("--count", args.count)
        drawn = stories.SEED if args.seed is None else seed("--seed", args.seed)
        _write_own(file, count, drawn, args.out or file.with_suffix(".jsonl"))
    return 0


def _write_stories(check: bool) -> None:
    stories.grammar().prove()
    text = stories.corpus()
    files = {stories.DATA / "stories.txt": text, stories.DATA / "stories.md": card(text)}
    for file, content in files.items():
        if not check:
            file.write_bytes(content.encode())
        elif not file.is_file() or file.read_bytes() != content.encode():
            raise ValueError(
                f"{file} is not what this command writes: run `python -m smol.stories`"
            )
    nats = stories.entropy()
    print(f"{stories.COUNT:,} stories, {len(text):,} bytes, {nats:.3f} nats per story")


def _write_own(file: Path, count: int, seed: int, out: Path) -> None:
    """Proves the grammar of a file and writes `count` of its texts, a {"text": …} a line."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name the file with your rules and pools")
    if out.suffix.lower() != ".jsonl":
        raise ValueError(f"{out} must end in .jsonl, which is how smol.train knows what it is")
    if out.resolve() == file.resolve():
        raise ValueError(f"{out} is the grammar itself: name another file with --out")
    grammar = Grammar.load(file)
    grammar.prove()
    rng = random.Random(seed)
    texts = [grammar.write(rng) for _ in range(count)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]

    from smol.files import written_beside  # safetensors comes with it

    with written_beside(out.parent, out.name) as (part,):
        part.write_bytes("".join(lines).encode())
    size, nats = sum(len(text.encode()) for text in texts), grammar.entropy()
    print(
        f"{count:,} texts, {len(set(texts)):,} of them different, {size:,} bytes in {out}\n"
        f"{nats:.3f} nats per text, {nats * count / max(size, 1):.4f} per byte: no model can have "
        "a lower expected loss"
    )


if __name__ == "__main__":
    sys.exit(main())
