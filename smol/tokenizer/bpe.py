"""The tokenizer: text to ids and back, trained, saved and loaded."""

import codecs
import copy
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from sys import getsizeof

import regex

from smol.checks import flag, path, shown, texts_of, whole
from smol.files import writable, written_beside
from smol.pretrained import fetch
from smol.tokenizer.added import Added, check_ids
from smol.tokenizer.chat import CHAT_TOKENS, END_OF_TEXT, chat_text, template_in
from smol.tokenizer.file import content_of, parts_of
from smol.tokenizer.gguf import parts_of_gguf
from smol.tokenizer.merges import apply_merges, learn_merges
from smol.tokenizer.pieces import (
    DIGITS_PATTERN,
    GPT2_PATTERN,
    as_bytes,
    byte_alphabet,
    check_text,
)

# What is known of words is kept until it takes this many bytes. Longer words are not kept, as in
# `tokenizers`: a line of DNA or base64 is one "word" that does not come again.
CACHE_BYTES, LONGEST_KEPT = 64 * 2**20, 256


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class BPETokenizer:
    """A byte-level BPE tokenizer: `vocab` (bytes -> id), `merges`, `special_tokens` (text -> id).

    `merges` are pairs of bytes, the earliest learned first. A byte without a token is dropped in
    encoding, silently, as Hugging Face does (SmolLM2's vocabulary lacks 21 of the 256).
    `added_tokens` (text -> id) are found in a text as special tokens are, but they are part of
    it: no option leaves them out. Those of both that are `normalized` are looked for second.

    Raises ValueError for no tokens, an id or a name of two of them, a merge that is not of the
    vocabulary, and whatever else no tokenizer.json can hold.
    """

    def __init__(
        self,
        vocab: dict[bytes, int],
        merges: Iterable[tuple[bytes, bytes]],
        special_tokens: dict[str, int] | None = None,
        split_digits: bool = True,
        added_tokens: dict[str, int] | None = None,
        normalized: Collection[str] = (),
    ):
        self.vocab, merges = _checked_vocab(vocab), _each("merges", merges)
        self.merges = [tuple(pair) if isinstance(pair, list) else pair for pair in merges]
        for rank, pair in enumerate(self.merges):
            if not _is_pair(pair) or not {*pair, b"".join(pair)} <= self.vocab.keys():
                raise ValueError(
                    f"merge {rank}, {pair!r:.200}, is no pair of the vocabulary: are merges and "
                    "vocabulary of one tokenizer?"
                )
        for name, given in (("special_tokens", special_tokens), ("added_tokens", added_tokens)):
            if not isinstance(given, dict | None):
                raise ValueError(f"{name} must be a dict from text to id, got {shown(given)}")
        self.special_tokens = dict(special_tokens or {})
        self.added_tokens = dict(added_tokens or {})
        self.normalized = frozenset(normalized)
        if unknown := self.normalized - {*self.special_tokens, *self.added_tokens}:
            raise ValueError(f"normalized names {min(unknown)!r}, which is no added token")
        if spelled := check_ids(self.vocab, self.special_tokens, self.added_tokens):
            # A file lists added tokens in its vocabulary, too. There a byte is a byte, whoever
            # else has its name; of the others only those are tokens of text that merges know.
            needed = {part for a, b in self.merges for part in (a, b, a + b)}
            for token, i in spelled.items():
                if len(token) == 1:
                    self.vocab[token] = i
                elif token not in needed:
                    self.vocab.pop(token, None)
        self.split_digits = flag("split_digits", split_digits)
        self._pattern = regex.compile(DIGITS_PATTERN if split_digits else GPT2_PATTERN)
        self._added = Added(self.special_tokens, self.added_tokens, self.normalized)
        self._byte_ids = [self.vocab.get(bytes([b])) for b in range(256)]
        self._ranks = {
            (self.vocab[a], self.vocab[b]): (rank, self.vocab[a + b])
            for rank, (a, b) in enumerate(self.merges)
        }
        self._bytes = {i: token for token, i in self.vocab.items()}
        # `tokenizers` reads an added token back as it reads any other, wherever it can.
        added = self._added.ids.items()
        self._bytes.update({i: as_bytes(text) or text.encode() for text, i in added})
        self._size = max(self._bytes) + 1
        self._cache: dict[str, list[int]] = {}
        self._cache_bytes = 0
        self.chat_template: str | None = None  # None: ChatML, as SmolLM2-Instruct has it
        self._kept: dict = {"model": {}}  # fields of its file that decide no ids

    def __len__(self) -> int:
        """The size of the vocabulary: the largest id + 1."""
        return self._size

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        split_digits: bool = True,
    ) -> "BPETokenizer":
        """A tokenizer learned from `texts`: special tokens, the 256 bytes, then merges.

        It has fewer than vocab_size tokens where the texts run out of pairs. Special tokens
        spelled out in the texts are text like any other. Raises ValueError for no text at all,
        and for a vocab_size that cannot hold special tokens and bytes.
        """
        vocab_size = whole("vocab_size", vocab_size)
        split_digits = flag("split_digits", split_digits)
        pattern = regex.compile(DIGITS_PATTERN if split_digits else GPT2_PATTERN)
        special_tokens = [special_tokens] if isinstance(special_tokens, str) else special_tokens
        special = list(dict.fromkeys(_each("special_tokens", special_tokens)))
        for text in special:  # what is one piece, training might learn as well
            if not isinstance(text, str):
                raise ValueError(f"special tokens must be texts, got {shown(text)}")
            if not regex.fullmatch("[!-~]+", text) or len(pattern.findall(text)) < 2:
                raise ValueError(f"special token {text!r} could be text: name it like <|this|>")
        if vocab_size < len(special) + 256:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: {len(special)} special tokens and the "
                f"256 bytes need {len(special) + 256}"
            )
        # a string is not meant as an iterable of letters
        texts = [texts] if isinstance(texts, str) else texts_of("texts", texts)
        counts = Counter()
        for text in _each("texts", texts):
            check_text(text)
            counts.update(pattern.findall(text))
        if not counts:
            raise ValueError("there is no text to train on: the corpus is empty")
        tokens = [text.encode() for text in special]
        tokens += byte_alphabet()
        in_bytes = {word.encode(): n for word, n in counts.items()}
        merges = learn_merges(in_bytes, tokens, vocab_size)
        vocab = {token: i for i, token in enumerate(tokens) if i >= len(special)}
        return cls(vocab, merges, {text: i for i, text in enumerate(special)}, split_digits)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text. With special=False, "<|im_end|>" in it is ten characters of text.

        That is how to encode what strangers wrote; added tokens that are not special are found
        all the same, as in Hugging Face's. Raises ValueError for a text with half a surrogate
        pair in it, which has no UTF-8.
        """
        check_text(text)
        ids = []
        for part, token_id in self._added.cut(text, flag("special", special)):
            if token_id is not None:
                ids.append(token_id)
                continue
            for word in self._pattern.findall(part):
                known = self._cache.get(word)
                ids += self._encode_word(word) if known is None else known
        return ids

    def _encode_word(self, word: str) -> list[int]:
        """The ids of one pre-token, which are kept for the next time."""
        symbols = [i for b in word.encode() if (i := self._byte_ids[b]) is not None]
        ids = apply_merges(symbols, self._ranks)
        if len(word) <= LONGEST_KEPT:
            if self._cache_bytes > CACHE_BYTES:
                self._cache.clear()
                self._cache_bytes = 0
            self._cache[word] = ids
            self._cache_bytes += getsizeof(word) + getsizeof(ids) + 100  # and its place in there
        return ids

    def pieces(self, text: str) -> list[str]:
        """The pre-tokens of a text: no token reaches over the border of one."""
        check_text(text)
        return self._pattern.findall(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token. They need not be whole characters."""
        if type(token_id) is not int:
            token_id = _plain_id(token_id)
        try:
            return self._bytes[token_id]
        except KeyError:
            raise ValueError(
                f"there is no token {token_id}: this vocabulary has ids 0 to {len(self) - 1}"
            ) from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, as in Hugging Face's.

        `ids` are those of one text, as a list or a tensor: ValueError for rows of them.
        """
        return "".join(self.decode_stream(ids, skip_special_tokens))

    def decode_stream(
        self, ids: Iterable[int], skip_special_tokens: bool = False
    ) -> Iterator[str]:
        """The text in pieces, each as soon as it is sure: never half a character.

        Bytes that begin a character wait for the token that ends it; what still waits at the
        end comes out as U+FFFD. The pieces together are `decode(ids)`.
        """
        skip = flag("skip_special_tokens", skip_special_tokens)
        if isinstance(ids, str | bytes | bytearray):
            raise ValueError(f"decode takes ids, got {shown(ids)}: encode makes ids of a text")
        ids = ids.tolist() if hasattr(ids, "tolist") else ids  # of a tensor or an array
        return self._decode(_each("ids", ids), set(self.special_tokens.values()) if skip else ())

    def _decode(self, ids: Iterable[int], skipped: Collection[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in ids:
            token_id = token_id if type(token_id) is int else _plain_id(token_id)
            if token_id not in skipped and (piece := decoder.decode(self.token_bytes(token_id))):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = False
    ) -> list[int]:
        """The ids of `chat_text(messages)`, by the model's own template where it has one. Special
        tokens in a content count as special."""
        if self.chat_template is not None:
            return self.encode(chat_text(messages, add_generation_prompt, self.chat_template))
        if missing := [text for text in CHAT_TOKENS if text not in self._added.ids]:
            raise ValueError(f"this tokenizer has no {' and no '.join(missing)}: it cannot chat")
        return self.encode(chat_text(messages, add_generation_prompt))

    @property
    def eos_id(self) -> int:
        """The id of <|endoftext|>."""
        return self.added_id(END_OF_TEXT)

    def pad_for(self, end: int) -> int | None:
        """A special token to fill rows with, where `end` ends a text or an answer. It is never
        `end`: who leaves padding out of a loss would leave the end out, too. None where there is
        no other.

        The end of text comes first, which ends no answer then, and <|im_end|> last: one day it
        may.
        """
        first, last = (self.special_tokens.get(text) for text in (END_OF_TEXT, CHAT_TOKENS[1]))
        others = [i for i in self.special_tokens.values() if i != end]
        return min(others, key=lambda i: (i != first, i == last), default=None)

    def added_id(self, text: str) -> int:
        """The id of a special token or another added one. ValueError where it is none."""
        if text not in self._added.ids:
            raise ValueError(
                f"this tokenizer has no {text}: take one that has, or train it as a special token"
            )
        return self._added.ids[text]

    @property
    def fingerprint(self) -> str:
        """The sha256 of what decides the ids: equal for equal tokenizers only."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()

    def to_dict(self) -> dict:
        """The content of a tokenizer.json, with merges as pairs (tokenizers 0.20 and later).

        What a file says beside (truncation, padding and the like) stands in it as it was read.
        """
        content, kept = self._content(), copy.deepcopy(self._kept)
        model = {**content["model"], **kept.pop("model")}
        return {**content, **kept, "model": model}

    def _content(self) -> dict:
        added = (self.added_tokens, self.normalized)
        return content_of(self.vocab, self.merges, self.special_tokens, self.split_digits, *added)

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json (`path` is the file, or the folder to put it in)."""
        file = _json_file(path)
        writable(file.parent)
        with written_beside(file.parent, file.name) as (part,):
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
            part.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path_or_repo_id: str | Path) -> "BPETokenizer":
        """The tokenizer of a tokenizer.json (the file, its folder, or a hub repository), or of a
        .gguf file. From a folder, a repository and a .gguf its chat template comes along.

        Raises FileNotFoundError where there is none, and ValueError, naming the setting, for a
        file that is damaged or describes another kind of tokenizer than this class is.
        """
        place = path("the tokenizer", path_or_repo_id)
        if place.suffix == ".gguf":
            return cls._from_gguf(place)
        if place.exists() or place.suffix == ".json":
            file = _json_file(place)
        else:
            place = fetch(path_or_repo_id, TOKENIZER_FILES)
            file = place / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: name a tokenizer.json or its folder")
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not JSON ({error}): fetch it again") from error
        try:
            tokenizer = cls.from_dict(content)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no tokenizer.json ({error!r:.200}): mend it") from error
        tokenizer.chat_template = template_in(place) if place.is_dir() else None
        return tokenizer

    @classmethod
    def _from_gguf(cls, file: Path) -> "BPETokenizer":
        parts, template = parts_of_gguf(file)
        try:
            tokenizer = cls(**parts)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        tokenizer.chat_template = template
        return tokenizer

    @classmethod
    def from_dict(cls, content: dict) -> "BPETokenizer":
        """The tokenizer that the content of a tokenizer.json describes (see `load`)."""
        parts, kept = parts_of(content)
        tokenizer = cls(**parts)
        tokenizer._kept = kept
        return tokenizer


def _json_file(name: str | Path) -> Path:
    place = path("the tokenizer's path", name)
    return place if place.suffix == ".json" or place.is_file() else place / "tokenizer.json"


def _checked_vocab(vocab: dict[bytes, int]) -> dict[bytes, int]:
    if not isinstance(vocab, dict) or not all(isinstance(token, bytes) for token in vocab):
        raise ValueError("the vocabulary must be a dict from the bytes of a token to its id")
    if not vocab:
        raise ValueError("the vocabulary is empty: a tokenizer needs tokens")
    return dict(vocab)


def _is_pair(pair) -> bool:
    return (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(isinstance(part, bytes) and part for part in pair)
    )


def _each(name: str, values) -> Iterator:
    """What is in them. ValueError where nothing is, since it is one thing and not several."""
    try:
        return iter(values)
    except TypeError:
        raise ValueError(f"{name} must be a list, got {shown(values)}") from None


def _plain_id(value) -> int:
    """An id as an int: of NumPy, or of a tensor of one number without dimensions, too."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0):
        raise ValueError("decode takes the ids of one text, got rows of them: decode each row")
    return whole("an id", value, least=-(2**63))
