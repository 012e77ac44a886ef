"""What Ollama is told beside a .gguf: how a conversation is written, where an answer stops."""

from smol.config import SmolLM2Config
from smol.tokenizer import BPETokenizer

CHATML = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def modelfile(tokenizer: BPETokenizer, config: SmolLM2Config, file: str) -> str:
    """Ollama's Modelfile for a .gguf, `file` as seen from the folder in which it is to lie.

    With FROM alone Ollama goes on with a text, and nothing stops it. A model without a chat
    template goes on with a text that begins after `<|endoftext|>`. ValueError for a template that
    is not ChatML.
    """
    special = tokenizer.special_tokens
    lines = [f"FROM ./{file}"]
    if tokenizer.chat_template is None:
        begin = next((text for text, i in special.items() if i == config.bos_token_id), "")
        lines += [f'TEMPLATE """{begin}{{{{ .Prompt }}}}"""']
        stops = [text for text, i in special.items() if i == config.eos_token_id]
    else:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], True)
        system, mark, rest = tokenizer.decode(ids).rpartition("<|im_start|>user\n")
        head, tail = "<|im_start|>system\n", "<|im_end|>\n"
        plain = rest == "?<|im_end|>\n<|im_start|>assistant\n" and mark
        if not plain or (system and not (system.startswith(head) and system.endswith(tail))):
            raise ValueError("the chat template is not ChatML: write its TEMPLATE by hand")
        if system:
            lines += [f'SYSTEM """{system.removeprefix(head).removesuffix(tail)}"""']
        lines += [f'TEMPLATE """{CHATML}"""']
        stops = [
            text for text in ("<|im_end|>", "<|im_start|>", "<|endoftext|>") if text in special
        ]
    lines += [f'PARAMETER stop "{text}"' for text in stops]
    lines += [f"PARAMETER num_ctx {config.max_position_embeddings}", "PARAMETER temperature 0"]
    return "\n".join(lines) + "\n"
