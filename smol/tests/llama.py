"""llama.cpp as a judge, where `xllamacpp` (a development tool) is installed."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest


def llama_cpp(file: Path, exact: bool = False) -> Callable[..., dict]:
    """llama.cpp's server on a .gguf, as a function: ask("tokenize", content="a") -> its answer.

    With `exact`, of F32 weights nothing is rounded: its cache, too, keeps fp32. The server ends
    with the function.
    """
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) is not installed")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 512, 1, 0
    settings.cpuparams.n_threads, settings.warmup = 1, False
    if exact:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.flash_attn_type = off
    server = xllamacpp.Server(settings)

    def ask(path: str, **question) -> dict:
        request = urllib.request.Request(
            f"{server.listening_address}/{path}",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return ask


def next_tokens(ask: Callable[..., dict], ids: list[int], count: int) -> dict[int, float]:
    """The `count` likeliest tokens after these ids, and the logarithms of their probabilities."""
    how = {"n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": False}
    answer = ask("completion", prompt=ids, **how)["completion_probabilities"][0]
    return {token["id"]: token["logprob"] for token in answer["top_logprobs"]}
