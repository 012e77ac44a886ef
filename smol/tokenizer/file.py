"""A tokenizer.json, read and written as Hugging Face's `tokenizers` does."""

from collections.abc import Iterable

from smol.tokenizer.pieces import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE

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


def content_of(
    vocab: dict[bytes, int],
    merges: Iterable[tuple[bytes, bytes]],
    special_tokens: dict[str, int],
    split_digits: bool,
) -> dict:
    """The content of a tokenizer.json, with merges as pairs (tokenizers 0.20 and later)."""
    special_ids = {i: text for text, i in special_tokens.items()}
    names = {**special_ids, **{i: _to_text(token) for token, i in vocab.items()}}
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


def parts_of(content: dict) -> tuple[dict[bytes, int], list[tuple], dict[str, int], bool]:
    """What a `BPETokenizer` is made of, from the content of a tokenizer.json.

    Raises ValueError, naming the setting, for another kind of tokenizer than that class is.
    """
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
    return vocab, merges, special, _split_digits(content["pre_tokenizer"])


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
