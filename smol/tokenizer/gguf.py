"""The tokenizer in a .gguf: tokens, their types, merges, and the chat template."""

from pathlib import Path

from smol.checks import shown
from smol.gguf.read import read_header
from smol.tokenizer.pieces import as_bytes

# llama.cpp knows a tokenizer's pattern by a name. Of these two what it does is what we do.
SPLIT_DIGITS = {"smollm": True, "gpt-2": False}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
# What would add tokens or change a text before it is cut.
MUST_BE_OFF = ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix")


def parts_of_gguf(file: str | Path) -> tuple[dict, str | None]:
    """What a `BPETokenizer` is made of, from a .gguf: what to call it with, and the template.

    Raises FileNotFoundError for no file, and ValueError, naming the key, for one that is damaged,
    has no tokenizer, or another kind of it.
    """
    header = read_header(file)
    fields, file = header.fields, header.file

    def field(name: str, kind: type):
        value = fields.get(key := f"tokenizer.ggml.{name}")
        if not isinstance(value, kind):
            got = f"is {shown(value)}" if key in fields else "is missing"
            raise ValueError(f"{file}: {key} {got}: it must be a {kind.__name__}")
        return value

    if (model := field("model", str)) != "gpt2":
        raise ValueError(f"{file}: tokenizer.ggml.model is {model!r:.80}, known is 'gpt2' (BPE)")
    if (pattern := field("pre", str)) not in SPLIT_DIGITS:
        known = " and ".join(map(repr, SPLIT_DIGITS))
        raise ValueError(f"{file}: tokenizer.ggml.pre is {pattern!r:.80}, known are {known}")
    for name in MUST_BE_OFF:
        if fields.get(f"tokenizer.ggml.{name}"):
            raise ValueError(f"{file}: tokenizer.ggml.{name} is set: this class adds nothing")
    tokens, types, merges = (field(n, list) for n in ("tokens", "token_type", "merges"))
    if len(types) != len(tokens):
        raise ValueError(f"{file}: {len(tokens)} tokens, and {len(types)} types of tokens")
    if (said := fields.get("llama.vocab_size", len(tokens))) != len(tokens):
        raise ValueError(f"{file}: {len(tokens)} tokens, and llama.vocab_size is {shown(said)}")
    parts: dict = {"vocab": {}, "special_tokens": {}, "added_tokens": {}}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if not isinstance(text, str):
            raise ValueError(f"{file}: token {i} is {shown(text)}, not a text")
        if kind == UNUSED:  # a hole: the model has a row, and no text becomes it
            continue
        name = {NORMAL: "vocab", CONTROL: "special_tokens", USER_DEFINED: "added_tokens"}.get(kind)
        if name is None:
            raise ValueError(f"{file}: token {i}, {text!r:.80}, is of an unknown type, {kind!r}")
        key = _bytes(file, f"token {i}", text) if name == "vocab" else text
        if key in parts[name]:
            raise ValueError(f"{file}: token {i}, {text!r:.80}, is there twice")
        parts[name][key] = i
    parts["merges"] = [_pair(file, rank, merge) for rank, merge in enumerate(merges)]
    parts["split_digits"] = SPLIT_DIGITS[pattern]
    template = fields.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise ValueError(f"{file}: tokenizer.chat_template is {shown(template)}, not a text")
    return parts, template


def _pair(file: Path, rank: int, merge) -> tuple[bytes, bytes]:
    """A merge is written "Ġ t"."""
    pair = merge.split(" ") if isinstance(merge, str) else []
    if len(pair) != 2:
        raise ValueError(f"{file}: merge {rank} is {merge!r:.80}, not two tokens")
    return _bytes(file, f"merge {rank}", pair[0]), _bytes(file, f"merge {rank}", pair[1])


def _bytes(file: Path, what: str, text: str) -> bytes:
    if (token := as_bytes(text)) is None:
        raise ValueError(f"{file}: {what}, {text!r:.80}, holds a character that is of no byte")
    return token
