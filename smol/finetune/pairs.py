"""Pairs as data: a conversation with two last answers, of which one is to be preferred."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from smol import checks
from smol.checks import path, shown
from smol.data.formats import json_lines
from smol.finetune.messages import check_messages
from smol.stories.chat import OPEN, Conversation, answers, conversations

FORM = '{"chosen": [{"role": "user", "content": "…"}, …], "rejected": […]}'


class Pair(NamedTuple):
    """Two conversations, alike but for the last answer."""

    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]


def read_pairs(file: str | Path) -> Iterator[Pair]:
    """The pairs of a JSONL, one a line: "chosen" and "rejected", each as `check_messages` gives
    them. What they share may stand apart, as "prompt"; a prompt or an answer may be its text.

    Raises FileNotFoundError for no file; ValueError, naming file and line, for a line that holds
    no pair of answers to the same messages, and for a file without any.
    """
    place, line = path("the pairs' file", file), 0
    if not place.is_file():
        raise FileNotFoundError(f"{file} is no file here: check the name")
    for line, row in json_lines(place, FORM):
        if not isinstance(row, dict) or not {"chosen", "rejected"} <= row.keys():
            raise ValueError(f"{file}, line {line} is no {FORM}: mend or drop it")
        try:
            pair = _pair_of(row)
        except ValueError as error:
            raise ValueError(f"{file}, line {line}: {error}") from error
        yield pair
    if not line:
        raise ValueError(f"{file} holds no pair: write some, {FORM} a line")


def story_pairs(count: int, seed: int, held_out: bool = False) -> Iterator[Pair]:
    """`count` pairs about the grammar's stories: conversations as `conversations` writes them, the
    same for the same seed, that end with a question.

    Chosen is the right answer. Rejected is what somebody may say who has not listened: OPEN where
    the story does say it; else what it says of something else, of the same kind where it can be.
    """
    count, rng = checks.whole("count", count), random.Random(checks.seed("seed", seed))
    talks = conversations(10**12, seed, held_out)
    return islice((_pair(talk, rng) for talk in talks if talk.kinds[-1] != "story"), count)


def _pair(talk: Conversation, rng: random.Random) -> Pair:
    *before, last = talk.messages
    pieces = [piece for m in talk.messages[:2] for piece in m["content"].split("\n\n")]
    known = answers(max(pieces, key=len))  # the story is longer than what is asked about it
    wrong = {name: said for name, said in known.items() if said not in (last["content"], OPEN)}
    like = [said for name, said in wrong.items() if name.startswith(f"{talk.kinds[-1]}_")]
    said = OPEN
    if last["content"] == OPEN or rng.random() < 0.5:
        some = like or [*wrong.values()]
        said = some[int(rng.random() * len(some))]  # all versions of Python compute that alike
    return Pair(talk.messages, [*before, {**last, "content": said}])


def _pair_of(row: dict) -> Pair:
    pair = Pair(*(_messages(row, side) for side in Pair._fields))
    for side, messages in zip(Pair._fields, pair, strict=True):
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"the last message of {side} is no answer: let the assistant end it")
    if pair.chosen[:-1] != pair.rejected[:-1]:
        raise ValueError(
            "chosen and rejected differ before their last messages: let both answer the same"
        )
    if pair.chosen == pair.rejected:
        raise ValueError("chosen and rejected are the same, which prefers nothing: drop the line")
    return pair


def _messages(row: dict, side: str) -> list[dict[str, str]]:
    """One side of a pair, after its prompt, unless it brings that along."""
    said, prompt = row[side], row.get("prompt", [])
    if isinstance(said, str):
        said = [{"role": "assistant", "content": said}]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list):
        raise ValueError(f"prompt must be messages or a text, got {shown(prompt)}")
    try:
        begun = said[0]["role"] == "assistant"
    except (LookupError, TypeError):
        begun = False
    try:
        return check_messages([*prompt, *said] if begun else said)
    except ValueError as error:
        raise ValueError(f"{side}: {error}") from error
