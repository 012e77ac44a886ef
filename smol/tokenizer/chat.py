"""Special tokens, and how a conversation is written down with them."""

from smol.checks import flag

END_OF_TEXT = "<|endoftext|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
SPECIAL_TOKENS = (END_OF_TEXT, *CHAT_TOKENS)  # the first three of SmolLM2's seventeen
SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat_text(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """A conversation as SmolLM2-Instruct was taught to read it (ChatML).

    `messages` are {"role": "system" | "user" | "assistant", "content": text}; without a system
    message the model's own comes first. With add_generation_prompt the answer is begun.
    """
    if not isinstance(messages, list | tuple) or not messages or not all(map(_is_turn, messages)):
        raise ValueError("a chat is a list of {'role': text, 'content': text}, and not empty")
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


# The same in the form that transformers saves with a tokenizer; the tests compare the two.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM_PROMPT
    + "<|im_end|>\n{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
