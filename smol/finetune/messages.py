"""Conversations as data: a JSON object with "messages" on each line, in the form of most chat data
on the hub; and the hub's own, by name."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from smol.checks import path, shown, whole
from smol.data.corpora import hub_stream, unreachable
from smol.data.formats import json_lines
from smol.terminal import say
from smol.tokenizer.pieces import check_text

ROLES = ("system", "user", "assistant")
SMOLTALK = "smoltalk"
# What SmolLM2-135M-Instruct was tuned on, of which so many are read: some 5 million tokens.
SMOLTALK_REPO, SMOLTALK_COUNT = "HuggingFaceTB/smol-smoltalk", 10_000
FORM = '{"messages": [{"role": "user", "content": "…"}, …]}'


def read_messages(file: str | Path) -> Iterator[list[dict[str, str]]]:
    """The conversations of a JSONL, one a line, as `check_messages` gives them.

    Raises FileNotFoundError for no file; ValueError, naming file and line, for a line that holds
    none, and for a file without any.
    """
    place, number = path("the conversations' file", file), 0
    if not place.is_file():
        raise FileNotFoundError(f"{file} is no file here: check the name")
    for number, row in json_lines(place, FORM):
        if not isinstance(row, dict) or "messages" not in row:
            raise ValueError(f"{file}, line {number} is no {FORM}: mend or drop it")
        try:
            messages = check_messages(row["messages"])
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        yield messages
    if not number:
        raise ValueError(f"{file} holds no conversation: write some, {FORM} a line")


def smoltalk(count: int = SMOLTALK_COUNT) -> Iterator[list[dict[str, str]]]:
    """The first `count` conversations of SmolTalk on the hub, without spaces around what is said.
    Those that `check_messages` refuses are left out, and that is said.

    FileNotFoundError where the hub cannot be reached, at the beginning or later.
    """
    count, instead, left_out = whole("count", count), "a .jsonl of messages", 0
    rows = islice(iter(hub_stream(SMOLTALK, SMOLTALK_REPO, None, instead)), count)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # whatever broke off
            raise unreachable(SMOLTALK, error, instead) from error
        if row is None:
            break
        try:
            messages = check_messages(row.get("messages"))
        except ValueError:
            left_out += 1
            continue
        # An answer that begins with a space cannot be told from its beginning (`render`).
        yield [{**message, "content": message["content"].strip()} for message in messages]
    if left_out:
        say(f"{SMOLTALK}: left out {left_out:,} of {count:,}, which are no conversations")


def check_messages(messages) -> list[dict[str, str]]:
    """The messages with their "role" and "content", and nothing else that data may hold.

    ValueError, naming the first that is wrong, unless they are texts by system, user or
    assistant, of which the assistant has one that is not the first.
    """
    if not isinstance(messages, list | tuple):
        raise ValueError(f"messages must be a list, got {shown(messages)}")
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(f"message {number} is by {shown(role)}: name one of {ROLES}")
        if not isinstance(message.get("content"), str):
            got = shown(message.get("content"))
            raise ValueError(f"the content of message {number} is {got}: make it a text")
        check_text(message["content"])
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise ValueError("nothing is answered in these messages, so there is nothing to learn")
    if messages[0]["role"] == "assistant":
        raise ValueError("message 1 answers nothing: let the user begin")
    return [{"role": m["role"], "content": m["content"]} for m in messages]
