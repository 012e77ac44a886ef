"""The loop: read the text so far, choose the next token, append it, again and again."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smol.checks import flag, shown, token_ids, whole
from smol.device import check_compiler
from smol.generate.fast import FixedCache, FixedStep, captures
from smol.generate.sampling import check_settings, penalise, reshape
from smol.model import SmolLM2, causal_mask


def generate(
    model: SmolLM2,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    num_return_sequences: int = 1,
    **settings,
) -> Tensor:
    """`input_ids` (B, T) int64 -> (B · num_return_sequences, T + new): prompts and what follows.

    `settings` are those of `generate_steps`, which says what is raised. It ends early when every
    row has a token of `stop_ids`, if any are given; a row that has ended is filled with it.
    """
    if whole("num_return_sequences", num_return_sequences) > 1:
        _check_prompt(model, input_ids, max_new_tokens, **settings)  # before they are repeated
        input_ids = input_ids.repeat_interleave(num_return_sequences, dim=0)
        if (padded := settings.get("attention_mask")) is not None:
            settings["attention_mask"] = padded.repeat_interleave(num_return_sequences, dim=0)
    steps = generate_steps(model, input_ids, max_new_tokens, **settings)
    return torch.cat((input_ids, *(step.ids[:, None] for step in steps)), dim=1)


class Step(NamedTuple):
    """One new token for each row, and the ln of the probability that the model itself gave it:
    before temperature, penalty and filters. Of a row that had ended: 0."""

    ids: Tensor  # (B,) int64
    logprobs: Tensor  # (B,) fp32


@torch.no_grad()
def generate_steps(
    model: SmolLM2,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_ids: Iterable[int] | int | None = None,
    use_cache: bool = True,
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
    slide: bool = False,
    compile: bool = False,
) -> Iterator[Step]:
    """Yields a `Step` for each new token after `input_ids` (B, T) int64.

    Prompts of unequal length are padded on the left, and `attention_mask` (B, T) is 0 at padding:
    `left_pad` makes both. Without the cache every step reads the whole text again, with the same
    result up to rounding. A text that would outgrow the context is refused; with slide=True it
    goes on, and when the context is full only the newer half of it is kept and read again.

    On a CUDA GPU a step with the cache is captured once and replayed. compile=True compiles it
    first, on any device: a minute, which `python -m smol.bench decode` says whether it repays.

    A generator: at its first step it raises ValueError for settings of another type or out of
    range (a temperature or penalty that fp32 cannot divide by among them), an empty prompt, ids
    outside the vocabulary, text that does not fit, padding that is not on the left, and logits
    that are NaN or infinite.
    """
    check_settings(temperature, top_k, top_p, min_p, repetition_penalty)
    _check_flags(use_cache=use_cache, slide=slide, compile=compile)
    _check_prompt(model, input_ids, max_new_tokens, attention_mask, generator, slide)
    ends = as_stop_ids(stop_ids, model.config.vocab_size)
    stop_ids = torch.tensor(ends, dtype=torch.int64, device=input_ids.device)
    if attention_mask is not None:
        attention_mask = attention_mask.bool()
    reader = _Reader(model, input_ids, max_new_tokens, attention_mask, use_cache, compile)
    ids = input_ids
    # What the repetition penalty has seen: padding is no token, so a real one stands in for it.
    seen = ids if attention_mask is None else torch.where(attention_mask, ids, ids[:, -1:])
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        logits = reader(ids).float()  # (B, V): of the last token only
        total = logits.logsumexp(-1)
        if not total.isfinite().all():
            raise ValueError(
                f"the logits after {ids.size(1)} tokens are NaN or infinite: the weights are "
                "damaged, or too large for their dtype (load them as float32)"
            )
        if temperature == 0:
            new = penalise(logits, seen, repetition_penalty).argmax(-1, keepdim=True)
        else:
            scores = reshape(logits, seen, temperature, top_k, top_p, min_p, repetition_penalty)
            new = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        logprobs = logits.gather(1, new)[:, 0] - total
        new = torch.where(ended, ids[:, -1], new[:, 0])
        yield Step(new, logprobs.masked_fill(ended, 0.0))
        ids, seen = (torch.cat((old, new[:, None]), dim=1) for old in (ids, seen))
        if len(stop_ids):
            ended = ended | torch.isin(new, stop_ids)
            if ended.all():
                return


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Lists of ids -> input_ids (B, T) and attention_mask (B, T): 0 at the padding, on the left.

    So the last token of every row stands in the last column, where the next one follows.
    """
    prompts = [token_ids("a prompt", prompt) for prompt in prompts]  # lists, of tensors too
    if not prompts or not all(prompts):
        raise ValueError("no prompt, or an empty one: give each a token, such as <|endoftext|>")
    T, pad = max(map(len, prompts)), token_ids("pad_id", [pad_id])
    rows = [pad * (T - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows), torch.tensor(mask)


def as_stop_ids(stop_ids: Iterable[int] | int | None, vocab_size: int) -> list[int]:
    """One id, several or none, as a list. ValueError for one that no token has."""
    if isinstance(stop_ids, Tensor) and stop_ids.ndim == 0:
        stop_ids = stop_ids.item()
    if stop_ids is None or isinstance(stop_ids, Integral):
        stop_ids = [] if stop_ids is None else [stop_ids]
    ids = token_ids("stop_ids", stop_ids)
    if any(token >= vocab_size for token in ids):
        raise ValueError(f"stop_ids {ids} are outside the vocabulary (0 to {vocab_size - 1})")
    return ids


def padded_layout(real: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """`positions` (B, 1, T) and `mask` (B, 1, T, S) for the last T of S columns, `real` (B, S)
    False at padding.

    Each row counts from its first real token and never sees its padding. Padding sees padding:
    a query that sees nothing is NaN where attention is written out, and NaN spreads.
    """
    positions = (real.cumsum(-1) - 1).clamp(min=0)[:, None, -T:]
    same_kind = real[:, None, None, :] == real[:, None, -T:, None]
    return positions, causal_mask(T, real.size(1), real.device) & same_kind


class _Reader:
    """Logits (B, V) after the last column of a text that grows by one column a call."""

    def __init__(self, model, input_ids, max_new_tokens, real, use_cache, compile):
        self.model, self.real, self.start = model, real, 0
        self.room = model.config.max_position_embeddings
        self.cache = self.step = None
        if not use_cache:
            return
        B, length = len(input_ids), min(self.room, input_ids.size(1) + max_new_tokens)
        if compile or captures(input_ids.device):
            weight = model.embed_tokens.weight
            self.cache = FixedCache(model.config, B, length, weight.dtype, weight.device)
            if compile and input_ids.device.type == "cpu":
                check_compiler()
            self.step = FixedStep(model, self.cache, compile, captures(input_ids.device))
        else:
            self.cache = model.new_cache(B, length)

    def __call__(self, ids: Tensor) -> Tensor:
        # The window jumps by half a context, so that few tokens are read twice.
        half = max(1, self.room // 2)
        start = -(-max(ids.size(1) - self.room, 0) // half) * half
        if start != self.start and self.cache is not None:
            self.cache.reset()
        self.start, cache, real = start, self.cache, self.real
        new = ids[:, start + (cache.length if cache is not None else 0) :]
        if real is not None:
            more = real.new_ones(len(real), ids.size(1) - real.size(1))
            self.real = real = torch.cat((real, more), dim=1)
            real = real[:, start:]
        if self.step is not None and cache.length:
            return self.step(new, real)
        layout = (None, None) if real is None else padded_layout(real, new.size(1))
        hidden = self.model(new, cache, False, *layout)
        return self.model.lm_head(hidden[:, -1])


def _check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        flag(name, value)


def _check_prompt(
    model, ids, max_new_tokens, attention_mask=None, generator=None, slide=False, **_
) -> None:
    if not isinstance(model, nn.Module) or not hasattr(model, "embed_tokens"):
        raise ValueError(f"the model must be a SmolLM2, got {shown(model)}")
    if getattr(ids, "dtype", None) != torch.int64 or ids.dim() != 2 or not len(ids):
        got = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"input_ids must be a (B, T) int64 tensor, got {got}")
    T, room, V = ids.size(1), model.config.max_position_embeddings, model.config.vocab_size
    if T == 0:
        raise ValueError("the prompt is empty: give at least one token, such as <|endoftext|>")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"the generator must be a torch.Generator, got {shown(generator)}: "
            "torch.Generator().manual_seed(42) is one"
        )
    device = model.embed_tokens.weight.device
    if ids.device != device:
        raise ValueError(f"input_ids are on {ids.device}, the model on {device}: move one of them")
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"the generator is for {generator.device}, the model on {device}: make it by "
            f"torch.Generator({str(device)!r})"
        )
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= V:
        raise ValueError(
            f"id {min(low, 0) or high} is outside the vocabulary (0 to {V - 1}): is it the "
            "tokenizer of another model?"
        )
    if T + whole("max_new_tokens", max_new_tokens) > room and not slide:
        left = f"ask for 1 to {room - T}" if room > T else "shorten the prompt"
        raise ValueError(
            f"{T} tokens and {max_new_tokens} new ones do not fit a context of {room}: {left}, or "
            "let it slide (slide=True, --slide)"
        )
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor):
        got = type(attention_mask).__name__
        raise ValueError(f"attention_mask must be a (B, T) tensor, got {got}: left_pad makes one")
    if attention_mask.shape != ids.shape or attention_mask.device != ids.device:
        shape = tuple(attention_mask.shape), str(attention_mask.device)
        raise ValueError(f"attention_mask is {shape}, input_ids {tuple(ids.shape), str(device)}")
    real = attention_mask.bool()
    if not real[:, -1].all() or (real[:, :-1] & ~real[:, 1:]).any():
        raise ValueError("a row's padding is not on its left, or there is nothing else: left_pad")
