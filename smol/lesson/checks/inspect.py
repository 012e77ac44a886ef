"""The checks of notebook 1: parameters and bytes counted by hand, the nearest token."""

import torch

from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.exercise import SMALL, UNTIED, ask, exercise, expect
from smol.pretrained import skeleton


@exercise
def check_count(count):
    for config in (SMALL, UNTIED, SmolLM2Config()):
        want = sum(p.numel() for p in skeleton(config).parameters())
        tied = "tied" if config.tie_word_embeddings else "untied"
        got = ask(kind.number, count, config)
        expect(got == want, f"D = {config.hidden_size}, {tied}: {got:,}, PyTorch has {want:,}")


@exercise
def check_cache_bytes(cache_bytes):
    for config in (SmolLM2Config(), SMALL):
        for tokens, size in ((1, 2), (1000, 4)):
            want = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
            want *= tokens * size
            got = ask(kind.number, cache_bytes, config, tokens, size)
            said = f"{tokens} tokens of {size}-byte numbers, D = {config.hidden_size}"
            expect(got == want, f"{said}: {got:,}, not {want:,}")


@exercise
def check_nearest(nearest):
    table = torch.randn(50, 8)
    table[7] = 3 * table[31] + 0.01 * torch.randn(8)  # one direction, another length
    table[12] = 100 * torch.randn(8)  # long, in no one's direction
    for token, want in ((7, 31), (31, 7)):
        got = ask(kind.number, nearest, table, token)
        expect(got != token, f"the token nearest to {token} is {token} itself: leave it out")
        expect(got == want, f"nearest to {token} is {want}, not {got}: length must not count")
