"""The slips of notebook 9's exercises 1 and 2: ids and mask, inputs and labels. A slip takes what
the reader's function takes. The checks: finetune.py."""

import functools
from collections.abc import Callable

from smol.tokenizer import CHAT_TOKENS, SYSTEM_PROMPT, BPETokenizer

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant")

# -- 9.1: ids and mask ----------------------------------------------------------------------------


def rendered(
    messages: Messages,
    tokenizer: BPETokenizer,
    /,
    parts: Callable = lambda message, encode: {},
    learned: str = "content end",
    by: tuple = ("assistant",),
) -> tuple[list[int], list[bool]]:
    """Right, or with a slip: some parts of a message made otherwise, or other ones learned."""
    start, end = (tokenizer.special_tokens[name] for name in CHAT_TOKENS)
    encode = functools.partial(tokenizer.encode, special=False)
    ids, mask = [], []
    for message in messages:
        made = {
            "start": [start],
            "role": encode(message["role"] + "\n"),
            "content": encode(message["content"]),
            "end": [end],
            "break": encode("\n"),
        } | parts(message, encode)
        for name, some in made.items():
            ids += some
            mask += [name in learned.split() and message["role"] in by] * len(some)
    return ids, mask


def _ids(parts: Callable) -> Callable:
    return lambda messages, tokenizer: rendered(messages, tokenizer, parts)[0]


def _parsed(messages, tokenizer):
    parts = lambda m, encode: {"content": tokenizer.encode(m["content"])}  # noqa: E731
    return rendered(messages, tokenizer, parts)[0]


def _with(before: Messages = (), after: str = "") -> Callable:
    def slip(messages, tokenizer):
        return rendered([*before, *messages], tokenizer)[0] + tokenizer.encode(after)

    return slip


IDS: dict[str, Callable | tuple] = {
    'the text "<|im_end|>" in a message became the special token, so whoever writes it ends the '
    "message: a content is text, encode(content, special=False)": (
        _parsed,
        lambda messages, tokenizer: _parsed(messages, tokenizer)[:-1],
    ),
    "<|im_start|> and <|im_end|> went in letter by letter: each is one id, which the tokenizer's "
    "special_tokens knows": (
        _ids(lambda m, encode: dict(zip(("start", "end"), map(encode, CHAT_TOKENS), strict=True)))
    ),
    "the line break after the role is missing: it parts the role from the content": (
        _ids(lambda m, encode: {"role": encode(m["role"])})
    ),
    "a space stands between role and content: it is a line break": (
        _ids(lambda m, encode: {"role": encode(m["role"] + " ")}),
        _ids(lambda m, encode: {"role": encode(m["role"] + ": ")}),
        _ids(
            lambda m, encode: {
                "role": encode(m["role"]),
                "content": encode(" " + m["content"]),
            }
        ),
    ),
    "the line break after <|im_end|> is missing: each message ends with one": (
        _ids(lambda m, encode: {"break": []})
    ),
    "the line break after the last message is missing: each message ends with one": (
        lambda messages, tokenizer: rendered(messages, tokenizer)[0][:-1]
    ),
    "the role is missing: <|im_start|>, role, line break, content": (
        _ids(lambda m, encode: {"role": []}),
        _ids(lambda m, encode: {"role": encode("\n")}),
    ),
    "<|im_end|> is missing: it ends each message": _ids(lambda m, encode: {"end": []}),
    "<|im_end|> is missing after the user's message: it ends each message": (
        _ids(lambda m, encode: {} if m["role"] == "assistant" else {"end": []})
    ),
    "<|im_start|> is missing: it begins each message": _ids(lambda m, encode: {"start": []}),
    "the system message is left out: it is a message like others": (
        lambda messages, tokenizer: rendered(
            [m for m in messages if m["role"] != "system"], tokenizer
        )[0]
    ),
    "a system message that nobody wrote comes first: only `messages` are rendered": (
        _with([{"role": "system", "content": SYSTEM_PROMPT}]),
        lambda messages, tokenizer: _with(
            [{"role": "system", "content": SYSTEM_PROMPT}] * (messages[0]["role"] != "system")
        )(messages, tokenizer),
    ),
    "an answer is begun at the end: that is for asking the model, here all is said": (
        _with(after="<|im_start|>assistant\n"),
        lambda messages, tokenizer: _with(
            after="<|im_start|>assistant\n" * (messages[-1]["role"] == "user")
        )(messages, tokenizer),
    ),
    "<|endoftext|> was put in: <|im_start|> begins a message, <|im_end|> ends it": (
        lambda messages, tokenizer: [tokenizer.eos_id, *rendered(messages, tokenizer)[0]],
        _with(after="<|endoftext|>"),
        lambda messages, tokenizer: [
            tokenizer.eos_id,
            *rendered(messages, tokenizer)[0],
            tokenizer.eos_id,
        ],
    ),
    "a content was stripped: what its author wrote stays as it is": (
        _ids(lambda m, encode: {"content": encode(m["content"].strip())})
    ),
    "only the contents are there: role and special tokens are what tells them apart": (
        _ids(lambda m, encode: {"start": [], "role": [], "end": [], "break": []})
    ),
    "that is the first message only: is a return inside the loop?": (
        lambda messages, tokenizer: rendered(messages[:1], tokenizer)[0]
    ),
}


def _mask(learned: str = "content end", by: tuple = ("assistant",)) -> Callable:
    return lambda messages, tokenizer: rendered(messages, tokenizer, learned=learned, by=by)[1]


def _of(change: Callable) -> Callable:
    return lambda messages, tokenizer: change(rendered(messages, tokenizer)[1])


def _one_answer(which: int) -> Callable:
    def slip(messages, tokenizer):
        mask = rendered(messages, tokenizer)[1]
        begins = [i for i, here in enumerate(mask) if here and not mask[i - 1]]
        ends = [*begins[1:], len(mask)]
        kept = range(begins[which], ends[which])
        return [here and i in kept for i, here in enumerate(mask)]

    return slip


def _ends_of_all(messages, tokenizer):
    mine, ends = _mask()(messages, tokenizer), _mask("end", ROLES)(messages, tokenizer)
    return [a or b for a, b in zip(mine, ends, strict=True)]


MASK: dict[str, Callable | tuple] = {
    "everything is learned, questions too: True is for what the assistant says": (
        _of(lambda mask: [True] * len(mask))
    ),
    "nothing is learned: True is for what the assistant says, and for its <|im_end|>": (
        _of(lambda mask: [False] * len(mask))
    ),
    "the <|im_end|> of an answer lies outside: a model that never learns it never stops": (
        _mask("content")
    ),
    "the line break after <|im_end|> is learned: the model has stopped by then": (
        _mask("content end break")
    ),
    "the <|im_end|> of an answer lies outside, and the line break after it is learned": (
        _mask("content break")
    ),
    "<|im_start|>, the role or its line break are learned: they are written for the model, which "
    "goes on after them": (
        _mask("start role content end"),
        _mask("role content end"),
        _mask("start content end"),
        _mask("start role content end break"),
        _mask("role content end break"),
        _mask("role content"),
        _mask("start role content"),
    ),
    "one place too late: does the mask get as many marks as ids, part by part?": (
        _of(lambda mask: [False, *mask[:-1]])
    ),
    "one place too early: the mark stands beside its own id, and labels move in exercise 2": (
        _of(lambda mask: [*mask[1:], False])
    ),
    "questions are learned, too: only the assistant's messages": (
        _mask(by=("user", "assistant")),
        _mask(by=ROLES),
        _mask("content", ROLES),
        _mask("content end break", ROLES),
        _mask("content", ("user", "assistant")),
    ),
    "the system message is learned, too: only the assistant's messages": (
        _mask(by=("system", "assistant"))
    ),
    "what the user says is learned, in place of the assistant's answer": (
        _mask(by=("user",)),
        _mask("content", ("user",)),
        _mask(by=("system", "user")),
    ),
    "True and False are exchanged: True is what is learned": (
        _of(lambda mask: [not here for here in mask])
    ),
    "of several answers only the last one is learned: all of them": _one_answer(-1),
    "of several answers only the first one is learned: all of them": _one_answer(0),
    "only <|im_end|> is learned: the answer's text, too": _mask("end"),
    "every <|im_end|> is learned: only that of an answer is the model's to write": _ends_of_all,
    "from the first answer on everything is learned: later questions are no answers": (
        _of(lambda mask: [any(mask[: i + 1]) for i in range(len(mask))])
    ),
}

# -- 9.2: inputs and labels -----------------------------------------------------------------------


def shifted(ids, mask, /, by=1, marks=1, none=-100, back=None):
    """Right, or with a slip: labels from another place, marks from another, another no-label."""
    n = len(ids)
    inputs, labels = ids[:-1], []
    for t in range(n - 1):
        learned = marks is None or (0 <= t + marks < n and mask[t + marks])
        labels.append(ids[t + by] if learned and 0 <= t + by < n else none)
    return back(inputs, labels) if back else (inputs, labels)


def _moved(**slip) -> Callable:
    return lambda ids, mask: shifted(ids, mask, **slip)


def _in_place(ids, mask):
    return [i if here else -100 for i, here in zip(ids, mask, strict=True)]


LABELS: dict[str, Callable | tuple] = {
    "the labels are not shifted: beside ids[t] stands what comes next, ids[t + 1]": (
        _moved(by=0, marks=0),
        lambda ids, mask: (ids[:-1], _in_place(ids, mask)),
        lambda ids, mask: (ids[1:], _in_place(ids, mask)[1:]),
    ),
    "the labels are not shifted, and both are as long as ids: so transformers wants them, which "
    "shifts by itself. Here beside ids[t] stands ids[t + 1]": (
        lambda ids, mask: (ids, _in_place(ids, mask))
    ),
    "shifted twice: beside ids[t] stands ids[t + 1]": (
        _moved(by=2, marks=2),
        lambda ids, mask: (ids[:-1], _in_place(ids, mask)[2:]),
        lambda ids, mask: (ids[:-2], _in_place(ids, mask)[2:]),
    ),
    "shifted backwards: beside ids[t] stands ids[t + 1], not ids[t − 1]": (
        _moved(by=-1, marks=-1),
        lambda ids, mask: (ids[1:], _in_place(ids, mask)[:-1]),
    ),
    "the mark of the input was asked, not the label's own: mask[t + 1] belongs to ids[t + 1]": (
        _moved(marks=0)
    ),
    "the mark of the label after was asked: mask[t + 1] belongs to ids[t + 1]": _moved(marks=2),
    "the mask is not used: a label that is not learned is −100": _moved(marks=None),
    "the wrong way round: what is not learned is −100, questions": (
        lambda ids, mask: shifted(ids, [not here for here in mask])
    ),
    "where it is learned the label is the input itself: beside ids[t] stands ids[t + 1]": (
        _moved(by=0)
    ),
    "all labels are −100, and nothing is learned": _moved(marks=10**6),
    "inputs are as long as ids: the last id has nothing after it to foretell": (
        lambda ids, mask: (ids, shifted(ids, mask)[1])
    ),
    "both are as long as ids: the last id has nothing after it, so leave it out of the inputs": (
        lambda ids, mask: (ids, [*shifted(ids, mask)[1], -100]),
        lambda ids, mask: (ids, [*ids[1:], -100]),
    ),
    "labels that are not learned are −100, another number is an id, or an error": (
        _moved(none=0),
        _moved(none=-1),
        _moved(none=100),
    ),
    "the inputs have −100, too: a question is read, though it is not learned": (
        lambda ids, mask: (_in_place(ids, mask)[:-1], shifted(ids, mask)[1])
    ),
    "what is not learned was left out: every id keeps its place, for a question is read": (
        lambda ids, mask: (ids[:-1], [i for i in shifted(ids, mask)[1] if i != -100]),
        lambda ids, mask: (
            [i for i, here in zip(ids, mask, strict=True) if here][:-1],
            [i for i, here in zip(ids, mask, strict=True) if here][1:],
        ),
        lambda ids, mask: (
            [i for i, here in zip(ids, mask[1:], strict=False) if here],
            [i for i in shifted(ids, mask)[1] if i != -100],
        ),
    ),
    "inputs and labels are exchanged": _moved(back=lambda inputs, labels: (labels, inputs)),
}
