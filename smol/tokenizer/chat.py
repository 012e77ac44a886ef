"""Special tokens, and how a conversation is written down with them."""

import json
import re
from pathlib import Path

from smol.checks import flag, shown

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


def _rendered(template: str, messages: list[dict[str, str]], begun: bool) -> str:
    """A conversation by a template of Jinja's, as transformers renders it: in a sandbox."""
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise TemplateError(message)

    room = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.loopcontrols"],
    )
    # Marks of what an assistant said, for training: they write nothing.
    template = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    given = {"tools": None, "documents": None, "raise_exception": raise_exception}
    try:
        made = room.from_string(template)
        return made.render(messages=messages, add_generation_prompt=begun, **given)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(
            f"the model's chat template cannot be rendered ({error!s:.200}): write the "
            "conversation out as a text, or render it with transformers' AutoTokenizer"
        ) from error


def template_in(folder: Path) -> str | None:
    """The chat template of a model's folder, as transformers saves it; None where it has none.

    A tokenizer_config.json that cannot be read is one without: the tokenizer does not need it.
    """
    if (alone := folder / "chat_template.jinja").is_file():
        return alone.read_text(encoding="utf-8-sig")
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
