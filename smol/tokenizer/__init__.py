"""Byte-pair encoding, from nothing: bytes, and a list of merges in the order they were learned.

Text is cut into pre-tokens (words with the space before them, single digits, punctuation:
`pieces.py`); each starts as its UTF-8 bytes, and pairs of neighbours become one token, again and
again (`merges.py`): in training the most frequent pair, in encoding the pair that was learned
first. `bpe.py` is the tokenizer, `added.py` what it cuts out of a text before that (special
tokens and others), `chat.py` the conversation. `tokenizer.json` is read and written as Hugging
Face's `tokenizers` does (`file.py`), whose ids these are, one for one.
"""

from smol.tokenizer.bpe import TOKENIZER_FILES, BPETokenizer
from smol.tokenizer.chat import (
    CHAT_TEMPLATE,
    CHAT_TOKENS,
    END_OF_TEXT,
    SPECIAL_TOKENS,
    SYSTEM_PROMPT,
    chat_text,
)
from smol.tokenizer.merges import apply_merges, learn_merges, merge
from smol.tokenizer.pieces import (
    DIGITS_PATTERN,
    GPT2_PATTERN,
    byte_alphabet,
    byte_characters,
)

__all__ = [
    "CHAT_TEMPLATE",
    "CHAT_TOKENS",
    "DIGITS_PATTERN",
    "END_OF_TEXT",
    "GPT2_PATTERN",
    "SPECIAL_TOKENS",
    "SYSTEM_PROMPT",
    "TOKENIZER_FILES",
    "BPETokenizer",
    "apply_merges",
    "byte_alphabet",
    "byte_characters",
    "chat_text",
    "learn_merges",
    "merge",
]
