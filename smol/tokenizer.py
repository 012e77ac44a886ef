"""Byte-pair encoding, from nothing: bytes, and a list of merges in the order they were learned.

Text is cut into pre-tokens (words with the space before them, single digits, punctuation); each
starts as its UTF-8 bytes, and pairs of neighbours become one token, again and again: in training
the most frequent pair, in encoding the pair that was learned first. `tokenizer.json` is read and
written as Hugging Face's `tokenizers` does, whose ids these are, one for one.

**The tie rule.** Of equally frequent pairs the one with the smaller ids is merged first (the left
id decides, then the right one); ids are special tokens, bytes, merges, in this order.
"""

import codecs
import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import regex

from smol.pretrained import fetch, written_beside

END_OF_TEXT = "<|endoftext|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
SPECIAL_TOKENS = (END_OF_TEXT, *CHAT_TOKENS)  # the first three of SmolLM2's seventeen
SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

# Which characters are letters and numbers changes with Unicode; the ids must not. `tokenizers`
# 0.22 and 0.23 know those of Unicode 16 (and 13 numbers of 17), `regex` knows more every year.
# To split as they do, on every machine, what they do not know counts as a symbol.
YOUNG = (
    r"\u0558\u058b-\u058c\u088f\u0c5c\u0cdc\u208f\u209d-\u209f\ua7ce-\ua7cf\ua7d2\ua7d4\ua7dd"
    r"\ua7e2\ua7f1\uab6c-\uab6d\U000107bb-\U000107bf\U00010940-\U00010959\U00010ec5-\U00010ec7"
    r"\U00010ed9-\U00010eee\U00011b0a\U00011db0-\U00011ddb\U00011df1\U0001246f"
    r"\U00012475-\U0001247f\U00012550-\U00012686\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3"
    r"\U00016ff2-\U00016ff3\U000187f8-\U000187ff\U00018cd6-\U00018cda\U00018d09-\U00018d20"
    r"\U00018d80-\U00018df2\U00018e00-\U00019191\U000191a0-\U000191d2\U0001b123-\U0001b128"
    r"\U0001b168\U0001d6a6\U0001df1f-\U0001df24\U0001df2b-\U0001df81\U0001df90-\U0001df96"
    r"\U0001dfcd-\U0001dfff\U0001e6c0-\U0001e6de\U0001e6e0-\U0001e6e2\U0001e6e4-\U0001e6e5"
    r"\U0001e6e7-\U0001e6ed\U0001e6f0-\U0001e6f4\U0001e6fe-\U0001e6ff\U0002b73a-\U0002b73f"
    r"\U0002b81e\U0002cea2-\U0002cead\U000323b0-\U00033479\U0003d000-\U0003fc3f"
)
YOUNG_NUMBERS = r"\U00011de0-\U00011de9\U00016ff4-\U00016ff6"  # known to the digits step only

# The words of GPT-2 (Radford et al. 2019), tried from left to right: contractions, letters,
# numbers, the rest, white space. One space belongs to the word after it.
GPT2_PATTERN = (
    r"(?V1)'(?:s|t|re|ve|m|ll|d)| ?[\p{L}--[YOUNG]]+| ?[\p{N}--[YOUNG]]+"
    r"| ?[^\s[\p{L}\p{N}--[YOUNG]]]+|\s+(?!\S)|\s+"
).replace("YOUNG", YOUNG + YOUNG_NUMBERS)
# SmolLM2 makes each digit a piece of its own first and cuts the rest as GPT-2 does. In one
# pattern: a digit is alone, takes no space, and white space before it ends as before the end.
DIGITS_PATTERN = (
    r"(?V1)'(?:s|t|re|ve|m|ll|d)| ?[\p{L}--[YOUNG]]+|[\p{N}--[YOUNG]]"
    r"| ?[^\s[\p{L}\p{N}--[YOUNG]]]+|\s+(?![^\s[\p{N}--[YOUNG]]])|\s+"
).replace("YOUNG", YOUNG)


def byte_characters() -> list[str]:
    """For each byte 0-255 the character that stands for it in a tokenizer.json.

    GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 are moved to
    U+0100 and up, so that no token holds a space or a control character ("Ġ" is the space).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(moved)) for b in range(256)]


BYTE_TO_CHARACTER = byte_characters()
CHARACTER_TO_BYTE = {character: b for b, character in enumerate(BYTE_TO_CHARACTER)}


def byte_alphabet() -> list[bytes]:
    """The 256 bytes in the order in which training numbers them: that of their characters."""
    return [bytes([CHARACTER_TO_BYTE[character]]) for character in sorted(BYTE_TO_CHARACTER)]


def learn_merges(
    counts: dict[bytes, int], tokens: list[bytes], vocab_size: int
) -> list[tuple[bytes, bytes]]:
    """The merges that bring `tokens` (id -> bytes, appended to) to vocab_size, or fewer.

    `counts` says how often each pre-token occurs. Only pre-tokens that hold the merged pair are
    touched, and only the pairs next to it recounted (Sennrich et al. 2016, section 3.2), so the
    work follows the changes and not the length of the text. Ends early where no pair is left.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    words = [[ids[bytes([b])] for b in word] for word in counts]
    number = list(counts.values())
    pair_counts, where = Counter(), defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += number[i]
            where[pair].add(i)
    # The serial number keeps Python from comparing sets; it never decides which pair is merged.
    queue = [(-n, pair, k, where[pair]) for k, (pair, n) in enumerate(pair_counts.items())]
    heapq.heapify(queue)
    merges, serial = [], len(queue)
    while len(tokens) < vocab_size and queue:
        minus_count, pair, k, positions = heapq.heappop(queue)
        if -minus_count != pair_counts[pair]:  # it shrank since it was queued: back in its place
            heapq.heappush(queue, (-pair_counts[pair], pair, k, positions))
            continue
        if minus_count == 0:
            break
        left, right = (tokens[i] for i in pair)
        new = ids.setdefault(left + right, len(tokens))
        if new == len(tokens):  # else `tokens` had it from the start
            tokens.append(left + right)
        merges.append((left, right))
        born = defaultdict(set)
        for i in positions:
            words[i], changes = merge_pair(words[i], pair, new)
            for changed, by in changes:
                pair_counts[changed] += by * number[i]
                if by > 0:
                    born[changed].add(i)
        for changed, positions in born.items():
            if pair_counts[changed] > 0:
                heapq.heappush(queue, (-pair_counts[changed], changed, serial, positions))
                serial += 1
    return merges


def merge_pair(
    word: list[int], pair: tuple[int, int], new: int
) -> tuple[list[int], list[tuple[tuple[int, int], int]]]:
    """`word` with each `pair` replaced by `new`, and by how much each neighbouring pair changed.

    >>> merge_pair([1, 2, 3, 1, 2], (1, 2), 9)
    ([9, 3, 9], [((2, 3), -1), ((9, 3), 1), ((3, 1), -1), ((3, 9), 1)])
    """
    merged, changes, i = [], [], 0
    while i < len(word):
        if (word[i], *word[i + 1 : i + 2]) != pair:
            merged.append(word[i])
            i += 1
            continue
        if merged:
            changes += [((merged[-1], pair[0]), -1), ((merged[-1], new), 1)]
        if i + 2 < len(word):
            changes += [((pair[1], word[i + 2]), -1), ((new, word[i + 2]), 1)]
        merged.append(new)
        i += 2
    return merged, changes


def apply_merges(symbols: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """The ids that one pre-token's bytes become: the pair of the lowest rank is merged first, of
    equal ones the leftmost, until there is none. `ranks` is pair -> (rank, id of the two merged).

    A heap of candidates over a linked list: n log n, so that a line of ten thousand "=" (one
    pre-token) takes no minute. An entry that a neighbour's merge has outdated is skipped.
    """
    symbols, queue = list(symbols), []
    before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]

    def queue_pair(at: int):
        if at >= 0 and after[at] >= 0:
            found = ranks.get((symbols[at], symbols[after[at]]))
            if found:
                heapq.heappush(queue, (found[0], at, found[1]))

    for at in range(len(symbols)):
        queue_pair(at)
    while queue:
        _, at, new = heapq.heappop(queue)
        right = after[at]
        if symbols[at] is None or right < 0:
            continue
        found = ranks.get((symbols[at], symbols[right]))
        if not found or found[1] != new:
            continue
        symbols[at], symbols[right] = new, None  # None: swallowed by its left neighbour
        after[at] = after[right]
        if after[at] >= 0:
            before[after[at]] = at
        queue_pair(before[at])
        queue_pair(at)
    return [i for i in symbols if i is not None]


def chat_text(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """A conversation as SmolLM2-Instruct was taught to read it (ChatML).

    `messages` are {"role": "system" | "user" | "assistant", "content": text}; without a system
    message the model's own comes first. With add_generation_prompt the answer is begun.
    """
    texts = [m.get(k) if isinstance(m, dict) else m for m in messages for k in ("role", "content")]
    if not messages or not all(isinstance(m, dict) for m in messages) or None in texts:
        raise ValueError("a chat is a list of {'role': text, 'content': text}, and not empty")
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, *messages]
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n" * add_generation_prompt


# The same in the form that transformers saves with a tokenizer; the tests compare the two.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM_PROMPT
    + "<|im_end|>\n{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


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
        special_ids = {i: text for text, i in self.special_tokens.items()}
        names = {**special_ids, **{i: _to_text(token) for token, i in self.vocab.items()}}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        byte_level = {**BYTE_LEVEL, "trim_offsets": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": i, "content": special_ids[i], **flags, "special": True}
                for i in sorted(special_ids)
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, byte_level]}
            if self.split_digits
            else byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {names[i]: i for i in sorted(names)},
                "merges": [[_to_text(left), _to_text(right)] for left, right in self.merges],
            },
        }

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
        model = content["model"]
        if model.get("type", "BPE") != "BPE":
            raise ValueError(f"the model is {model['type']}, not BPE")
        for key in NOT_HERE:
            if value := content.get(key) or model.get(key):
                raise ValueError(f"{key} is {value!r}: this class knows only tokenizers without")
        after = content.get("post_processor") or {"type": "ByteLevel"}  # which moves offsets only
        adds = after.get("special_tokens") if after["type"] == "TemplateProcessing" else after
        if after["type"] != "ByteLevel" and adds != {}:  # transformers saves a template of nothing
            raise ValueError(f"post_processor is {after!r}: this class adds no tokens")
        if (content.get("decoder") or {}).get("type") != "ByteLevel":
            raise ValueError(f"the decoder is {content.get('decoder')!r}, not ByteLevel")
        special = {}
        for added in content["added_tokens"]:
            if any(added.get(key) for key in ("single_word", "lstrip", "rstrip")):
                raise ValueError(f"{added['content']!r} strips white space or wants whole words")
            special[added["content"]] = added["id"]
        if "" in special or any(model["vocab"].get(t, i) != i for t, i in special.items()):
            raise ValueError("an added token is empty, or has another id in the vocabulary")
        vocab = {_to_bytes(text): i for text, i in model["vocab"].items() if text not in special}
        # A merge is "Ġ t" until tokenizers 0.19, ["Ġ", "t"] since.
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        merges = [tuple(_to_bytes(text) for text in pair) for pair in pairs]
        return cls(vocab, merges, special, _split_digits(content["pre_tokenizer"]))


# What other tokenizers have, and what would change the ids: not here, and not overlooked.
NOT_HERE = (
    "normalizer",
    "truncation",
    "padding",
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def _split_digits(pre_tokenizer: dict) -> bool:
    """Whether a digits step stands before the byte-level one; ValueError for other steps."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]
    steps = [{"use_regex": True, **s} if s["type"] == "ByteLevel" else s for s in steps]
    if steps not in ([BYTE_LEVEL], [DIGITS, BYTE_LEVEL]):
        raise ValueError(
            "the pre_tokenizer is neither ByteLevel nor Digits before ByteLevel (with single "
            "digits, GPT-2's pattern, no prefix space)"
        )
    return len(steps) == 2


def _to_bytes(text: str) -> bytes:
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in text)
    except KeyError as error:
        raise ValueError(f"token {text!r} holds {error}, which stands for no byte") from None


def _to_text(token: bytes) -> str:
    return "".join(BYTE_TO_CHARACTER[b] for b in token)


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
