"""A conversation as token ids, and beside each of them whether it is to be learned."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import NamedTuple

from smol.checks import flag, whole
from smol.finetune.messages import check_messages
from smol.tokenizer import BPETokenizer, chat_text


class Chat(NamedTuple):
    """A conversation's `ids`, and `mask`, as long: True at what the assistant says and at the
    token that ends it."""

    ids: list[int]
    mask: list[bool]


def render(
    messages: list[dict[str, str]], tokenizer: BPETokenizer, last_only: bool = False
) -> Chat:
    """The messages by the tokenizer's chat template: the ids that transformers makes of them, and
    what is to be learned, of all answers or of the last one.

    No template says where an answer stands, so it is found as the model will meet it: what is
    written for the messages before it with its beginning is the question, and what the next
    message adds up to the special token that ends it is the answer. The names of special tokens
    in a message are text, and no tokens.

    Raises ValueError for messages that `check_messages` refuses, for a template that writes the
    beginning of a conversation otherwise once it goes on, and for one that ends no answer with a
    special token.
    """
    messages = check_messages(messages)
    special = tokenizer.special_tokens
    names = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
    # In a message a name goes under another while the template writes its own beside it.
    text = "".join(m["content"] for m in messages) + (tokenizer.chat_template or "")
    marks = dict(zip(special, _unused(text), strict=False))
    back = {ord(mark): name for name, mark in marks.items()}
    hidden = [
        {**m, "content": names.sub(lambda name: marks[name[0]], m["content"])} for m in messages
    ]

    @cache  # the beginnings of a conversation share all their parts but the last
    def part_ids(part: str) -> list[int]:
        return tokenizer.encode(part.translate(back), special=False)

    def ids_of(length: int, begun: bool = False) -> list[int]:
        text = chat_text(hidden[:length], begun, tokenizer.chat_template)
        ids, at = [], 0
        for name in names.finditer(text):
            ids += [*part_ids(text[at : name.start()]), special[name[0]]]
            at = name.end()
        return ids + part_ids(text[at:])

    ids = ids_of(len(messages))
    mask = [False] * len(ids)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for i in answers[-1:] if flag("last_only", last_only) else answers:
        asked, answered = ids_of(i, begun=True), ids_of(i + 1)
        if answered[: len(asked)] != asked or ids[: len(answered)] != answered:
            raise ValueError(_changed(hidden, i, tokenizer))
        end = _end_of(answered, len(asked), tokenizer)
        mask[len(asked) : end + 1] = [True] * (end + 1 - len(asked))
    return Chat(ids, mask)


def truncate(chat: Chat, seq_len: int) -> tuple[Chat, int]:
    """The conversation up to the end of the last answer that a row of `seq_len` holds, and how
    many answers that leaves out: an end token is kept with its answer, or goes with it.

    n ids take n - 1 places, for the last is a label only. ValueError where no answer fits.
    """
    seq_len = whole("seq_len", seq_len)
    ends = answer_ends(chat.mask)
    fit = [end for end in ends if end <= seq_len]
    if not fit:
        raise ValueError(
            f"no answer ends within {seq_len} tokens (the first at {ends[0] if ends else None}): "
            "take a larger seq_len, or leave this conversation out"
        )
    return Chat(chat.ids[: fit[-1] + 1], chat.mask[: fit[-1] + 1]), len(ends) - len(fit)


def answer_ends(mask: list[bool]) -> list[int]:
    """Where the answers of a mask end: at their end tokens."""
    return [i for i, (here, after) in enumerate(zip(mask, [*mask[1:], False], strict=True))
            if here and not after]  # fmt: skip


def _unused(text: str) -> Iterator[str]:
    """Characters for private use that the text has not: there are 65,534, and more."""
    return (c for c in map(chr, count(0xF0000)) if c not in text)


def _end_of(answered: list[int], start: int, tokenizer: BPETokenizer) -> int:
    """Where the special token is that ends an answer from `start` on. White space may follow: it
    is written between messages, and never by the model."""
    special = set(tokenizer.special_tokens.values())
    end = max((i for i in range(start, len(answered)) if answered[i] in special), default=None)
    if end is None or tokenizer.decode(answered[end + 1 :]).strip():
        raise ValueError(
            "the chat template ends an answer with no special token of this tokenizer, and the "
            "model would not learn to stop: let it write <|im_end|>, say, as the tokenizer has it"
        )
    return end


def _changed(messages: list[dict[str, str]], i: int, tokenizer: BPETokenizer) -> str:
    """Why what was asked is not how the answered conversation begins."""
    template = tokenizer.chat_template
    asked, answered = (
        chat_text(messages[:i], True, template),
        chat_text(messages[: i + 1], False, template),
    )
    if answered.startswith(asked) and chat_text(messages, False, template).startswith(answered):
        return (
            f"message {i + 1} begins with what becomes one token with the end of the question "
            f"({messages[i]['content'][:20]!r}): strip it"
        )
    return (
        f"the chat template writes the conversation up to message {i + 1} otherwise once it goes "
        "on, so what is learned is not what is asked: take one that only adds to what stands"
    )
