"""Short stories with a known floor: "how good can a model get?" has an exact answer here.

A story is a series of choices: which plot, which name, which noise in the night. Each can be read
back from the text (grammar.py proves it), so the probability of a story is the product of its
choices' probabilities, and the mean of -ln p over all stories is the entropy. No model can have a
lower expected loss: that is the floor.

`python -m smol.stories` writes data/stories.txt and its card, the same bytes on every machine;
`python -m smol.stories FILE` does the like for sentences of your own: sentences.txt begins with
the notation.
"""

import random
from functools import cache
from pathlib import Path

from smol.stories.grammar import Choice, Grammar

__all__ = ["Choice", "Grammar", "corpus", "entropy", "grammar", "log_prob", "read", "write"]

FILES = [Path(__file__).with_name(name) for name in ("sentences.txt", "pools.txt")]
DATA = Path(__file__).resolve().parents[2] / "data"
SEED, COUNT = 2026, 2400
HELD_OUT = 10  # one story in ten, the last ones of the file, is for validation


@cache
def grammar() -> Grammar:
    """The grammar of the stories, proved to be unambiguous by the tests."""
    return Grammar.load(*FILES)


def write(count: int, seed: int) -> list[str]:
    """`count` stories, each with its title on a line of its own; the same for the same seed."""
    rng = random.Random(seed)
    return [grammar().write(rng) for _ in range(count)]


def read(story: str) -> list[Choice]:
    """The choices that made a story, in order; ValueError for a text that is no story."""
    return grammar().choices(story.strip("\n"))


def log_prob(story: str) -> float:
    """ln p of a story, in nats: exact. ValueError for a text that is no story."""
    return grammar().log_prob(story.strip("\n"))


def entropy() -> float:
    """The mean of -ln p over all stories, in nats: exact. The floor of every loss on them."""
    return grammar().entropy()


def corpus() -> str:
    """What data/stories.txt holds: the stories with a blank line between them."""
    return "\n\n".join(write(COUNT, SEED)) + "\n"
