"""`python -m smol.generate "Once upon a time"`: a model goes on with a text, or answers."""

import argparse
import contextlib
import os
import stat
import sys

import torch

from smol.checks import named, path, seed, whole
from smol.device import DEVICES, DTYPES, check_compiler, choose_device, choose_dtype
from smol.generate.fast import prepare_for_decoding
from smol.generate.memory import Memory
from smol.generate.sampling import check_settings
from smol.generate.text import as_stop, chat_ends_of, stream
from smol.model import SmolLM2
from smol.pretrained import INSTRUCT, SHIPPED, instruct_files, load_pretrained
from smol.terminal import command, say
from smol.tokenizer import BPETokenizer

# A story wants surprises. Of an answer a small model's likeliest words are the most reliable: at
# 0.2 the packaged one was asked for the capital of France six times, and answered twice in French.
STORY_TEMPERATURE, CHAT_TEMPERATURE = 0.8, 0.0


@command("smol.generate")
def main() -> int:
    """Exit status 0, or 1 and a line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m smol.generate", description="A model goes on with a text, or answers."
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        help="without one: what stdin holds, a new text, or with --chat a conversation",
    )
    parser.add_argument(
        "--model",
        help=f"folder, hub repository or .gguf (the shipped stories; --chat: {INSTRUCT}, from the "
        "hub or through pip)",
    )
    parser.add_argument("--chat", action="store_true", help="the prompt is a question")
    parser.add_argument("--max-new-tokens", type=int, help="200, or as many as the context holds")
    parser.add_argument(
        "--temperature",
        type=float,
        help=f"0 takes the likeliest ({STORY_TEMPERATURE}; --chat: {CHAT_TEMPERATURE})",
    )
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
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    _run(parser.parse_args())
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.temperature is None:
        args.temperature = CHAT_TEMPERATURE if args.chat else STORY_TEMPERATURE
    keys = "temperature top_k top_p min_p repetition_penalty"
    sampling = {key: getattr(args, key) for key in keys.split()}
    # All of it before a model is fetched, and before the prompt is printed.
    check_settings(**sampling)
    as_stop(args.stop)
    for option in ("max_new_tokens", "samples"):
        if getattr(args, option) is not None:
            whole(option, getattr(args, option))
    if args.chat and args.prompt is None and args.samples > 1:
        raise ValueError("--samples is for a prompt, and a conversation has none: leave one out")
    if args.prompt is not None and not args.prompt.strip():
        raise ValueError("the prompt is empty: leave it out for a new text")
    if args.seed is not None:
        seed("seed", args.seed)
    device = choose_device(args.device)
    dtype = choose_dtype(device, args.dtype)
    if args.compile and device.type == "cpu":
        check_compiler()
    if args.model is None:
        args.model = instruct_files() if args.chat else SHIPPED
    name = named("--model", args.model)
    tokenizer, model = BPETokenizer.load(name), load_pretrained(name, dtype, device)
    if device.type == "cpu":
        prepare_for_decoding(model)
    generator = torch.Generator(device)
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    settings = {**sampling, "generator": generator, "stop": args.stop, "slide": args.slide}
    settings |= {"use_cache": args.use_cache, "compile": args.compile}
    speaker = Speaker(model, tokenizer, args.max_new_tokens, settings)
    if args.chat and args.prompt is None:
        settings["memory"] = Memory() if args.use_cache else None
        speaker.converse()
        return
    prompt = _piped() if args.prompt is None else args.prompt
    for _ in range(args.samples):
        if args.chat:
            speaker.answer([{"role": "user", "content": prompt}])
            continue
        ids = [tokenizer.eos_id] if prompt is None else tokenizer.encode(prompt)
        shipped = path("--model", name).resolve() == SHIPPED.resolve()
        if shipped and prompt:  # its stories all begin after an end of text
            ids = [tokenizer.eos_id, *ids]
        speaker.print_after(prompt or "", ids)


class Speaker:
    """A model that prints what it writes as it comes."""

    def __init__(
        self, model: SmolLM2, tokenizer: BPETokenizer, wanted: int | None, settings: dict
    ):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.room, self.wanted = model.config.max_position_embeddings, wanted

    def print_after(self, shown: str, ids: list[int], fit: bool = False, **more) -> str:
        """Prints what is `shown` of the prompt and what follows its ids; returns the latter.

        Unless a number was asked for, it is 200 tokens, or as many as the context still holds:
        with `fit`, never more than that.
        """
        left = self.room if self.settings["slide"] else max(1, self.room - len(ids))
        count, text = self.wanted or min(200, left), ""
        count = min(count, left) if fit else count
        for piece in stream(self.model, self.tokenizer, ids, count, **self.settings, **more):
            print(f"{shown}{piece}" if not text else piece, end="", flush=True)
            text += piece
        print("" if text else shown)
        return text

    def answer(self, messages: list[dict], fit: bool = False) -> str:
        """Prints the answer to a conversation, and returns it."""
        ends = chat_ends_of(self.model, self.tokenizer)
        return self.print_after("", self.ids_of(messages), fit, stop_ids=ends)

    def ids_of(self, messages: list[dict]) -> list[int]:
        """A conversation up to where the answer begins."""
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)

    def converse(self) -> None:
        """A question a line, until the input ends. What goes wrong with one ends that one only."""
        messages = []
        while (said := _asked()) is not None:
            messages.append({"role": "user", "content": said})
            try:
                messages = self.recent(messages)
                answer = self.answer(messages, fit=True)
                messages.append({"role": "assistant", "content": answer})
            except ValueError as error:
                say(f"smol.generate: {error}")
                messages.pop()

    def recent(self, messages: list[dict]) -> list[dict]:
        """The newest turns that leave room for an answer: of as many tokens as were asked for, or
        for a long question alone, of as many as are left. ValueError where none are."""
        wanted = self.wanted or self.room // 2
        while len(messages) > 1 and self.room - len(self.ids_of(messages)) < wanted:
            messages = messages[2:]  # the oldest question and its answer are forgotten
        if (size := len(self.ids_of(messages))) >= self.room:
            raise ValueError(
                f"{size} tokens do not fit a context of {self.room}: ask in fewer words"
            )
        return messages


def _piped() -> str | None:
    """The prompt from a pipe or a file; None where stdin is something else, or has nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # no stdin, or a closed one
        return None
    if not stat.S_ISFIFO(mode) and not stat.S_ISREG(mode):
        return None
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
        return text.removesuffix("\n").removesuffix("\r") or None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the prompt on stdin is not UTF-8 at byte {error.start}: convert it first"
        ) from error


def _asked() -> str | None:
    """The next line that is not empty; None at the end of the input, or where there is none."""
    with contextlib.suppress(AttributeError, ValueError):  # one bad letter ends no conversation
        sys.stdin.reconfigure(errors="replace")
    try:
        return next(line for line in iter(lambda: input("> ").strip(), None) if line)
    except (EOFError, RuntimeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
