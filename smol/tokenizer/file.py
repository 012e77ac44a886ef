"""A tokenizer.json, read and written as Hugging Face's `tokenizers` does."""

import json
import warnings
from collections.abc import Collection, Iterable

from smol.checks import shown
from smol.tokenizer.pieces import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE, as_bytes

# What other tokenizers have in their models, and what would change the ids: not overlooked.
NOT_HERE = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
INSTEAD = "transformers.AutoTokenizer reads it"


def content_of(
    vocab: dict[bytes, int],
    merges: Iterable[tuple[bytes, bytes]],
    special_tokens: dict[str, int],
    split_digits: bool,
    added_tokens: dict[str, int],
    normalized: Collection[str],
) -> dict:
    """The content of a tokenizer.json, with merges as pairs (tokenizers 0.20 and later)."""
    added = {i: text for text, i in {**special_tokens, **added_tokens}.items()}
    names = {**added, **{i: _to_text(token) for token, i in vocab.items()}}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {**BYTE_LEVEL, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                **{"id": i, "content": added[i], **flags, "normalized": added[i] in normalized},
                "special": added[i] in special_tokens,
            }
            for i in sorted(added)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, byte_level]}
        if split_digits
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
            "merges": [[_to_text(left), _to_text(right)] for left, right in merges],
        },
    }


def parts_of(content: dict) -> tuple[dict, dict]:
    """What a `BPETokenizer` is made of, from the content of a tokenizer.json: what to call it
    with, and the fields that decide no ids and are to be written back as they were read.

    Raises ValueError, naming the setting, for another kind of tokenizer than that class is, and
    warns of truncation and padding, which are left aside.
    """
    model = _member(content, "model", dict, "the file")
    vocab = _member(model, "vocab", dict, "its model")
    merges = _member(model, "merges", list, "its model")
    _check_model(model)
    _check_steps(content)
    special, added, normalized = _added_tokens(content.get("added_tokens") or [])
    both = {**special, **added}
    if any(vocab.get(text, i) != i for text, i in both.items()):
        raise ValueError("an added token has another id in the vocabulary: mend one of the two")
    parts = {
        "vocab": {
            _to_bytes(text): i
            for text, i in vocab.items()
            if text not in both or as_bytes(text) is not None
        },
        "merges": [_pair(merge, rank) for rank, merge in enumerate(merges)],
        "special_tokens": special,
        "split_digits": _split_digits(content.get("pre_tokenizer")),
        "added_tokens": added,
        "normalized": normalized,
    }
    aside = {key: value for key, value in content.items() if key not in ("added_tokens", "model")}
    if left := [key for key in ("truncation", "padding") if aside.get(key) is not None]:
        warnings.warn(
            f"this tokenizer.json sets {' and '.join(left)}, which is left aside and kept in the "
            "file: encode gives whole texts",
            stacklevel=4,
        )
    aside["model"] = {k: v for k, v in model.items() if k not in ("vocab", "merges")}
    return parts, json.loads(json.dumps(aside))


def _check_model(model: dict) -> None:
    """ValueError for a model, or a field of one, that is not that of byte-level BPE."""
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"the model is {model['type']!s:.60}, not BPE: {INSTEAD}")
    for key in NOT_HERE:
        if value := model.get(key):
            raise ValueError(
                f"{key} is {_brief(value)}: this class knows only tokenizers without, {INSTEAD}"
            )
    for key in model.keys() - {*NOT_HERE, "type", "vocab", "merges", "fuse_unk"}:
        if model[key]:
            raise ValueError(
                f"the model has an unknown field {key!r}, {_brief(model[key])}: remove it from "
                "the file if it changes no ids"
            )


def _check_steps(content: dict) -> None:
    """ValueError for a step before or after the model that would change ids or texts."""
    known = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer")
    if unknown := content.keys() - {*known, "post_processor", "decoder", "model"}:
        raise ValueError(
            f"the file has an unknown field {min(unknown)!r}: remove it if it changes no ids"
        )
    if content.get("version", "1.0") != "1.0":
        raise ValueError(f"the file's version is {shown(content['version'])}, not 1.0: {INSTEAD}")
    for key in ("truncation", "padding"):
        if not isinstance(content.get(key), dict | None):
            raise ValueError(f"{key} is {_brief(content[key])}: set it to null in the file")
    if any(step is not None for step in _steps(content.get("normalizer"), "normalizers")):
        value = _brief(content["normalizer"])
        raise ValueError(
            f"normalizer is {value}: this class knows only tokenizers without, {INSTEAD}"
        )
    if not all(map(_adds_nothing, _steps(content.get("post_processor"), "processors"))):
        value = _brief(content["post_processor"])
        raise ValueError(f"post_processor is {value}: this class adds no tokens, {INSTEAD}")
    if [_type(step) for step in _steps(content.get("decoder"), "decoders")] != ["ByteLevel"]:
        value = _brief(content.get("decoder"))
        raise ValueError(f"the decoder is {value}, not ByteLevel: {INSTEAD}")


def _steps(step, plural: str) -> list:
    """The steps of a Sequence, those of sequences in it as well; another step by itself."""
    if _type(step) != "Sequence" or not isinstance(step.get(plural), list):
        return [step]
    return [part for inner in step[plural] for part in _steps(inner, plural)]


def _type(step) -> str | None:
    return step.get("type") if isinstance(step, dict) else None


def _adds_nothing(step) -> bool:
    """Whether a post-processor leaves the ids of a text alone (ByteLevel moves offsets only)."""
    if _type(step) != "TemplateProcessing":
        return step is None or _type(step) == "ByteLevel"
    single = step.get("single")  # transformers saves a template of the text and nothing else
    return (
        isinstance(single, list)
        and len(single) == 1
        and isinstance(single[0], dict)
        and isinstance(single[0].get("Sequence"), dict)
        and single[0]["Sequence"].get("id") == "A"
    )


def _added_tokens(listed) -> tuple[dict[str, int], dict[str, int], set[str]]:
    """The special tokens, the other added ones, and which of both are looked for later."""
    special, others, normalized = {}, {}, set()
    if not isinstance(listed, list):
        raise ValueError(f"this is no tokenizer.json: added_tokens is {shown(listed)}, not a list")
    for number, added in enumerate(listed):
        keys = added.keys() if isinstance(added, dict) else set()
        if keys != {"id", "content", *FLAGS}:
            wrong = ", ".join(sorted(map(repr, keys ^ {"id", "content", *FLAGS})))
            raise ValueError(
                f"this is no tokenizer.json: entry {number} of added_tokens lacks, or has and "
                f"should not, {wrong}"
            )
        text = added["content"]
        if not isinstance(text, str) or not all(isinstance(added[flag], bool) for flag in FLAGS):
            raise ValueError(f"entry {number} of added_tokens is {_brief(added)}: mend its types")
        if any(added[flag] for flag in ("single_word", "lstrip", "rstrip")):
            raise ValueError(f"{text!r} strips white space or wants whole words: {INSTEAD}")
        if text in special or text in others:
            raise ValueError(f"added token {text!r} is listed twice: remove one")
        (special if added["special"] else others)[text] = added["id"]
        if added["normalized"]:
            normalized.add(text)
    return special, others, normalized


def _split_digits(pre_tokenizer) -> bool:
    """Whether a digits step stands before the byte-level one; ValueError for other steps."""
    steps = _steps(pre_tokenizer, "pretokenizers")
    steps = [
        {k: v for k, v in step.items() if k != "trim_offsets"} if isinstance(step, dict) else step
        for step in steps
    ]
    steps = [{"use_regex": True, **s} if _type(s) == "ByteLevel" else s for s in steps]
    if steps not in ([BYTE_LEVEL], [DIGITS, BYTE_LEVEL]):
        raise ValueError(
            f"the pre_tokenizer is {_brief(pre_tokenizer)}, which is neither ByteLevel nor Digits "
            f"before ByteLevel (with single digits, GPT-2's pattern, no prefix space): {INSTEAD}"
        )
    return len(steps) == 2


def _pair(merge, rank: int) -> tuple[bytes, ...]:
    """A merge is "Ġ t" until tokenizers 0.19, ["Ġ", "t"] since."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or not all(isinstance(text, str) for text in pair):
        raise ValueError(f"merge {rank} is {_brief(merge)}, not two texts: fetch the file again")
    return tuple(map(_to_bytes, pair))


def _member(content, key: str, kind: type, whose: str):
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        got = (
            f"is {shown(value)}" if isinstance(content, dict) and key in content else "is missing"
        )
        raise ValueError(
            f'this is no tokenizer.json: "{key}" of {whose} {got}, it must be a {kind.__name__}'
        )
    return value


def _brief(value) -> str:
    """A value of a file as a message shows it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _to_bytes(text: str) -> bytes:
    token = as_bytes(text)
    if token is None:
        character = next(c for c in text if c not in CHARACTER_TO_BYTE)
        raise ValueError(f"token {text!r} holds {character!r}, which stands for no byte")
    return token


def _to_text(token: bytes) -> str:
    return "".join(BYTE_TO_CHARACTER[b] for b in token)
