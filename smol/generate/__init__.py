"""From logits to text: the next token, chosen and appended, again and again.

With temperature 0 the likeliest token is taken. Otherwise logits are reshaped (`sampling.py`) and
one token is drawn. `generate` gives ids, `generate_steps` each token as it comes, with its
log-probability (`steps.py`), `stream` and `chat` text (`text.py`). What saves time and changes no
token: steps of fixed shapes (`fixed.py`), what a conversation has read (`memory.py`), columns on a
CPU (`fast.py`). `python -m smol.generate "Once upon a time"` does it in a terminal.
"""

from smol.generate.fast import prepare_for_decoding
from smol.generate.memory import Memory
from smol.generate.sampling import keep_min_p, keep_top_k, keep_top_p, penalise, reshape
from smol.generate.steps import Step, generate, generate_steps, left_pad, padded_layout
from smol.generate.text import chat, chat_ends_of, stream

__all__ = [
    "Memory",
    "Step",
    "chat",
    "chat_ends_of",
    "generate",
    "generate_steps",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "left_pad",
    "padded_layout",
    "penalise",
    "prepare_for_decoding",
    "reshape",
    "stream",
]
