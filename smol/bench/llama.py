"""llama.cpp beside ours: a judge for the tests, a contestant for `decode`.

It comes with `xllamacpp`, a development tool (`pip install -e '.[dev]'`).
"""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def server(file: Path, threads: int = 1, exact: bool = False) -> Callable[..., dict]:
    """llama.cpp's server on a .gguf, as a function: ask("tokenize", content="a") -> its answer.

    With `exact`, of F32 weights nothing is rounded: its cache, too, keeps fp32. The server ends
    with the function. ImportError where xllamacpp is not installed.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 1024, 1, 0
    settings.cpuparams.n_threads, settings.warmup = threads, False
    if exact:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.flash_attn_type = off
    running = xllamacpp.Server(settings)

    def ask(path: str, **question) -> dict:
        request = urllib.request.Request(
            f"{running.listening_address}/{path}",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return ask


def writer(file: Path) -> Callable[[Tensor, int], Tensor]:
    """Goes on greedily with one prompt, (1, T) -> (1, new), on as many threads as PyTorch has."""
    ask = server(file, torch.get_num_threads())
    how = {"temperature": 0, "ignore_eos": True, "cache_prompt": False, "return_tokens": True}

    def write(ids: Tensor, new: int) -> Tensor:
        answer = ask("completion", prompt=ids[0].tolist(), n_predict=new, **how)
        return torch.tensor([answer["tokens"]])

    return write
