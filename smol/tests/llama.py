"""llama.cpp as a judge, where `xllamacpp` (a development tool) is installed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from smol.bench import llama


def llama_cpp(file: Path, exact: bool = False) -> Callable[..., dict]:
    """`smol.bench.llama.server`; the test is skipped where it cannot be had."""
    pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) is not installed")
    return llama.server(file, exact=exact)


def next_tokens(ask: Callable[..., dict], ids: list[int], count: int) -> dict[int, float]:
    """The `count` likeliest tokens after these ids, and the logarithms of their probabilities."""
    how = {"n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": False}
    answer = ask("completion", prompt=ids, **how)["completion_probabilities"][0]
    return {token["id"]: token["logprob"] for token in answer["top_logprobs"]}
