"""`python -m smol.generate "Once upon a time"`: a model goes on with a text, or answers."""

import argparse
import sys
from pathlib import Path

import torch

from smol.device import DEVICES, DTYPES, choose_device, choose_dtype
from smol.generate.fast import prepare_for_decoding
from smol.generate.text import stream
from smol.pretrained import INSTRUCT, SHIPPED, load_pretrained
from smol.tokenizer import CHAT_TOKENS, BPETokenizer


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.generate", description="A model goes on with a text, or answers."
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
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    try:
        _run(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"smol.generate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def _run(args: argparse.Namespace) -> None:
    for option in ("max_new_tokens", "samples"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise ValueError(f"{option} must be 1 or more, got {value}")
    name = args.model or (INSTRUCT if args.chat else SHIPPED)
    device = choose_device(args.device)
    dtype = choose_dtype(device, args.dtype)
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
