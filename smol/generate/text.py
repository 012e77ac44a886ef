"""Text in, text out, in pieces, each as soon as it is sure: `stream` and `chat`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import torch

from smol.checks import shown, token_ids
from smol.generate.steps import generate_steps
from smol.model import SmolLM2
from smol.tokenizer import CHAT_TOKENS, END_OF_TEXT, BPETokenizer


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
    `stop`, at a token of `stop_ids` (if none are given: `ends_of` model and tokenizer), or after
    `max_new_tokens`. `settings` are those of `generate_steps`.
    """
    if not hasattr(model, "embed_tokens") or not hasattr(tokenizer, "added_id"):
        raise ValueError(
            f"stream takes a SmolLM2 and a BPETokenizer, got {shown(model)} and {shown(tokenizer)}"
        )
    stop = as_stop(stop)
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else token_ids("prompt", prompt)
    device = model.embed_tokens.weight.device
    if settings.get("stop_ids") is None:
        settings["stop_ids"] = ends_of(model, tokenizer)
    input_ids = torch.tensor([ids], dtype=torch.int64, device=device)
    steps = generate_steps(model, input_ids, max_new_tokens, **settings)
    pieces = tokenizer.decode_stream((step.ids.item() for step in steps), skip_special_tokens=True)
    yield from until(pieces, stop)


def ends_of(model: SmolLM2, tokenizer: BPETokenizer) -> list[int]:
    """The tokens that end a text: the config's `eos_token_id` (one or several) and the tokenizer's
    end of text. ValueError where neither names one."""
    config = model.config.eos_token_id
    known = range(model.config.vocab_size)  # -1 and the like stand for none
    ends = [i for i in (config if isinstance(config, list) else [config]) if i in known]
    with suppress(ValueError):
        ends.append(tokenizer.added_id(END_OF_TEXT))
    if not ends:
        raise ValueError(
            f"neither the config (eos_token_id) nor the tokenizer ({END_OF_TEXT}) names an end of "
            "text: give stop_ids"
        )
    return list(dict.fromkeys(ends))


def as_stop(stop: Sequence[str] | None) -> list[str]:
    """Stop strings as a list. ValueError for what is none, and for an empty one, met at once."""
    stop = [] if stop is None else stop
    if isinstance(stop, str) or not isinstance(stop, Iterable):
        raise ValueError(f"stop must be a list of strings, none of them empty, got {shown(stop)}")
    stop = list(stop)
    if not all(isinstance(text, str) and text for text in stop):
        raise ValueError(f"stop must be a list of strings, none of them empty, got {stop!r:.100}")
    return stop


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

    It ends at <|im_end|>, or where any text ends. A `memory=Memory()` that is given to every turn
    of a conversation spares reading its earlier turns again. Raises ValueError for a tokenizer
    without the template's tokens.
    """
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    if settings.get("stop_ids") is None:
        settings["stop_ids"] = chat_ends_of(model, tokenizer)
    return stream(model, tokenizer, prompt, max_new_tokens, **settings)


def chat_ends_of(model: SmolLM2, tokenizer: BPETokenizer) -> list[int]:
    """The tokens that end an answer: <|im_end|>, and what ends any text."""
    ends = []
    with suppress(ValueError):
        ends.append(tokenizer.added_id(CHAT_TOKENS[1]))
    try:
        return list(dict.fromkeys([*ends, *ends_of(model, tokenizer)]))
    except ValueError:
        if not ends:
            raise
        return ends
