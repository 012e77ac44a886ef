"""Special tokens, and how a conversation is written down with them."""

import json
import re
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from smol.checks import flag, shown
from smol.terminal import reason

if TYPE_CHECKING:
    from jinja2 import Template

END_OF_TEXT = "<|endoftext|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
SPECIAL_TOKENS = (END_OF_TEXT, *CHAT_TOKENS)  # the first three of SmolLM2's seventeen
SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat_text(
    messages: list[dict[str, str]],
    add_generation_prompt: bool = False,
    template: str | None = None,
) -> str:
    """A conversation as SmolLM2-Instruct was taught to read it (ChatML), or another model by its
    own `template`.

    `messages` are {"role": "system" | "user" | "assistant", "content": text}; without a system
    message the model's own comes first. With add_generation_prompt the answer is begun. Raises
    ValueError for other messages, and for a template that cannot be rendered.
    """
    if not isinstance(messages, list | tuple) or not messages or not all(map(_is_turn, messages)):
        raise ValueError("a chat is a list of {'role': text, 'content': text}, and not empty")
    if template is not None:
        if not isinstance(template, str):
            raise ValueError(f"template must be a text, got {shown(template)}")
        return _rendered(template, messages, flag("add_generation_prompt", add_generation_prompt))
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, *messages]
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n" * flag(
        "add_generation_prompt", add_generation_prompt
    )


def _is_turn(message) -> bool:
    return isinstance(message, dict) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )


# What transformers also hands a template, from the tokenizer's settings: not known here.
NOT_KNOWN = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def _rendered(template: str, messages: list[dict[str, str]], begun: bool) -> str:
    """A conversation by a template of Jinja's, as transformers renders it."""
    from jinja2 import StrictUndefined

    given = {name: StrictUndefined(name=name) for name in NOT_KNOWN}
    given |= {"messages": messages, "add_generation_prompt": begun}
    try:
        return _compiled(template).render(given, tools=None, documents=None)
    except Exception as error:  # somebody's program: it may raise whatever there is
        raise ValueError(
            f"the model's chat template cannot be rendered ({reason(error):.200}): write the "
            "conversation out as a text, or render it with transformers' AutoTokenizer"
        ) from error


@lru_cache(maxsize=8)  # it takes a hundred times as long as a conversation
def _compiled(template: str) -> "Template":
    """A template as a program, in a sandbox. What reaches for Python behind a value is refused,
    where transformers writes nothing in its place."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    def raise_exception(message):
        raise TemplateError(message)

    def unsafe(value, name):
        raise SecurityError(f"{name!r} of a {type(value).__name__} is unsafe")

    def tojson(value, ensure_ascii=False, **layout):  # Jinja's own writes < as \u003c
        return json.dumps(value, ensure_ascii=ensure_ascii, **layout)

    room = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    room.unsafe_undefined = unsafe
    room.filters["tojson"] = tojson
    room.globals["raise_exception"] = raise_exception
    room.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    # Marks of what an assistant said, for training: they write nothing.
    marks = r"({%[-+]?\s*)(end)?generation(\s*[-+]?%})"
    template = re.sub(marks, lambda m: m[1] + ("endif" if m[2] else "if true") + m[3], template)
    return room.from_string(template)


def template_in(folder: Path) -> str | None:
    """The chat template of a model's folder, as transformers saves it; None where it has none.

    A tokenizer_config.json that cannot be read is one without: the tokenizer does not need it.
    """
    if (alone := folder / "chat_template.jinja").is_file():
        try:
            return alone.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{alone} is not UTF-8: fetch it again, or delete it") from error
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):  # several by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str | None):
        raise ValueError(f"{folder}: chat_template is {shown(template)}, not a text: mend it")
    return template


# The same in the form that transformers saves with a tokenizer; the tests compare the two.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM_PROMPT
    + "<|im_end|>\n{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
