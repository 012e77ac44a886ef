"""Text in, text out, in pieces, each as soon as it is sure: `stream` and `chat`."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from smol.generate.steps import generate_steps
from smol.model import SmolLM2
from smol.tokenizer import CHAT_TOKENS, BPETokenizer


def stream(
    model: SmolLM2,
    tokenizer: BPETokenizer,
    prompt: str | Sequence[int],
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
    **settings,
) -> Iterator[str]:
    """Yields what follows `prompt` (a text, or its ids) in pieces, each as soon as it is sure.

    Never half a character; special tokens are left out. It ends before the first of the strings
    `stop`, at a token of `stop_ids` (if none are given: the end of text), or after
    `max_new_tokens`. `settings` are those of `generate_steps`.
    """
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"stop must be a list of strings, none of them empty, got {stop!r}")
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    device = model.embed_tokens.weight.device
    if "stop_ids" not in settings:
        settings["stop_ids"] = [tokenizer.eos_id]
    input_ids = torch.tensor([ids], dtype=torch.int64, device=device)
    steps = generate_steps(model, input_ids, max_new_tokens, **settings)
    pieces = tokenizer.decode_stream((step.ids.item() for step in steps), skip_special_tokens=True)
    yield from until(pieces, stop)


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """The pieces up to the stop string that is complete first; what may begin one is held back."""
    held = ""
    for piece in pieces:
        held += piece
        found = [(at + len(text), at) for text in stop if (at := held.find(text)) >= 0]
        if found:
            held = held[: min(found)[1]]
            break
        begun = (n for text in stop for n in range(len(text)) if held.endswith(text[:n]))
        sure = len(held) - max(begun, default=0)
        if sure:
            yield held[:sure]
        held = held[sure:]
    if held:
        yield held


def chat(
    model: SmolLM2,
    tokenizer: BPETokenizer,
    messages: list[dict[str, str]],
    max_new_tokens: int,
    **settings,
) -> Iterator[str]:
    """Yields the assistant's answer to `messages` (see `chat_text`) in pieces, as `stream` does.

    It ends at <|im_end|>. Raises ValueError for a tokenizer without the template's tokens.
    """
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    ends = [tokenizer.special_tokens[CHAT_TOKENS[1]]]
    settings = {"stop_ids": ends, **settings}
    return stream(model, tokenizer, prompt, max_new_tokens, **settings)
