"""The tokenizer: text to ids and back, trained, saved and loaded."""

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import regex

from smol.files import written_beside
from smol.pretrained import fetch
from smol.tokenizer.chat import CHAT_TOKENS, END_OF_TEXT, chat_text
from smol.tokenizer.file import content_of, parts_of
from smol.tokenizer.merges import apply_merges, learn_merges
from smol.tokenizer.pieces import DIGITS_PATTERN, GPT2_PATTERN, byte_alphabet


class BPETokenizer:
    """A byte-level BPE tokenizer: `vocab` (bytes -> id), `merges`, `special_tokens` (text -> id).

    `merges` are pairs of bytes, the earliest learned first. A byte without a token is dropped in
    encoding, silently, as Hugging Face does (SmolLM2's vocabulary lacks 21 of the 256). Raises
    ValueError for no tokens, an id of two of them, and a merge that is not of the vocabulary.
    """

    def __init__(
        self,
        vocab: dict[bytes, int],
        merges: Iterable[tuple[bytes, bytes]],
        special_tokens: dict[str, int] | None = None,
        split_digits: bool = True,
    ):
        if not vocab:
            raise ValueError("the vocabulary is empty: a tokenizer needs tokens")
        self.vocab, self.merges = dict(vocab), list(merges)
        for rank, pair in enumerate(self.merges):
            if len(pair) != 2 or not {*pair, b"".join(pair)} <= self.vocab.keys():
                raise ValueError(
                    f"merge {rank}, {pair}, is no pair of the vocabulary: are merges and "
                    "vocabulary of one tokenizer?"
                )
        self.special_tokens = dict(special_tokens or {})
        for i, n in Counter([*self.vocab.values(), *self.special_tokens.values()]).items():
            if type(i) is not int or i < 0 or n > 1:
                raise ValueError(
                    "ids must be whole numbers from 0 on, each of one token only, got "
                    f"{i!r}{' twice' * (n > 1)}"
                )
        self.split_digits = split_digits
        self._pattern = regex.compile(DIGITS_PATTERN if split_digits else GPT2_PATTERN)
        # longest first: where one special token begins another, the longer one is meant
        longest = sorted(self.special_tokens, key=len, reverse=True)
        self._special = (
            regex.compile(f"({'|'.join(map(regex.escape, longest))})") if longest else None
        )
        self._byte_ids = [self.vocab.get(bytes([b])) for b in range(256)]
        self._ranks = {
            (self.vocab[a], self.vocab[b]): (rank, self.vocab[a + b])
            for rank, (a, b) in enumerate(self.merges)
        }
        self._bytes = {i: token for token, i in self.vocab.items()}
        self._bytes.update({i: text.encode() for text, i in self.special_tokens.items()})
        self._size = max(self._bytes) + 1
        self._cache: dict[str, list[int]] = {}

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
        pattern = regex.compile(DIGITS_PATTERN if split_digits else GPT2_PATTERN)
        special_tokens = [special_tokens] if isinstance(special_tokens, str) else special_tokens
        special = list(dict.fromkeys(special_tokens))
        for text in special:  # what is one piece, training might learn as well
            if not regex.fullmatch("[!-~]+", text) or len(pattern.findall(text)) < 2:
                raise ValueError(f"special token {text!r} could be text: name it like <|this|>")
        if vocab_size < len(special) + 256:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: {len(special)} special tokens and the "
                f"256 bytes need {len(special) + 256}"
            )
        if isinstance(texts, str):
            texts = [texts]  # a string is not meant as an iterable of letters
        counts = Counter()
        for text in texts:
            _check_text(text)
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

        That is how to encode what strangers wrote. Raises ValueError for a text with half a
        surrogate pair in it, which has no UTF-8.
        """
        _check_text(text)
        parts = self._special.split(text) if special and self._special else [text]
        ids = []
        for k, part in enumerate(parts):
            if k % 2:  # split() puts what it split at between the rest
                ids.append(self.special_tokens[part])
                continue
            for word in self.pieces(part):
                known = self._cache.get(word)
                if known is None:
                    if len(self._cache) >= 100_000:  # a few tens of MB
                        self._cache.clear()
                    symbols = [i for b in word.encode() if (i := self._byte_ids[b]) is not None]
                    known = self._cache[word] = apply_merges(symbols, self._ranks)
                ids += known
        return ids

    def pieces(self, text: str) -> list[str]:
        """The pre-tokens of a text: no token reaches over the border of one."""
        return self._pattern.findall(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token. They need not be whole characters."""
        try:
            return self._bytes[token_id]
        except KeyError:
            raise ValueError(
                f"there is no token {token_id}: this vocabulary has ids 0 to {len(self) - 1}"
            ) from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, as in Hugging Face's."""
        return "".join(self.decode_stream(ids, skip_special_tokens))

    def decode_stream(
        self, ids: Iterable[int], skip_special_tokens: bool = False
    ) -> Iterator[str]:
        """The text in pieces, each as soon as it is sure: never half a character.

        Bytes that begin a character wait for the token that ends it; what still waits at the
        end comes out as U+FFFD. The pieces together are `decode(ids)`.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        special = set(self.special_tokens.values()) if skip_special_tokens else ()
        for token_id in ids:
            token_id = int(token_id)  # of a tensor, too
            if token_id not in special and (piece := decoder.decode(self.token_bytes(token_id))):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = False
    ) -> list[int]:
        """The ids of `chat_text(messages)`. Special tokens in a content count as special."""
        if missing := [text for text in CHAT_TOKENS if text not in self.special_tokens]:
            raise ValueError(f"this tokenizer has no {' and no '.join(missing)}: it cannot chat")
        return self.encode(chat_text(messages, add_generation_prompt))

    @property
    def eos_id(self) -> int:
        """The id of <|endoftext|>."""
        if END_OF_TEXT not in self.special_tokens:
            raise ValueError(f"this tokenizer has no {END_OF_TEXT}: train it as a special token")
        return self.special_tokens[END_OF_TEXT]

    @property
    def fingerprint(self) -> str:
        """The sha256 of what decides the ids: equal for equal tokenizers only."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()

    def to_dict(self) -> dict:
        """The content of a tokenizer.json, with merges as pairs (tokenizers 0.20 and later)."""
        return content_of(self.vocab, self.merges, self.special_tokens, self.split_digits)

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json (`path` is the file, or the folder to put it in)."""
        file = _json_file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(file.parent, file.name) as (part,):
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
            part.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path_or_repo_id: str | Path) -> "BPETokenizer":
        """The tokenizer of a tokenizer.json: the file, its folder, or a hub repository.

        Raises FileNotFoundError where there is none, and ValueError, naming the setting, for a
        file that is damaged or describes another kind of tokenizer than this class is.
        """
        path = Path(path_or_repo_id).expanduser()
        if path.exists() or path.suffix == ".json":
            file = _json_file(path)
        else:
            file = fetch(path_or_repo_id, ("tokenizer.json",)) / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: name a tokenizer.json or its folder")
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not JSON ({error}): fetch it again") from error
        try:
            return cls.from_dict(content)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no tokenizer.json ({error!r}): fetch it again") from error

    @classmethod
    def from_dict(cls, content: dict) -> "BPETokenizer":
        """The tokenizer that the content of a tokenizer.json describes (see `load`)."""
        return cls(*parts_of(content))


def _json_file(path: str | Path) -> Path:
    path = Path(path).expanduser()
    return path if path.suffix == ".json" or path.is_file() else path / "tokenizer.json"


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"a text must be a str, got {type(text).__name__}: decode bytes first")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is half a surrogate pair, which has no UTF-8"
        ) from None
