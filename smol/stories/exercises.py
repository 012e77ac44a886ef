"""What a model practises on beside conversations: stories, beginnings of them, and echoes."""

import random

from smol import stories
from smol.stories import chat

ECHOED = 30  # items


def story(rng: random.Random) -> str:
    """A story as the base has read them, with whatever conversations hold out as well: what is
    not practised is forgotten."""
    return stories.grammar().write(rng)


def opening(rng: random.Random) -> list[dict[str, str]]:
    """An instruction, and how a story that follows it begins, as messages: its title and its first
    sentence, or more, up to the sentence with the thing that was wished for. Nothing in them is
    held out."""
    wish, given = chat._wish(rng, held_out=False)
    story = chat._story(rng, False, given)[0]
    first = story.find(". ", story.find("\n"))
    things = (item["text"] for var, item in given.items() if var not in ("hero", *chat.PAIRED))
    last = max((story.lower().find(thing.lower()) for thing in things), default=0)
    said = story[: story.find(".", max(first, last)) + 1]
    return [{"role": "user", "content": wish}, {"role": "assistant", "content": said}]


def echo(rng: random.Random) -> list[dict[str, str]]:
    """Some thirty names, things, places and numbers in no order, and the same once more, as
    messages. Nothing in them is held out.

    Of what a story says once a model can say no more than which kind it is. To read it off it has
    to copy anything from anywhere, and here nothing else helps.
    """
    pools = stories.grammar().pools
    held_out = {
        id(name) for i, name in enumerate(pools["name"]) if i % chat.TENTH == chat.TENTH - 1
    }
    items = [i for pool in pools.values() for i in pool if id(i) not in held_out]
    texts = [next(iter(item.values())) for item in items]
    said = " ".join(sorted(texts, key=lambda _: rng.random())[:ECHOED])
    return [{"role": role, "content": said} for role in ("user", "assistant")]
