"""From logits to text: the next token, chosen and appended, again and again.

With temperature 0 the likeliest token is taken. Otherwise logits are reshaped, in the order of
transformers (repetition penalty, temperature, top-k, top-p, min-p), and one token is drawn.
`generate` gives ids, `generate_steps` each token as it comes, with its log-probability, `stream`
and `chat` text. `python -m smol.generate "Once upon a time"` does it in a terminal.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache as once
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smol.model import KVCache, SmolLM2, causal_mask
from smol.tokenizer import CHAT_TOKENS, BPETokenizer

SHIPPED = Path(__file__).parent.parent / "assets" / "smol-stories"
INSTRUCT = "HuggingFaceTB/SmolLM2-135M-Instruct"


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
    row has a token of `stop_ids`; a row that has ended is filled with that token.
    """
    if num_return_sequences < 1:
        raise ValueError(f"num_return_sequences must be 1 or more, got {num_return_sequences}")
    if num_return_sequences > 1:
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
    stop_ids: Iterable[int] = (),
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

    Raises ValueError for settings out of range (a temperature or penalty that fp32 cannot divide
    by among them), an empty prompt, ids outside the vocabulary, text that does not fit, padding
    that is not on the left, and logits that are NaN or infinite.
    """
    _check(temperature, top_k, top_p, min_p, repetition_penalty)
    _check_prompt(model, input_ids, max_new_tokens, attention_mask, generator, slide)
    stop_ids = torch.tensor(list(stop_ids), dtype=torch.int64, device=input_ids.device)
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


# -- reshaping logits -----------------------------------------------------------------------------


def reshape(
    logits: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> Tensor:
    """Logits (B, V) after ids (B, T) -> those that a token is drawn by, (B, V).

    Each filter sees what the one before has left, in this order: penalty, temperature, top-k,
    top-p, min-p. (As transformers has it.) Raises ValueError for settings out of range, and for
    temperature 0, by which nothing can be divided: `generate` takes the likeliest there.
    """
    _check(temperature, top_k, top_p, min_p, repetition_penalty)
    if temperature == 0:
        raise ValueError("temperature 0 draws nothing: take the argmax, or a temperature above 0")
    logits = penalise(logits, ids, repetition_penalty) / temperature
    return keep_min_p(keep_top_p(keep_top_k(logits, top_k), top_p), min_p)


def penalise(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) of ids (B, T) seen already made smaller: divided by `penalty` where positive,
    multiplied where negative. (Keskar et al. 2019, section 4.1, as transformers has it.)"""
    if penalty == 1.0:
        return logits
    seen = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def keep_top_k(logits: Tensor, k: int | None) -> Tensor:
    """All but the k largest logits at -inf; of equal ones at the border all stay."""
    if k is None:
        return logits
    border = logits.topk(min(k, logits.size(-1))).values[:, -1:]
    return logits.masked_fill(logits < border, float("-inf"))


def keep_top_p(logits: Tensor, p: float | None) -> Tensor:
    """The fewest likeliest tokens that have probability p together; the rest at -inf.

    (Holtzman et al. 2020, section 3.1.) At least one stays.
    """
    if p is None or p == 1.0:
        return logits
    ascending, order = logits.sort(descending=False)
    drop = ascending.softmax(-1).cumsum(-1) <= 1 - p
    drop[:, -1] = False
    return logits.masked_fill(drop.scatter(1, order, drop), float("-inf"))


def keep_min_p(logits: Tensor, p: float | None) -> Tensor:
    """The tokens at least p times as likely as the likeliest; the rest at -inf.

    (Nguyen et al. 2024, section 3.)
    """
    if p is None:
        return logits
    likely = logits.softmax(-1)
    return logits.masked_fill(likely < p * likely.amax(-1, keepdim=True), float("-inf"))


# -- reading the text so far ----------------------------------------------------------------------


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Lists of ids -> input_ids (B, T) and attention_mask (B, T): 0 at the padding, on the left.

    So the last token of every row stands in the last column, where the next one follows.
    """
    if not prompts or not all(prompts):
        raise ValueError("a prompt is empty: give each at least one token, such as <|endoftext|>")
    T = max(map(len, prompts))
    rows = [[pad_id] * (T - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows), torch.tensor(mask)


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


# -- one step, always of the same shapes ----------------------------------------------------------


def captures(device: torch.device) -> bool:
    """Whether decode steps on this device are captured: a GPU waits for the thousand small calls
    of a step longer than it computes, and a captured step is one call."""
    return device.type == "cuda"


class FixedCache(KVCache):
    """A KVCache that can take one token without changing a shape: it is written where the tensor
    `at` says, and all the memory is given back, of which a mask must hide what is not filled."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.k.device)
        self.stepping = False

    def update(self, layer_idx, k, v):
        """Stores k and v (B, K, T, hd); gives all so far, (B, K, S, hd), or all the memory."""
        if not self.stepping:
            return super().update(layer_idx, k, v)
        self.k[layer_idx].index_copy_(2, self.at, k)
        self.v[layer_idx].index_copy_(2, self.at, v)
        return self.k[layer_idx], self.v[layer_idx]


def fixed_step(model: SmolLM2, cache: FixedCache, ids: Tensor, padding: Tensor) -> Tensor:
    """Logits (B, V) after `ids` (B, 1), which stand in column `cache.at`; `padding` (B,) columns
    at the left of each row are padding."""
    column = torch.arange(cache.max_length, device=ids.device)
    mask = (column <= cache.at) & (column >= padding[:, None])  # (B, S)
    positions = (cache.at - padding)[:, None, None]  # (B, 1, 1)
    hidden = model(ids, cache, False, positions, mask[:, None, None])
    return model.lm_head(hidden[:, -1])


@once
def _compiled_step():
    return torch.compile(fixed_step, fullgraph=True, dynamic=False)


class FixedStep:
    """`fixed_step` over buffers that stay where they are: compiled, captured as a CUDA graph (at
    the first call), both or neither."""

    def __init__(self, model: SmolLM2, cache: FixedCache, compile: bool, capture: bool):
        self.model, self.cache, self.capture = model, cache, capture
        self.run_step = _compiled_step() if compile else fixed_step
        self.ids = self.padding = self.graph = None

    def __call__(self, ids: Tensor, real: Tensor | None) -> Tensor:
        """Logits (B, V) after `ids` (B, 1); `real` (B, S) is False at padding. They are
        overwritten by the next call."""
        if self.ids is None:
            self.ids, self.padding = ids.clone(), torch.zeros_like(ids[:, 0])
        self.ids.copy_(ids)
        if real is not None:
            self.padding.copy_((~real).sum(-1))
        self.cache.at.fill_(self.cache.length)
        if not self.capture:
            logits = self._run()
        else:
            if self.graph is None:
                self._capture()
            self.graph.replay()
            logits = self.logits
        self.cache.length += 1
        return logits

    def _run(self) -> Tensor:
        # The column is in `at`. A length that changed would be compiled anew at each step.
        cache, length = self.cache, self.cache.length
        cache.length, cache.stepping = 0, True
        try:
            return self.run_step(self.model, cache, self.ids, self.padding)
        finally:
            cache.length, cache.stepping = length, False

    def _capture(self) -> None:
        # As PyTorch's notes on CUDA graphs want it: first run on another stream, to warm up.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._run()


class ColumnLinear(nn.Linear):
    """A Linear for one token at a time on a CPU: its weight is stored column by column, and each
    thread makes a part of the outputs. Other inputs go the usual way."""

    def forward(self, x: Tensor) -> Tensor:
        (O, I), n = self.weight.shape, self.threads  # noqa: E741 (out and in)
        if x.numel() > I or O % n:
            return super().forward(x)
        columns = self.weight.t().view(I, n, O // n).transpose(0, 1)  # (n, I, O / n)
        return torch.bmm(x.view(1, 1, I).expand(n, 1, I), columns).view(*x.shape[:-1], O)


def prepare_for_decoding(model: SmolLM2) -> SmolLM2:
    """The same model, in place, its Linear layers made `ColumnLinear`: for a CPU.

    There a product of a matrix with one vector runs on one thread, and down the columns faster
    than along the rows: see `python -m smol.bench decode`. Values, shapes and names stay; sums
    run in another order, so the last bits differ.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
            module.__class__, module.threads = ColumnLinear, torch.get_num_threads()
    return model


# -- text -----------------------------------------------------------------------------------------


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
    yield from _until(pieces, stop)


def _until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
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


# -- what a user may get wrong --------------------------------------------------------------------


TINY, HUGE = 1e-15, 1e15  # a logit divided by both TINY still fits fp32


def _check(temperature, top_k, top_p, min_p, repetition_penalty) -> None:
    if temperature != 0 and not TINY <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or at least {TINY}, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ValueError(f"min_p must be from 0 to 1, got {min_p}")
    if not TINY <= repetition_penalty <= HUGE:
        raise ValueError(
            f"repetition_penalty must be from {TINY:g} to {HUGE:g} (1 = none), got "
            f"{repetition_penalty}"
        )


def _check_prompt(
    model, ids, max_new_tokens, attention_mask=None, generator=None, slide=False, **_
) -> None:
    if getattr(ids, "dtype", None) != torch.int64 or ids.dim() != 2 or not len(ids):
        got = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"input_ids must be a (B, T) int64 tensor, got {got}")
    T, room, V = ids.size(1), model.config.max_position_embeddings, model.config.vocab_size
    if T == 0:
        raise ValueError("the prompt is empty: give at least one token, such as <|endoftext|>")
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
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    if T + max_new_tokens > room and not slide:
        left = f"ask for 1 to {room - T}" if room > T else "shorten the prompt"
        raise ValueError(
            f"{T} tokens and {max_new_tokens} new ones do not fit a context of {room}: {left}, or "
            "pass slide=True"
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


# -- python -m smol.generate ----------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="smol.generate", description="A model goes on with a text, or answers."
    )
    parser.add_argument("prompt", nargs="?", help="without one: a new text, or a conversation")
    parser.add_argument(
        "--model", help=f"folder or hub repository (the shipped stories; --chat: {INSTRUCT})"
    )
    parser.add_argument("--chat", action="store_true", help="the prompt is a question")
    parser.add_argument("--max-new-tokens", type=int, help="200, or as many as the context holds")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--min-p", type=float)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--stop", action="append", default=[], help="end before this text")
    parser.add_argument("--samples", type=int, default=1, help="so many texts for the prompt")
    parser.add_argument("--seed", type=int, help="draw the same tokens each time")
    parser.add_argument("--slide", action="store_true", help="go on past the context")
    parser.add_argument("--no-cache", dest="use_cache", action="store_false")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto"
    )
    try:
        _run(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"smol.generate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def _run(args: argparse.Namespace) -> None:
    from smol.pretrained import load_pretrained
    from smol.train import choose_device, choose_precision

    for option in ("max_new_tokens", "samples"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise ValueError(f"{option} must be 1 or more, got {value}")
    name = args.model or (INSTRUCT if args.chat else SHIPPED)
    device = choose_device(args.device)
    fast = choose_precision(device).autocast == torch.bfloat16
    auto = torch.bfloat16 if fast else torch.float32  # never fp16: weights of bf16 may overflow
    dtype = auto if args.dtype == "auto" else getattr(torch, args.dtype)
    tokenizer, model = BPETokenizer.load(name), load_pretrained(name, dtype, device)
    room = model.config.max_position_embeddings
    if device.type == "cpu":
        prepare_for_decoding(model)
    generator = torch.Generator(device)
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    keys = "temperature top_k top_p min_p repetition_penalty stop slide use_cache compile"
    settings = {key: getattr(args, key) for key in keys.split()}
    settings["generator"] = generator

    def say(prompt: list[int], **more) -> str:
        """Prints what follows as it comes, and returns it."""
        left = room if args.slide else max(1, room - len(prompt))
        wanted, text = min(200, left) if args.max_new_tokens is None else args.max_new_tokens, ""
        for piece in stream(model, tokenizer, prompt, wanted, **settings, **more):
            text += piece
            print(piece, end="", flush=True)
        print()
        return text

    if not args.chat:
        ids = [tokenizer.eos_id] if args.prompt is None else tokenizer.encode(args.prompt)
        shipped = Path(name).expanduser().resolve() == SHIPPED.resolve()
        if shipped and ids:  # its stories all begin after an end of text
            ids = [tokenizer.eos_id, *tokenizer.encode(args.prompt or "")]
        for _ in range(args.samples):
            print(args.prompt or "", end="", flush=True)
            say(ids)
        return

    def answer(messages: list[dict]) -> str:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return say(ids, stop_ids=[tokenizer.special_tokens[CHAT_TOKENS[1]]])

    if args.prompt is not None:
        for _ in range(args.samples):
            answer([{"role": "user", "content": args.prompt}])
        return
    messages = []
    while (said := _asked()) is not None:
        messages.append({"role": "user", "content": said})
        while len(tokenizer.apply_chat_template(messages)) > room // 2 and len(messages) > 1:
            del messages[:2]  # the oldest question and its answer are forgotten
        messages.append({"role": "assistant", "content": answer(messages)})


def _asked() -> str | None:
    """The next line that is not empty; None at the end of the input."""
    try:
        return next(line for line in iter(lambda: input("> ").strip(), None) if line)
    except EOFError:
        return None


if __name__ == "__main__":
    sys.exit(main())
