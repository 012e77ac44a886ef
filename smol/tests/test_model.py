"""The model against transformers': the same keys, the same numbers, the same mistakes refused."""

import ast
import inspect
import math
import random

import pytest
import torch
import torch.nn.functional as F

import smol.model
from smol import KVCache, SmolLM2, SmolLM2Config
from smol.model import eager_attention, sdpa_attention
from smol.pretrained import from_reference
from smol.tests.reference import random_ids, tiny_config, tiny_reference


def random_shape(seed: int) -> dict:
    draw = random.Random(seed)
    kv_heads, group, head_dim = draw.randint(1, 4), draw.randint(1, 4), 2 * draw.randint(2, 20)
    return {
        "vocab_size": draw.randint(50, 300),
        "hidden_size": kv_heads * group * head_dim,
        "intermediate_size": draw.randint(30, 200),
        "num_hidden_layers": draw.randint(1, 4),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-2]),
        "rope_theta": draw.choice([100.0, 10_000.0, 100_000.0, 130_000.0]),
        "tie_word_embeddings": draw.random() < 0.5,
    }


SHAPES = {
    "tiny": {},
    "mha": {"num_key_value_heads": 6},
    "mqa": {"num_key_value_heads": 1},
    "heads_of_135m": {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3},
    "heads_of_360m": {"hidden_size": 960, "num_attention_heads": 15, "num_key_value_heads": 5},
    "heads_of_size_10": {"hidden_size": 60},
    "untied": {"tie_word_embeddings": False},
    "theta_and_eps": {"rope_theta": 500.0, "rms_norm_eps": 0.1},
    **{f"random_{seed}": random_shape(seed) for seed in range(5)},
}


@pytest.fixture(
    scope="module",
    params=[(shape, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16)],
    ids=lambda p: f"{p[0]}-{str(p[1]).removeprefix('torch.')}",
)
def pair(request):
    shape, dtype = request.param
    reference = tiny_reference(dtype=dtype, **SHAPES[shape], max_position_embeddings=1200)
    return from_reference(reference), reference


@pytest.mark.parametrize(("B", "T"), [(1, 1), (1, 2), (1, 33), (2, 1), (2, 2), (2, 33), (2, 1101)])
def test_logits_are_transformers_to_the_bit(pair, B, T):
    ours, reference = pair
    ids = random_ids(B, T, vocab_size=ours.config.vocab_size)
    with torch.no_grad():
        got, expected = ours(ids), reference(ids, use_cache=False).logits
    assert got.dtype == expected.dtype == ours.norm.weight.dtype
    assert torch.equal(got, expected)


def test_with_two_threads_as_with_one():
    """Theirs to the bit; one thread's to the bit with those kernels only that sum in its order."""
    reference = tiny_reference(**SHAPES["heads_of_135m"])
    ours, ids = from_reference(reference), random_ids(2, 300)
    with torch.no_grad():
        one = ours(ids)
        torch.set_num_threads(2)
        try:
            two, theirs = ours(ids), reference(ids, use_cache=False).logits
        finally:
            torch.set_num_threads(1)
    assert torch.equal(two, theirs)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_transformers(shape):
    reference = tiny_reference(**SHAPES[shape])
    ours = from_reference(reference)
    ids = random_ids(2, 40, vocab_size=min(50, ours.config.vocab_size))
    reference(ids, labels=ids, use_cache=False).loss.backward()
    F.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = {k.removeprefix("model."): p.grad for k, p in reference.named_parameters()}
    got = {k: p.grad for k, p in ours.named_parameters()}
    assert got.keys() == expected.keys()
    for key, grad in expected.items():
        assert grad.abs().max() > 0, key
        assert (got[key] - grad).abs().max() <= 1e-5 * grad.abs().max(), key


# -- what it is made of -----------------------------------------------------------------------


def test_the_defaults_are_smollm2_135m():
    with torch.device("meta"):
        model = SmolLM2(SmolLM2Config())
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # a tied head counts once


def test_a_tied_head_is_the_embedding():
    model = SmolLM2(tiny_config())
    assert model.lm_head.weight is model.embed_tokens.weight
    assert model.lm_head.weight.data_ptr() == model.embed_tokens.weight.data_ptr()
    assert "lm_head.weight" not in dict(model.named_parameters())


def test_an_untied_head_is_a_parameter_of_its_own():
    model = SmolLM2(tiny_config(tie_word_embeddings=False))
    assert "lm_head.weight" in dict(model.named_parameters())
    assert not torch.equal(model.lm_head.weight, model.embed_tokens.weight)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}])
def test_keys_are_transformers_without_model(changes):
    reference = tiny_reference(**changes)
    expected = {k.removeprefix("model."): t.shape for k, t in reference.state_dict().items()}
    got = {k: t.shape for k, t in SmolLM2(tiny_config(**changes)).state_dict().items()}
    assert got == expected


def test_no_table_or_mask_is_saved(ours):
    assert not list(ours.buffers())
    assert {key.rpartition(".")[2] for key in ours.state_dict()} == {"weight"}


def test_the_meta_device_gives_shapes_without_memory():
    with torch.device("meta"):
        model, ids = SmolLM2(SmolLM2Config()), torch.zeros(2, 8192, dtype=torch.int64)
        assert model(ids).shape == (2, 8192, 49152)


def test_model_py_is_under_150_lines_of_code():
    source = inspect.getsource(smol.model)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    code = [t for n, t in lines if n not in docstrings and t.strip() and t.strip()[0] != "#"]
    assert 100 < len(code) < 150


# -- how it starts ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh_135m():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmolLM2(SmolLM2Config()).eval()


def test_weights_start_with_the_std_of_the_config(fresh_135m):
    for name, weight in fresh_135m.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.ones(576)), name
        else:  # the error of a std over n numbers is 1 / sqrt(2n) of it: 5 of those
            assert weight.std().item() == pytest.approx(
                1 / 24, rel=5 * (2 * weight.numel()) ** -0.5
            )
            assert abs(weight.mean().item()) < 5 / 24 * weight.numel() ** -0.5


def test_the_first_loss_is_ln_v_and_a_half(fresh_135m):
    """The head is the embedding, with std 1/sqrt(D): on a vector of length sqrt(D) the logits
    are N(0, 1), and the logarithm of the mean of exp of that is 1/2 (ln V alone says 10.80)."""
    ids = random_ids(2, 257, vocab_size=49152)
    with torch.no_grad():
        logits = fresh_135m(ids)[:, :-1].flatten(0, 1)
    loss = F.cross_entropy(logits, ids[:, 1:].flatten()).item()
    assert logits.std().item() == pytest.approx(1, abs=0.02)
    assert loss == pytest.approx(math.log(49152) + 0.5, abs=0.15)


def test_the_start_follows_the_seed():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(SmolLM2(tiny_config()).layers[0].mlp.up_proj.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# -- attention --------------------------------------------------------------------------------


def both_attentions(T: int, S: int, mask=None):
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, T, 8, generator=draw)
    k, v = (torch.randn(2, 2, S, 8, generator=draw) for _ in range(2))
    return eager_attention(q, k, v, mask), sdpa_attention(q, k, v, mask)


@pytest.mark.parametrize("T", [1, 2, 33])
def test_eager_attention_is_sdpa(T):
    torch.testing.assert_close(*both_attentions(T, T), rtol=0, atol=1e-5)


def test_eager_attention_is_sdpa_under_any_mask():
    mask = torch.rand(7, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[:, 0] = True  # a query that may see nothing has no answer
    masked, sdpa = both_attentions(7, 12, mask)
    torch.testing.assert_close(masked, sdpa, rtol=0, atol=1e-5)
    assert (masked - both_attentions(7, 12, torch.ones_like(mask))[0]).abs().max() > 0.1


def test_the_eager_model_is_the_sdpa_model(reference):
    ours, eager = from_reference(reference), from_reference(reference)
    eager.set_attn_implementation("eager")
    ids = random_ids(2, 300)
    with torch.no_grad():
        assert not torch.equal(eager(ids), ours(ids))  # so it is another computation
        torch.testing.assert_close(eager(ids), ours(ids), rtol=0, atol=1e-5)
        eager.set_attn_implementation("sdpa")
        assert torch.equal(eager(ids), ours(ids))


def test_unknown_attention_is_named(ours):
    with pytest.raises(ValueError, match=r"'flash' is not one of \['eager', 'sdpa'\]"):
        ours.set_attn_implementation("flash")


def test_the_future_does_not_reach_back(ours):
    ids, changed = random_ids(1, 30), random_ids(1, 30)
    changed[0, -1] = (changed[0, -1] + 1) % 97
    with torch.no_grad():
        before, after = ours(ids), ours(changed)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_compiled_in_one_graph_it_says_the_same(ours):
    ids = random_ids(1, 20)
    with torch.no_grad():
        compiled = torch.compile(ours, backend="eager", fullgraph=True)
        assert torch.equal(compiled(ids), ours(ids))


class NumberedBlock(smol.model.Block):
    """A block that reads a number of its own, as ours did when it carried its layer's."""

    def forward(self, *args):
        return super().forward(*args) * (1 + 0 * self.number)


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_one_compilation_serves_every_block(reference, numbered, cached):
    """With a cache too: a block is handed its part. A number in the block costs one for each."""
    model, graphs = from_reference(reference), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for number, layer in enumerate(model.layers):
        if numbered:
            layer.__class__, layer.number = NumberedBlock, number
        layer.compile(backend=backend, fullgraph=True, dynamic=False)
    ids = random_ids(1, 8)
    with torch.no_grad():
        logits = model(ids, model.new_cache(1, 8) if cached else None)
        assert torch.equal(logits, from_reference(reference)(ids))
    torch._dynamo.reset()
    assert len(graphs) == (len(model.layers) if numbered else 1)


# -- the cache --------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "sizes",
    [[1] * 40, [40], [13, 27], [1, 9, 1, 1, 28], [20] + [1] * 20],
    ids=["one_by_one", "whole", "two_chunks", "uneven_chunks", "prefill_and_decode"],
)
def test_cached_logits_are_the_uncached(reference, sizes, attention):
    ours = from_reference(reference)
    ours.set_attn_implementation(attention)
    ids = random_ids(2, 40)
    cache, lengths = ours.new_cache(2, 40), []
    with torch.no_grad():
        parts = []
        for piece in ids.split(sizes, dim=1):
            parts.append(ours(piece, cache))
            lengths.append(cache.length)
        torch.testing.assert_close(torch.cat(parts, 1), ours(ids), rtol=0, atol=1e-5)
    assert lengths == [sum(sizes[: i + 1]) for i in range(len(sizes))]


@pytest.mark.parametrize("shape", ["tiny", "mha", "mqa", "untied", "theta_and_eps"])
def test_cached_greedy_text_is_transformers(shape):
    reference = tiny_reference(**SHAPES[shape], initializer_range=0.3)
    ours = from_reference(reference)
    prompt, new = random_ids(2, 7), 60
    expected = reference.generate(prompt, do_sample=False, max_new_tokens=new)
    cache, text = ours.new_cache(2, 7 + new), prompt
    with torch.no_grad():
        for _ in range(new):
            logits = ours(text[:, cache.length :], cache)
            text = torch.cat((text, logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(text, expected)
    assert all(len(set(row.tolist())) > 10 for row in text[:, 7:])  # one token would prove little


def test_reset_forgets_everything(ours):
    cache, fresh = ours.new_cache(1, 12), ours.new_cache(1, 12)
    first, second = random_ids(1, 12, seed=1), random_ids(1, 9, seed=2)
    with torch.no_grad():
        ours(first, cache)
        cache.reset()
        assert cache.length == 0
        assert torch.equal(ours(second, cache), ours(second, fresh))


def test_a_new_cache_is_of_the_models_dtype_and_context(ours):
    cache = from_reference(tiny_reference(dtype=torch.bfloat16)).new_cache(3)
    assert cache.k.dtype == cache.v.dtype == torch.bfloat16
    assert cache.max_length == 512 and cache.length == 0
    assert cache.k.shape == (3, 3, 2, 512, 8)  # layers, batch, kv heads, tokens, head dim


def test_no_gradient_goes_through_the_cache(ours):
    cache = ours.new_cache(1, 8)
    ours(random_ids(1, 8), cache)
    assert not cache.k.requires_grad and not cache.v.requires_grad


# -- a user's mistakes: one clear sentence, no stack trace from inside torch --------------------


@pytest.mark.parametrize(
    "ids, message",
    [
        (torch.tensor([[3, 97]]), r"id 97 is outside the vocabulary \(0 to 96\)"),
        (torch.tensor([[3, 10**12]]), "id 1000000000000 is outside"),
        (torch.tensor([[3, -1]]), "id -1 is outside the vocabulary"),
        (torch.tensor([[3, -100]]), "id -100 is outside the vocabulary"),
        (torch.tensor([3, 4]), r"must be \(B, T\) int64, got \(2,\) torch.int64"),
        (torch.tensor([[[3]]]), r"got \(1, 1, 1\) torch.int64"),
        (torch.tensor([[3.0]]), r"got \(1, 1\) torch.float32"),
        (torch.tensor([[3]], dtype=torch.int32), r"got \(1, 1\) torch.int32"),
        (torch.zeros(1, 0, dtype=torch.int64), r"got \(1, 0\) torch.int64"),
        (torch.zeros(0, 4, dtype=torch.int64), r"got \(0, 4\) torch.int64"),
        (random_ids(1, 513), "513 tokens do not fit a context of 512"),
        ([[3, 4]], r"must be \(B, T\) int64, got .*list"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_bad_ids_are_named(ours, ids, message):
    with pytest.raises(ValueError, match=message):
        ours(ids)


def test_the_whole_context_can_be_used(ours):
    with torch.no_grad():
        assert ours(random_ids(1, 512)).shape == (1, 512, 97)


def test_text_beyond_the_cache_is_refused_and_the_cache_still_works(ours):
    cache, ids = ours.new_cache(1, 10), random_ids(1, 10)
    with torch.no_grad():
        ours(ids[:, :8], cache)
        with pytest.raises(ValueError, match="11 tokens do not fit a cache of 10"):
            ours(ids[:, :3], cache)
        last = ours(ids[:, 8:], cache)[:, -1]
        torch.testing.assert_close(last, ours(ids)[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, -1, 513, 10**9])
def test_an_impossible_cache_length_is_named(length):
    with pytest.raises(ValueError, match=f"max_length must be .*, got {length}"):
        KVCache(tiny_config(), 1, length)


def test_a_new_cache_of_no_tokens_is_not_a_cache_of_all(ours):
    with pytest.raises(ValueError, match="max_length must be 1 or more, got 0"):
        ours.new_cache(1, 0)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_named(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be 1 or more, got {batch_size}"):
        KVCache(tiny_config(), batch_size, 8)


@pytest.mark.parametrize("held, given", [(2, 1), (1, 2)])
def test_a_cache_of_another_batch_size_is_named(ours, held, given):
    with pytest.raises(ValueError, match=f"{held}.*{given}|{given}.*{held}"):
        ours(random_ids(given, 4), ours.new_cache(held, 8))


@pytest.mark.parametrize(
    "cache, message",
    [
        (KVCache(tiny_config(), 1, 8, dtype=torch.bfloat16), "bfloat16"),
        (KVCache(tiny_config(num_hidden_layers=2), 1, 8), "cache"),
        (KVCache(tiny_config(num_key_value_heads=3), 1, 8), "cache"),
    ],
    ids=["dtype", "layers", "heads"],
)
def test_a_cache_of_another_model_is_refused(ours, cache, message):
    with pytest.raises(ValueError, match=message):
        ours(random_ids(1, 4), cache)
