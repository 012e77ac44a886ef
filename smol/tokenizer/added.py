"""Added tokens: texts that are one token wherever they stand, cut out before anything is split.

Special ones (<|im_end|>) can be left as text and left out of a text; the others (<think>, as
transformers' add_tokens makes them) are found always and always shown.
"""

from collections.abc import Collection, Iterator

import regex

from smol.tokenizer.pieces import as_bytes, check_text


class Added:
    """The added tokens of one tokenizer, `ids` (text -> id), and where they stand in a text.

    `tokenizers` looks twice: first for those whose "normalized" is false, then, in what is left
    between them, for the others. Each time the leftmost counts, and of those the longest.
    """

    def __init__(self, special: dict[str, int], others: dict[str, int], later: Collection[str]):
        self.ids = {**special, **others}
        self._special = special.keys()
        first = [text for text in self.ids if text not in later]
        passes = [sorted(texts, key=len, reverse=True) for texts in (first, later) if texts]
        self._patterns = [regex.compile("|".join(map(regex.escape, texts))) for texts in passes]
        # with special=False there is something to look for only if others are there
        self._without_special = self._patterns if others else []

    def cut(self, text: str, special: bool) -> list[tuple[str, int | None]]:
        """The text in parts: each added token with its id, what is between them with None.

        Without `special`, those are text, and what overlaps one is not looked for in it.
        """
        parts: list[tuple[str, int | None]] = [(text, None)]
        for pattern in self._patterns if special else self._without_special:
            parts = [
                piece
                for part, i in parts
                for piece in (self._cut(part, pattern, special) if i is None else [(part, i)])
            ]
        return parts

    def _cut(self, text: str, pattern, special: bool) -> Iterator[tuple[str, int | None]]:
        start = 0
        for match in pattern.finditer(text):
            if special or match[0] not in self._special:
                yield text[start : match.start()], None
                yield match[0], self.ids[match[0]]
                start = match.end()
        yield text[start:], None


def check_ids(
    vocab: dict[bytes, int], special: dict[str, int], others: dict[str, int]
) -> dict[bytes, int]:
    """The ids of those added tokens whose names stand for bytes, as tokens of the vocabulary do.

    Raises ValueError where two tokens share an id or a name otherwise, and for names and ids
    that a tokenizer.json cannot hold.
    """
    if twice := special.keys() & others.keys():
        raise ValueError(f"{min(twice)!r} is a special token and another added one: choose")
    both, spelled = {**special, **others}, {}
    for text, i in both.items():
        if text == "":
            raise ValueError("an added token is empty: name it like <|this|>")
        check_text(text)
        token = as_bytes(text)
        if vocab.get(token, i) != i:
            raise ValueError(
                f"added token {text!r} has id {i!r} and another id in the vocabulary, "
                f"{vocab[token]}: give it that one, or another name"
            )
        if token is not None:
            spelled[token] = i
    counts: dict = {}
    for i in [*vocab.values(), *both.values()]:
        counts[i] = counts.get(i, 0) + 1
    for token in spelled.keys() & vocab.keys():  # one token, under two titles
        counts[vocab[token]] -= 1
    for i, n in counts.items():
        if type(i) is not int or not 0 <= i < 2**32 or n > 1:
            raise ValueError(
                "ids must be whole numbers from 0 on, below 2³² and each of one token only, got "
                f"{i!r}{' twice' * (n > 1)}"
            )
    return spelled
