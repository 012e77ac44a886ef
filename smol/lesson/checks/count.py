"""The checks of notebook 6: the FLOPs of a run, rates and batches by memory, days of training."""

from smol import count
from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.exercise import SMALL, UNTIED, ask, exercise, expect_close, expect_equal

_COUNTED = (SmolLM2Config(), SMALL, UNTIED)


@exercise
def check_run_flops(run_flops):
    sizes = ((5000, 4, 256), (7, 3, 8), (1, 2, 1))
    for config, (steps, batch_size, seq_len) in zip(_COUNTED, sizes, strict=True):
        want = steps * batch_size * seq_len * count.flops_per_token(config, seq_len)
        got = ask(kind.number, run_flops, config, steps, batch_size, seq_len)
        said = f"{steps} steps of {batch_size} x {seq_len}, {config.num_hidden_layers} layers"
        expect_equal(got, want, said)


@exercise
def check_most_tokens(most_tokens):
    for config, length, bandwidth in zip(_COUNTED, (0, 500, 8192), (30e9, 1e12, 2e9), strict=True):
        read = count.checkpoint_bytes(config) + count.cache_bytes(config, length)
        got = ask(kind.number, most_tokens, config, length, bandwidth)
        said = f"{length} tokens in the cache, {bandwidth:.0e} B/s: the rate"
        expect_close(got, bandwidth / read, said)


@exercise
def check_largest_batch(largest_batch):
    weights, each = count.checkpoint_bytes(SMALL), count.cache_bytes(SMALL, 100)
    for spare, want in ((10 * each, 10), (10 * each - 1, 9), (each - 1, 0), (-weights // 2, 0)):
        got = ask(kind.number, largest_batch, SMALL, 100, weights + spare)
        said = f"memory for the weights and {spare / each:.1f} conversations"
        if spare < 0:
            said = "memory for half of the weights"
        expect_equal(got, want, said)


@exercise
def check_training_days(training_days):
    for tokens, chips, peak, rate, efficiency, want in (
        (86_400_000, 1, 1e15, 1000, 1.0, 1.0),
        (86_400_000, 8, 1e12, 1000, 0.5, 0.25),
        (2e12, 64, 989e12, 500_000, 0.9, 0.8038),
    ):
        got = ask(kind.number, training_days, tokens, chips, peak, rate, efficiency)
        what = f"{tokens:.0e} tokens, {chips} chips, {rate:,} tokens/s, efficiency {efficiency}:"
        expect_close(got, want, f"{what} the days")
