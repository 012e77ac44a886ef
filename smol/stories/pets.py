"""One choice of the grammar by itself, with a worth that anybody can count: the hero's pet, and
its legs.

Of the 35 animals each is as likely as any other in the stories, and one token in the tokenizer of
assets/smol-stories. So whoever wants pets of few legs knows what the best model for that does.
"""

import random

from smol import checks
from smol.stories import grammar

__all__ = ["LEGS", "openings"]

BIRDS = ["goose", "gander", "parrot", "peacock", "hen", "owl", "crow", "rook", "duck", "dove"]
LEGS = {item["text"]: 4 for item in grammar().pools["animal"]}  # animal -> legs
LEGS |= dict.fromkeys(BIRDS, 2) | {"snail": 0, "snake": 0}


def openings(count: int, seed: int) -> list[str]:
    """`count` beginnings of stories, all different, each up to where the pet is named: what
    comes next is one word of LEGS, and can be any. The same for the same seed.

    ("… had an" can go on with an owl only: such beginnings are left out, and titles that name
    the pet.)
    """
    rng, found = random.Random(checks.seed("seed", seed)), {}
    for _ in range(1000 * checks.whole("count", count)):
        story = grammar().write(rng)
        pet = next(c for c in grammar().choices(story) if c.made.startswith("pet = "))
        if pet.made.removeprefix("pet = ") in LEGS:
            found[story[: pet.start].rstrip()] = None
        if len(found) == count:
            return list(found)
    raise ValueError(f"there are not so many beginnings as {count:,}: take fewer")
