"""Where a text is cut before anything is merged, and how a tokenizer.json writes bytes."""

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


def as_bytes(text: str) -> bytes | None:
    """The bytes that a text stands for in a tokenizer.json; None if a character is of no byte."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in text)
    except KeyError:
        return None


def check_text(text: str) -> None:
    """Raises ValueError for what is no str, and for half a surrogate pair, which has no UTF-8."""
    if not isinstance(text, str):
        decode = ": decode bytes first" if isinstance(text, bytes | bytearray) else ""
        raise ValueError(f"a text must be a str, got {type(text).__name__}{decode}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is half a surrogate pair, which has no UTF-8"
        ) from None
