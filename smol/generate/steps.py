"""The loop: read the text so far, choose the next token, append it, again and again."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from smol.checks import flag, shown, token_ids, whole
from smol.device import check_compiler
from smol.generate.fixed import AHEAD, FixedSteps, captures, fits, fixed_steps, likeliest
from smol.generate.memory import Memory
from smol.generate.sampling import check_settings, draw, penalise, reshape
from smol.model import KVCache, SmolLM2, causal_mask


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
    memory: Memory | None = None,
) -> Iterator[Step]:
    """Yields a `Step` for each new token after `input_ids` (B, T) int64.

    Prompts of unequal length are padded on the left, and `attention_mask` (B, T) is 0 at padding:
    `left_pad` makes both. Without the cache every step reads the whole text again, with the same
    result up to rounding. A text that would outgrow the context is refused; with slide=True it
    goes on, and when the context is full only the newer half of it is kept and read again.

    On a CUDA GPU a step with the cache is captured once and replayed, and eight tokens are made
    before one is looked at, so that a few are drawn in vain where a text ends. compile=True
    compiles the step first, on any device: once for all layers, and for each rounded-up length of
    text. (On a CPU that saves a tenth of a prepared model's time; of another's nothing, but where
    texts are long.) The model keeps the captured step for the next call. Weights are read as they
    are when a call begins. With a `memory` what the last text had in common with this one is not
    read again.

    A generator: at its first step it raises ValueError for settings of another type or out of
    range (a temperature or penalty that fp32 cannot divide by among them), an empty prompt, ids
    outside the vocabulary, text that does not fit, padding that is not on the left, and logits
    that are NaN or infinite.
    """
    check_settings(temperature, top_k, top_p, min_p, repetition_penalty)
    _check_flags(use_cache=use_cache, slide=slide, compile=compile)
    _check_prompt(model, input_ids, max_new_tokens, attention_mask, generator, slide)
    _check_memory(memory, input_ids, attention_mask, use_cache)
    ending = _Ending(as_stop_ids(stop_ids, model.config.vocab_size), input_ids)
    if attention_mask is not None:
        attention_mask = attention_mask.bool()
    choose = partial(_choose, generator, temperature, top_k, top_p, min_p, repetition_penalty)
    plain = temperature == 0 and repetition_penalty == 1
    length = input_ids.size(1) + max_new_tokens
    with _reader(model, input_ids, length, attention_mask, use_cache, compile, memory) as read:
        # What the repetition penalty has seen: a real token stands in for padding, which is none.
        seen = input_ids
        if attention_mask is not None:
            seen = seen.where(attention_mask, seen[:, -1:])
        yield from _steps(read, choose, plain, ending, input_ids, seen, length)


def _steps(read, choose, plain: bool, ending, ids: Tensor, seen: Tensor, length: int) -> Iterator:
    while ids.size(1) < length:
        count = min(length - ids.size(1), read.ahead(ids.size(1)))
        if plain and count == AHEAD:
            new, logprobs, totals = read.likeliest(ids)
        else:
            new, logprobs, totals = _made(read, choose, ids, seen, count)
        new, logprobs, over = ending(new, logprobs)
        looked = torch.stack((totals.isfinite().all(0), over)).tolist()
        before, (ids, seen) = ids.size(1), (torch.cat((old, new), dim=1) for old in (ids, seen))
        for column, (sound, last) in enumerate(zip(*looked, strict=True)):
            if not sound:
                raise ValueError(
                    f"the logits after {before + column} tokens are NaN or infinite: the weights "
                    "are damaged, or too large for their dtype (load them as float32)"
                )
            read.text = ids[:, : before + column + 1]
            yield Step(new[:, column], logprobs[:, column])
            if last:
                return


def _made(read, choose, ids: Tensor, seen: Tensor, count: int) -> tuple[Tensor, ...]:
    """`count` tokens after ids, one at a time: what `choose` gives for each, (B, count) each."""
    made = []
    for _ in range(count):
        made.append(choose(read(ids).float(), seen))
        ids, seen = (torch.cat((old, made[-1][0]), dim=1) for old in (ids, seen))
    return tuple(torch.cat(parts, dim=1) for parts in zip(*made, strict=True))


def _choose(generator, temperature, top_k, top_p, min_p, penalty, logits, seen):
    """By logits (B, V) after `seen` (B, T): the next token, the logarithm of its probability, and
    of what the probabilities are divided by, (B, 1) each."""
    new, logprob, total = likeliest(logits)
    if temperature == 0 and penalty == 1:
        return new, logprob, total
    if temperature == 0:
        new = penalise(logits, seen, penalty).argmax(-1, keepdim=True)
    else:
        scores = reshape(logits, seen, temperature, top_k, top_p, min_p, penalty)
        new = draw(scores.softmax(-1), generator)
    return new, logits.gather(1, new) - total, total


class _Ending:
    """Which rows have met a stop id, without a look at any."""

    def __init__(self, stop_ids: list[int], ids: Tensor):
        self.stop, self.fill = ids.new_tensor(stop_ids), ids[:, -1:]
        self.ended = torch.zeros_like(self.fill, dtype=torch.bool)

    def __call__(self, new: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New tokens and their logarithms (B, n), those after a row's end made its stop id and 0;
        and (n,), True where every row has ended."""
        if not len(self.stop):
            return new, logprobs, self.ended.new_zeros(new.size(1))
        hit = (new[:, :, None] == self.stop).any(-1)
        first = new.gather(1, hit.int().argmax(1, keepdim=True))
        self.fill = torch.where(self.ended, self.fill, first)
        by_now = (hit.cumsum(1) > 0) | self.ended
        before = torch.cat((self.ended, by_now[:, :-1]), dim=1)
        self.ended = by_now[:, -1:]
        new = torch.where(before, self.fill, new)
        return new, logprobs.masked_fill(before, 0.0), by_now.all(0)


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


def unplanned():
    """A context in which attention is computed by kernels that take any length as it comes:
    cuDNN's first makes a plan for each, which takes longer than a token."""
    kernels = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
    return sdpa_kernel(list(kernels))


@contextmanager
def _reader(model, ids, length: int, real, use_cache: bool, compile: bool, memory) -> Iterator:
    """A `_Reader` of texts that grow to `length`, by the quickest steps that there are for it."""
    device, room = ids.device, model.config.max_position_embeddings
    B, length = len(ids), min(room, length)
    if compile and use_cache:
        if device.type == "cpu":
            check_compiler()
        if not fits(model):
            raise ValueError(
                "compile=True is for the model as it is built: merge or remove what was put into "
                "its layers (adapters, hooks), or leave it out (--compile)"
            )
    if not use_cache:
        yield _Reader(model, real, None, None)
        return
    captured = (compile or captures(device)) and fits(model)
    with fixed_steps(model, B, length, compile) if captured else nullcontext() as steps:
        cache = steps.cache if captured else model.new_cache(B, length)
        read = _Reader(model, real, cache, steps)
        if memory is None:
            yield read
            return
        if ids.size(1) <= room:
            memory.recall(model, ids, cache)
        memory.forget()
        try:
            yield read
        except Exception:
            read.text = None
            raise
        finally:
            if read.text is not None and read.start == 0:
                memory.keep(model, read.text, cache)


class _Reader:
    """Logits (B, V) after the last column of a text that grows by one column a call."""

    def __init__(self, model, real, cache: KVCache | None, steps: FixedSteps | None):
        self.model, self.real, self.cache, self.steps = model, real, cache, steps
        self.room, self.start = model.config.max_position_embeddings, 0
        self.text: Tensor | None = None  # (B, T), as far as anybody has got it

    def begins(self, T: int) -> int:
        """Where the window begins that is read of a text of T columns."""
        # It jumps by half a context, so that few tokens are read twice.
        half = max(1, self.room // 2)
        return -(-max(T - self.room, 0) // half) * half

    def ahead(self, T: int) -> int:
        """How many tokens may be made, after T columns, before anybody looks at them."""
        start = self.begins(T)
        if self.steps is None or start != self.start or self.cache.length != T - start - 1:
            return 1
        return min(AHEAD, self.room - (T - start) + 1)

    def likeliest(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The next AHEAD tokens, greedily: see `FixedSteps.likeliest`."""
        return tuple(made.clone() for made in self.steps.likeliest(ids[:, -1:]))

    def __call__(self, ids: Tensor) -> Tensor:
        start, cache, real = self.begins(ids.size(1)), self.cache, self.real
        if start != self.start and cache is not None:
            cache.reset()
        self.start = start
        new = ids[:, start + (cache.length if cache is not None else 0) :]
        if self.steps is not None and cache.length and new.size(1) == 1:
            return self.steps.logits(new)
        if real is not None:
            more = real.new_ones(len(real), ids.size(1) - real.size(1))
            self.real = real = torch.cat((real, more), dim=1)
            real = real[:, start:]
        if self.steps is not None:
            self.steps.hide(real)
        layout = (None, None) if real is None else padded_layout(real, new.size(1))
        with unplanned() if new.is_cuda and new.size(1) == 1 else nullcontext():
            hidden = self.model(new, cache, False, *layout)
        return self.model.lm_head(hidden[:, -1])


def _check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        flag(name, value)


def _check_memory(memory, ids: Tensor, attention_mask, use_cache: bool) -> None:
    if memory is None:
        return
    if not isinstance(memory, Memory):
        raise ValueError(f"the memory must be a smol.generate.Memory, got {shown(memory)}")
    if len(ids) > 1 or attention_mask is not None or not use_cache:
        raise ValueError(
            "a memory is for one text, without padding, and for what the cache keeps: leave out "
            "attention_mask and use_cache=False, or the memory"
        )


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
