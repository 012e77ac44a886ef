"""Generation against transformers: greedy ids, each reshaping of the logits, what is drawn."""

import copy
import dataclasses
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from smol import BPETokenizer, SmolLM2, load_pretrained, save_pretrained
from smol.generate import __main__ as command
from smol.generate import (
    chat,
    fast,
    generate,
    generate_steps,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    left_pad,
    penalise,
    prepare_for_decoding,
    reshape,
    stream,
)
from smol.generate import steps as stepping
from smol.generate import text as writing
from smol.pretrained import SHIPPED, from_reference
from smol.tests.reference import REAL, needs_real, tiny_config, tiny_reference
from smol.tests.test_model import random_shape


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(50, (3, 9))


@pytest.fixture(scope="module")
def shipped() -> SmolLM2:
    return load_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.load(SHIPPED)


def greedy_of_transformers(model, ids, penalty=1.0, attention_mask=None, new=30) -> torch.Tensor:
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids) if attention_mask is None else attention_mask,
        max_new_tokens=new,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )


def prompts_of_unequal_length(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = random.Random(seed)
    return left_pad([[draw.randrange(50) for _ in range(n)] for n in (3, 11, 1, 7)])


# -- greedy ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_ids_equal_transformers(ours, reference, ids, use_cache, penalty):
    theirs = greedy_of_transformers(reference, ids, penalty)
    settings = {"repetition_penalty": penalty, "use_cache": use_cache}
    assert torch.equal(generate(ours, ids, 30, **settings), theirs)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_ids_of_random_shapes_alone_and_padded(seed):
    reference = tiny_reference(seed, **random_shape(seed))
    ours = from_reference(reference)
    ids, mask = prompts_of_unequal_length(seed)
    theirs = greedy_of_transformers(reference, ids, attention_mask=mask)
    cached = generate(ours, ids, 30, attention_mask=mask)
    assert torch.equal(cached, theirs)
    assert torch.equal(generate(ours, ids, 30, attention_mask=mask, use_cache=False), theirs)
    for row, real in zip(cached, mask, strict=True):
        prompt = row[: len(real)][real.bool()]
        alone = generate(ours, prompt[None], 30)[0]
        assert torch.equal(alone, row[-len(alone) :])


def test_greedy_ids_of_the_shipped_model(shipped, tokenizer):
    reference = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    texts = ("The", "Nobody in Dripping Hill", "There was once a detective called Gus, whose", "A")
    prompts = [[tokenizer.eos_id, *tokenizer.encode(text)] for text in texts]
    ids, mask = left_pad(prompts)
    theirs = greedy_of_transformers(reference, ids, attention_mask=mask, new=100)
    assert torch.equal(generate(shipped, ids, 100, attention_mask=mask), theirs)
    for prompt, row in zip(prompts, theirs, strict=True):
        for use_cache in (True, False):
            alone = generate(shipped, torch.tensor([prompt]), 100, use_cache=use_cache)[0]
            assert torch.equal(alone, row[-len(alone) :])


def test_padding_is_not_penalised(ours):
    ids, mask = prompts_of_unequal_length(0)
    settings = {"attention_mask": mask, "repetition_penalty": 1.7}
    padded = generate(ours, ids, 20, **settings)
    for row, real in zip(padded, mask, strict=True):
        prompt = row[: len(real)][real.bool()]
        alone = generate(ours, prompt[None], 20, repetition_penalty=1.7)[0]
        assert torch.equal(alone, row[-len(alone) :])


@pytest.mark.parametrize("bug", ["positions", "mask"])
def test_wrong_positions_or_mask_give_other_ids(shipped, tokenizer, monkeypatch, bug):
    """The comparison of padded rows can fail: for each half of the layout alone."""
    prompts = [tokenizer.encode(text) for text in ("The", "There was once a detective called Gus")]
    ids, mask = left_pad(prompts)
    right = generate(shipped, ids, 30, attention_mask=mask)
    layout = stepping.padded_layout

    def wrong(real, T):
        positions, sees = layout(real, T)
        S = real.size(1)
        if bug == "positions":  # the padded rows' tokens stand farther apart
            return positions * 2, sees
        return positions, stepping.causal_mask(T, S).expand(sees.shape)

    monkeypatch.setattr(stepping, "padded_layout", wrong)
    assert not torch.equal(generate(shipped, ids, 30, attention_mask=mask), right)


def test_one_turned_matrix_gives_other_ids(reference, ids):
    """The comparison of greedy ids can fail."""
    broken = from_reference(reference)
    broken.layers[0].self_attn.k_proj.weight.data.mul_(-1)
    assert not torch.equal(generate(broken, ids, 30), greedy_of_transformers(reference, ids))


def test_with_the_cache_every_token_is_read_once(ours, ids, monkeypatch):
    read = []
    embed = ours.embed_tokens.forward
    monkeypatch.setattr(ours.embed_tokens, "forward", lambda x: read.append(x.size(1)) or embed(x))
    generate(ours, ids, 5)
    assert read == [9, 1, 1, 1, 1]
    read.clear()
    generate(ours, ids, 5, use_cache=False)
    assert read == [9, 10, 11, 12, 13]


def test_only_the_last_logits_are_computed(ours, ids, monkeypatch):
    seen = []
    head = ours.lm_head.forward
    monkeypatch.setattr(ours.lm_head, "forward", lambda x: seen.append(x.shape) or head(x))
    generate(ours, ids, 3)
    assert seen == [(3, ours.config.hidden_size)] * 3


# -- the filters, exactly -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_reshaped_logits_equal_transformers(seed):
    torch.manual_seed(seed)
    logits, ids = torch.randn(4, 60) * 3, torch.randint(60, (4, 12))
    logits[0, 5:9] = logits[0].max()  # ties
    for k in (1, 2, 7, 60, 1000):
        assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(ids, logits))
    for p in (0.01, 0.5, 0.9, 0.999):
        assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
    for p in (0.0, 0.01, 0.3, 1.0):
        assert torch.equal(keep_min_p(logits, p), MinPLogitsWarper(p)(ids, logits))
    four = torch.zeros(1, 4)  # sums of exactly 0.25, 0.5, 0.75: what lies on the border
    for p in (0.25, 0.5, 0.75, 1e-9):
        assert torch.equal(keep_top_p(four, p), TopPLogitsWarper(p)(None, four))
    assert torch.equal(keep_min_p(four, 1.0), MinPLogitsWarper(1.0)(None, four))
    for penalty in (0.7, 1.0, 1.5):
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
        assert torch.equal(penalise(logits, ids, penalty), theirs)


COMBINATIONS = {
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 3.0},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.2},
    "penalty": {"repetition_penalty": 1.8},
    "all": {
        "temperature": 1.4,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
    },
}


def processors_of_transformers(model, settings: dict) -> LogitsProcessorList:
    """In the order that transformers' own generate puts them in."""
    config = GenerationConfig(do_sample=True, **{"temperature": 1.0, "top_k": 0, **settings})
    model._prepare_special_tokens(config, False, device=torch.device("cpu"))
    return model._get_logits_processor(config, 9)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combined_filters_equal_transformers(reference, name):
    torch.manual_seed(1)
    logits, ids = torch.randn(4, 97) * 3, torch.randint(97, (4, 12))
    settings = COMBINATIONS[name]
    theirs = processors_of_transformers(reference, settings)
    assert len(theirs) == len(settings)
    assert torch.equal(reshape(logits, ids, **settings), theirs(ids, logits.clone()))


def test_the_order_of_the_filters_matters():
    """The comparison of combined filters can fail."""
    torch.manual_seed(1)
    logits = torch.randn(4, 97) * 3
    one = keep_top_p(keep_top_k(logits, 5), 0.8)
    other = keep_top_k(keep_top_p(logits, 0.8), 5)
    assert not torch.equal(one, other)


# -- what is drawn --------------------------------------------------------------------------------


def chi_squared(counts: torch.Tensor, p: torch.Tensor) -> float:
    """By how many standard deviations the counts are off, where p is right."""
    expected = p * counts.sum()
    often = expected >= 5
    chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum().item()
    degrees = int(often.sum()) - 1
    return (chi2 - degrees) / (2 * degrees) ** 0.5


@pytest.mark.parametrize("name", COMBINATIONS)
def test_drawn_tokens_follow_the_distribution(reference, ids, name):
    """20,000 tokens against the distribution that transformers' processors leave."""
    model = from_reference(reference)
    model.norm.weight.data.mul_(8)  # logits of a standard deviation of about 2.4
    ids, settings = ids[:1, 5:], {"temperature": 1.0, **COMBINATIONS[name]}
    generator = torch.Generator().manual_seed(1)
    drawn = generate(model, ids, 1, num_return_sequences=20_000, generator=generator, **settings)
    counts = torch.bincount(drawn[:, -1], minlength=model.config.vocab_size).float()
    with torch.no_grad():
        logits = model(ids)[:, -1]
    processors = processors_of_transformers(reference, settings)
    p = processors(ids, logits.clone())[0].softmax(-1)
    assert counts[p == 0].sum() == 0
    assert abs(chi_squared(counts, p)) < 4
    settings["temperature"] *= 1.15
    processors = processors_of_transformers(reference, settings)
    wrong = processors(ids, logits.clone())[0].softmax(-1)
    assert abs(chi_squared(counts, wrong)) > 4  # the test can fail


def test_a_generator_makes_draws_repeat(ours, ids):
    runs = [
        generate(ours, ids, 12, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_several_samples_of_each_prompt(ours):
    ids, mask = prompts_of_unequal_length(2)
    settings = {"temperature": 1.0, "generator": torch.Generator().manual_seed(0)}
    drawn = generate(ours, ids, 8, num_return_sequences=3, attention_mask=mask, **settings)
    assert drawn.shape == (12, ids.size(1) + 8)
    assert torch.equal(drawn[:, : ids.size(1)], ids.repeat_interleave(3, dim=0))
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("use_cache", [True, False])
def test_log_probabilities_are_the_models_own(ours, use_cache):
    """Before temperature and filters; of padded rows too; 0 for a row that has ended."""
    ids, mask = prompts_of_unequal_length(3)
    settings = {"temperature": 0.5, "top_k": 3, "generator": torch.Generator().manual_seed(0)}
    steps = list(
        generate_steps(ours, ids, 9, attention_mask=mask, use_cache=use_cache, **settings)
    )
    new = torch.stack([step.ids for step in steps], dim=1)
    got = torch.stack([step.logprobs for step in steps], dim=1)
    for b, real in enumerate(mask.bool()):
        row = torch.cat((ids[b][real], new[b]))[None]
        with torch.no_grad():
            want = ours(row)[0].log_softmax(-1)[-10:-1].gather(1, new[b][:, None])[:, 0]
        assert torch.allclose(got[b], want, atol=1e-5)
    stop = new[0, 0].item()
    settings["generator"].manual_seed(0)
    steps = list(generate_steps(ours, ids, 9, attention_mask=mask, stop_ids=[stop], **settings))
    assert steps[0].logprobs[0] < 0
    assert all(step.logprobs[0] == 0 and step.ids[0] == stop for step in steps[1:])


# -- where it ends --------------------------------------------------------------------------------


def test_rows_end_at_a_stop_id(ours, ids):
    free = generate(ours, ids, 20)
    stop = free[0, 12].item()
    ended = generate(ours, ids, 20, stop_ids=[stop])
    for row, whole in zip(ended, free, strict=True):
        new = whole[9:].tolist()
        at = new.index(stop) + 1 if stop in new else 20
        assert row[9 : 9 + at].tolist() == new[: min(at, ended.size(1) - 9)]
        assert set(row[9 + at :].tolist()) <= {stop}
    alone = generate(ours, ids[:1], 20, stop_ids=[stop])
    assert alone[0, -1] == stop and alone.size(1) <= 13


def test_a_text_too_long_is_refused(ours, ids):
    room = ours.config.max_position_embeddings
    with pytest.raises(ValueError, match=f"do not fit a context of {room}: ask for 1 to 503"):
        generate(ours, ids, room)
    long = ids[:1].repeat(1, room)
    with pytest.raises(ValueError, match=r"4608 tokens .* shorten the prompt, or let it slide"):
        generate(ours, long, 1)
    assert generate(ours, ids[:1], room - 9).size(1) == room  # the last that fits


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("length", [3, 20, 45])
def test_past_the_context_the_newer_half_is_read_again(use_cache, length):
    room = 20
    model = from_reference(tiny_reference(max_position_embeddings=room))
    torch.manual_seed(2)
    ids = torch.randint(97, (2, length))
    got = generate(model, ids, 60, slide=True, use_cache=use_cache)
    text = ids
    for _ in range(60):
        window = text
        while window.size(1) > room:
            window = window[:, room // 2 :]
        with torch.no_grad():
            text = torch.cat((text, model(window)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(got, text)


# -- text -----------------------------------------------------------------------------------------


def test_streamed_pieces_are_the_decoded_ids_and_never_half_a_character(tokenizer):
    """An untrained model writes bytes without sense, and characters that they make by luck."""
    torch.manual_seed(0)
    model = SmolLM2(tiny_config(vocab_size=len(tokenizer)))
    prompt = tokenizer.encode("é ☕")
    for seed in range(5):
        settings = {"temperature": 1.0, "stop_ids": ()}
        new = {"generator": torch.Generator().manual_seed(seed), **settings}
        pieces = list(stream(model, tokenizer, prompt, 80, **new))
        again = {"generator": torch.Generator().manual_seed(seed), **settings}
        drawn = generate(model, torch.tensor([prompt]), 80, **again)[0, len(prompt) :]
        assert "".join(pieces) == tokenizer.decode(drawn.tolist(), skip_special_tokens=True)
        assert len(pieces) > 20 and all(pieces)


def test_a_character_of_many_tokens_comes_in_one_piece(tokenizer, monkeypatch):
    ids = tokenizer.encode("A cup: ☕!")
    assert len(tokenizer.encode("☕")) > 1

    def steps(*args, **kwargs):
        yield from (stepping.Step(torch.tensor([i]), torch.zeros(1)) for i in ids)

    monkeypatch.setattr(writing, "generate_steps", steps)
    model = SmolLM2(tiny_config(vocab_size=len(tokenizer)))
    pieces = list(stream(model, tokenizer, "x", 9))
    assert "☕" in pieces and "".join(pieces) == "A cup: ☕!"


@pytest.mark.parametrize("seed", range(20))
def test_stop_strings_end_the_text_wherever_the_tokens_break(seed):
    """Against `str.find`: cut at the one that is complete first; nothing of it was shown."""
    draw = random.Random(seed)
    text = "".join(draw.choice("ab.") for _ in range(60))
    stop = ["".join(draw.choice("ab.") for _ in range(draw.randint(1, 5))) for _ in range(2)]
    pieces = []
    while rest := text[sum(map(len, pieces)) :]:
        pieces.append(rest[: draw.randint(1, 4)])
    shown = list(writing.until(iter(pieces), stop))
    found = [(at + len(s), at) for s in stop if (at := text.find(s)) >= 0]
    assert "".join(shown) == text[: min(found, default=(0, len(text)))[1]]
    assert all(shown)


def test_what_cannot_be_a_stop_string_is_shown_at_once():
    def pieces():
        yield "ab"
        raise AssertionError("asked for the next piece before showing this one")

    assert next(writing.until(pieces(), ["xyz", "c"])) == "ab"


def test_a_stop_string_that_never_comes_stops_nothing(shipped, tokenizer):
    free = "".join(stream(shipped, tokenizer, "The", 30, stop_ids=()))
    assert "".join(stream(shipped, tokenizer, "The", 30, stop_ids=(), stop=["☕"])) == free
    cut = "".join(stream(shipped, tokenizer, "The", 30, stop_ids=(), stop=[free[9:12]]))
    assert cut == free[: free.find(free[9:12])]


def test_a_stream_ends_at_the_end_of_text(shipped, tokenizer):
    settings = {"temperature": 1.0, "generator": torch.Generator().manual_seed(0)}
    story = "".join(stream(shipped, tokenizer, [tokenizer.eos_id], 400, **settings))
    assert "<|endoftext|>" not in story and 100 < len(tokenizer.encode(story)) < 400


@pytest.mark.parametrize("several", [False, True])
def test_a_stream_ends_where_the_config_says(shipped, tokenizer, tmp_path, several):
    """As transformers' generate does with the same folder. An Instruct model says <|im_end|>,
    which is hidden from the text: going on, it would invent the next turns unseen."""
    model, end = copy.deepcopy(shipped), tokenizer.special_tokens["<|im_end|>"]
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode("Once")]])
    with torch.no_grad():  # after eight tokens more it says <|im_end|>
        hidden = model(generate(model, ids, 8), head=False)[0, -1]
        model.embed_tokens.weight[end] = hidden * 2
    ends = [end, 5] if several else end
    model.config = dataclasses.replace(model.config, eos_token_id=ends)
    save_pretrained(model, tmp_path)
    tokenizer.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    new = theirs.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.size(1) :].tolist()
    assert 1 <= len(new) < 40 and new[-1] == end
    ours = load_pretrained(tmp_path)
    taken, steps = [], writing.generate_steps

    def counted(*arguments, **settings):
        for step in steps(*arguments, **settings):
            taken.append(step.ids.item())
            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "generate_steps", counted)
        text = "".join(stream(ours, tokenizer, ids, 40))
        assert (taken, text) == (new, tokenizer.decode(new, skip_special_tokens=True))
        taken.clear()
        "".join(stream(ours, tokenizer, ids, 40, stop_ids=()))
        assert len(taken) == 40  # whoever says so gets them all


def test_what_ends_a_text():
    plain = BPETokenizer.train(["a text"], 256)
    named = BPETokenizer(plain.vocab, plain.merges, {"</s>": 300, "<|endoftext|>": 301})
    bytes_only = {"vocab_size": 400, "eos_token_id": None}
    for eos, tokenizer, want in (
        (300, named, [300, 301]),
        ([300, 301], named, [300, 301]),
        (None, named, [301]),
        (300, plain, [300]),
    ):
        model = SmolLM2(tiny_config(**{**bytes_only, "eos_token_id": eos}))
        assert writing.ends_of(model, tokenizer) == want
    with pytest.raises(ValueError, match=r"neither the config .* names an end of text: give stop"):
        next(stream(SmolLM2(tiny_config(**bytes_only)), plain, "a", 3))


def test_chat_asks_by_the_template_and_ends_at_its_token(tokenizer, monkeypatch):
    asked = {}

    def steps(model, input_ids, max_new_tokens, **settings):
        asked.update(settings, ids=input_ids.tolist())
        yield from (
            stepping.Step(torch.tensor([i]), torch.zeros(1)) for i in tokenizer.encode("Hi")
        )

    monkeypatch.setattr(writing, "generate_steps", steps)
    messages = [{"role": "user", "content": "Who are you?"}]
    model = SmolLM2(tiny_config(vocab_size=len(tokenizer)))
    assert "".join(chat(model, tokenizer, messages, 9, top_k=3)) == "Hi"
    assert asked["ids"] == [tokenizer.apply_chat_template(messages, add_generation_prompt=True)]
    ends = [tokenizer.special_tokens[text] for text in ("<|im_end|>", "<|endoftext|>")]
    assert asked["stop_ids"] == ends and asked["top_k"] == 3


# -- prepared for a CPU ---------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}])
def test_a_model_prepared_for_decoding_is_the_same_model(
    changes, threads, ids, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(fast, "columns_pay", lambda *trial: True)
    reference = tiny_reference(**changes)
    ours = prepare_for_decoding(from_reference(reference))
    head, table = ours.lm_head.weight, ours.embed_tokens.weight
    assert (head is table) == ours.config.tie_word_embeddings
    assert not ours.layers[0].mlp.up_proj.weight.is_contiguous()
    with torch.no_grad():
        for text in (ids, ids[:1, :1]):
            want = reference(text).logits
            assert (ours(text) - want).abs().max() < 1e-5 * want.abs().max()
    for text in (ids, ids[:1]):
        assert torch.equal(generate(ours, text, 30), greedy_of_transformers(reference, text))
    save_pretrained(ours, tmp_path)
    for key, tensor in load_pretrained(tmp_path).state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[key])


def test_each_thread_makes_a_part_of_the_outputs(monkeypatch, ours):
    """Of one token; where the parts would be unequal, and for more tokens, the usual way."""
    shapes = []
    product = torch.baddbmm
    noted = lambda o, a, b, beta: shapes.append(b.shape) or product(o, a, b, beta=beta)  # noqa: E731
    monkeypatch.setattr(torch, "baddbmm", noted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(fast, "columns_pay", lambda *trial: True)
    layer = prepare_for_decoding(copy.deepcopy(ours)).layers[0].mlp
    with torch.no_grad():
        layer.up_proj(torch.randn(1, 1, 48))
        assert shapes == [(2, 48, 40)]
        layer.up_proj(torch.randn(1, 2, 48))
        layer.up_proj(torch.randn(2, 1, 48))
        layer.up_proj.threads = 3
        layer.up_proj(torch.randn(1, 1, 48))
    assert shapes == [(2, 48, 40)]


@pytest.mark.parametrize("slower", ["rows", "columns", "neither"])
def test_a_trial_decides_for_each_shape(monkeypatch, ours, ids, slower):
    """On a made-up clock: a product with the up projection takes longer one of the two ways."""
    clock, product = [0.0], fast.product

    def timed(x, weight, threads):
        way = "columns" if weight.stride(0) == 1 else "rows"
        slow = weight.shape == (80, 48) and way == slower
        clock[0] += 1.2 if slow else 1.0 if weight.shape == (80, 48) or way == "rows" else 0.95
        return product(x, weight, threads)

    monkeypatch.setattr(fast, "product", timed)
    monkeypatch.setattr(fast, "perf_counter", lambda: clock[0])
    model = prepare_for_decoding(copy.deepcopy(ours))
    made = [name for name, m in model.named_modules() if isinstance(m, fast.ColumnLinear)]
    layers = range(ours.config.num_hidden_layers)
    both = [f"layers.{i}.mlp.{name}_proj" for i in layers for name in ("gate", "up")]
    assert made == (both if slower == "rows" else [])  # a gain of a twentieth may be chance
    assert all(p.stride(0) != 1 for n, p in model.named_parameters() if "down" in n)
    assert torch.equal(generate(model, ids[:1], 20), generate(ours, ids[:1], 20))
    monkeypatch.setattr(fast, "columns_pay", lambda *trial: False)
    prepare_for_decoding(model)  # on another processor, say
    assert not any(isinstance(m, fast.ColumnLinear) for m in model.modules())
    assert all(p.is_contiguous() for p in model.parameters())


def test_what_is_no_plain_linear_is_not_prepared(monkeypatch, ours):
    class Other(torch.nn.Linear):
        pass

    monkeypatch.setattr(fast, "columns_pay", lambda *trial: True)
    model = copy.deepcopy(ours)
    model.layers[0].mlp.up_proj = Other(48, 80, bias=False)
    model.layers[0].mlp.gate_proj = torch.nn.Linear(48, 80)
    prepare_for_decoding(model)
    mlp = model.layers[0].mlp
    assert [type(m) for m in mlp.children()] == [torch.nn.Linear, Other, fast.ColumnLinear]


def test_the_trial_reads_more_than_a_cache_holds(monkeypatch):
    """Of small weights as many as make up ENOUGH, of a large one itself."""
    seen = []
    monkeypatch.setattr(fast, "product", lambda x, weight, threads: seen.append(weight))
    monkeypatch.setattr(fast, "ENOUGH", 4 * 600 * 3)
    fast.columns_pay([torch.ones(20, 30) for _ in range(9)], 2)
    assert len(seen) == 2 * 3 * 3
    seen.clear()
    fast.columns_pay([torch.ones(200, 300)], 2)
    assert len(seen) == 2 * 3


# -- what a user may get wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "top_p must be above 0"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1"),
        ({"min_p": 1.5}, "min_p must be from 0 to 1"),
        ({"temperature": 1e-38}, r"temperature must be 0 \(greedy\) or at least 1e-15, got 1e-38"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be from 1e-15 to 1e\+15"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty must be from .*, got 1e-40"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be from .*, got nan"),
        ({"num_return_sequences": 0}, "num_return_sequences must be 1 or more"),
        ({"attention_mask": [[1] * 9] * 3}, r"attention_mask must be a \(B, T\) tensor, got list"),
        ({"attention_mask": torch.ones(3, 8)}, "attention_mask is"),
        ({"attention_mask": torch.zeros(3, 9)}, "not on its left, or there is nothing else"),
        ({"attention_mask": torch.ones(3, 9).tril(7)}, "not on its left"),
        ({"attention_mask": torch.tensor([[1, 0] + [1] * 7] * 3)}, "not on its left"),
    ],
)
def test_bad_settings_are_refused(ours, ids, settings, message):
    for count in (1, 2):  # of which the second repeats the rows first
        with pytest.raises(ValueError, match=message):
            generate(ours, ids, 3, **{"num_return_sequences": count, **settings})


def test_the_smallest_settings_are_drawn_by(ours, ids):
    """Together they leave logits of 1e30 and more; a temperature so small takes the likeliest."""
    smallest = {"temperature": 1e-15, "generator": torch.Generator().manual_seed(0)}
    assert torch.equal(generate(ours, ids, 5, **smallest), generate(ours, ids, 5))
    for penalty in (1e-15, 1e15):
        assert generate(ours, ids, 5, repetition_penalty=penalty, **smallest).shape == (3, 14)


def test_reshape_refuses_what_it_cannot_divide_by(ids):
    for settings, message in (
        ({"temperature": 0}, "temperature 0 draws nothing: take the argmax"),
        ({"temperature": 1e-38}, "temperature must be 0"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty must be from"),
    ):
        with pytest.raises(ValueError, match=message):
            reshape(torch.randn(3, 97), ids, **settings)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), "the prompt is empty: give at least one token"),
        (torch.tensor([3, 4]), r"must be a \(B, T\) int64 tensor, got \(2,\) torch.int64"),
        (torch.tensor([[3.0]]), r"got \(1, 1\) torch.float32"),
        ([[3]], "got list"),
        (torch.tensor([[3, 97]]), r"id 97 is outside the vocabulary \(0 to 96\): is it the token"),
        (torch.tensor([[-5, 3]]), "id -5 is outside the vocabulary"),
    ],
)
def test_bad_prompts_are_refused(ours, prompt, message):
    for count in (1, 2):
        with pytest.raises(ValueError, match=message):
            generate(ours, prompt, 3, num_return_sequences=count)
    with pytest.raises(ValueError, match="max_new_tokens must be 1 or more, got 0"):
        generate(ours, torch.tensor([[3]]), 0)


def test_what_is_on_another_device_is_refused(ids):
    model = SmolLM2(tiny_config()).to("meta")
    with pytest.raises(ValueError, match="input_ids are on cpu, the model on meta"):
        generate(model, ids, 3)


def test_empty_prompts_of_a_batch_are_refused():
    for prompts in ([], [[1], []]):
        with pytest.raises(ValueError, match="no prompt, or an empty one"):
            left_pad(prompts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(reference, ids, value, temperature):
    broken = from_reference(reference)
    broken.norm.weight.data[3] = value
    with pytest.raises(ValueError, match="the logits after 9 tokens are NaN or infinite"):
        generate(broken, ids, 3, temperature=temperature)


def test_bad_stop_strings_are_refused(shipped, tokenizer):
    for stop in ("end", ["end", ""]):
        with pytest.raises(ValueError, match="stop must be a list of strings"):
            next(stream(shipped, tokenizer, "The", 3, stop=stop))
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(stream(shipped, tokenizer, "", 3))


def test_a_tokenizer_without_the_templates_tokens_cannot_chat(ours):
    plain = BPETokenizer.train(["a text"], 257)
    with pytest.raises(ValueError, match=r"this tokenizer has no <\|im_start\|>"):
        chat(ours, plain, [{"role": "user", "content": "Hi"}], 3)


# -- the command ----------------------------------------------------------------------------------


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["smol.generate", *arguments])
    return command.main()


def test_the_command_writes_a_story_and_warns_of_nothing():
    command = [sys.executable, "-m", "smol.generate", "The mouse", "--seed", "1"]
    command += ["--max-new-tokens", "20", "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.startswith("The mouse") and len(done.stdout) > 30
    assert done.stderr == ""


def test_a_seed_repeats_samples_differ_and_stops_are_heeded(monkeypatch, capsys):
    long = ("The", "--max-new-tokens", "60", "--device", "cpu")  # titles alone may well be equal
    texts = []
    for extra in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"], [], []):
        assert run(monkeypatch, *long, *extra) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(set(texts)) == 4
    common = ("The", "--max-new-tokens", "25", "--device", "cpu", "--stop", "\n")
    assert run(monkeypatch, *common, "--seed", "1") == 0
    first = capsys.readouterr().out
    assert texts[0].startswith(first) and first.count("\n") == 1
    assert run(monkeypatch, *common, "--seed", "1", "--samples", "3") == 0
    lines = capsys.readouterr().out.splitlines(keepends=True)
    assert len(lines) == 3 and lines[0] == first and lines[1] != lines[2]


def test_the_shipped_model_by_name_is_the_default(monkeypatch, capsys):
    """Its stories begin after an end of text, under whatever name it was asked for."""
    monkeypatch.chdir(SHIPPED.parents[1])
    texts = []
    for extra in ([], ["--model=assets/smol-stories"], [f"--model={SHIPPED}/../smol-stories"]):
        given = ("Mia found a", "--max-new-tokens", "9", "--device", "cpu", "--seed", "1", *extra)
        assert run(monkeypatch, *given) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]


def test_a_conversation_remembers_what_was_said(monkeypatch, capsys):
    lines = iter(["Hello", "", "Again"])

    def typed(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    asked = []
    template = BPETokenizer.apply_chat_template

    def noted(self, messages, **settings):
        if [dict(m) for m in messages] not in asked:
            asked.append([dict(m) for m in messages])
        return template(self, messages, **settings)

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(BPETokenizer, "apply_chat_template", noted)
    shipped = ("--model", str(SHIPPED), "--device", "cpu", "--max-new-tokens", "5")
    assert run(monkeypatch, "--chat", *shipped) == 0
    answer = capsys.readouterr().out.splitlines()[0]
    assert asked == [
        [{"role": "user", "content": "Hello"}],
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "Again"},
        ],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--temperature", "-1"], "temperature must be 0"),
        (["", "--max-new-tokens", "3"], "the prompt is empty"),
        (["x", "--max-new-tokens", "0"], "max_new_tokens must be 1 or more, got 0"),
        (["x", "--samples", "0"], "samples must be 1 or more, got 0"),
        (["x", "--max-new-tokens", "600"], "do not fit a context of 512"),
        (["x", "--model", "nowhere"], "there is no folder nowhere"),
        (["x", "--device", "cuda"], "device 'cuda' is not to be had here"),
    ],
)
def test_the_command_says_what_is_wrong(monkeypatch, capsys, arguments, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU")
    assert run(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_model_without_a_tokenizer_is_named(monkeypatch, capsys, ours, tmp_path):
    save_pretrained(ours, tmp_path)
    assert run(monkeypatch, "x", "--model", str(tmp_path)) == 1
    assert "tokenizer.json is missing" in capsys.readouterr().err


def test_the_command_prepares_for_a_cpu_and_slides_if_told(monkeypatch, capsys):
    prepared, wanted = [], []
    prepare, flow = command.prepare_for_decoding, command.stream

    def watched(model, tokenizer, prompt, new, **settings):
        wanted.append((new, settings["slide"]))
        return flow(model, tokenizer, prompt, min(new, 2), **settings)

    monkeypatch.setattr(command, "prepare_for_decoding", lambda m: prepared.append(prepare(m)))
    monkeypatch.setattr(command, "stream", watched)
    long = "mouse " * 250  # 250 of 512 tokens and some: fewer than 200 or 512 - 250 are left
    for extra in ([], ["--slide"], ["--max-new-tokens", "300", "--slide"]):
        assert run(monkeypatch, long, "--device", "cpu", "--temperature", "0", *extra) == 0
    assert len(prepared) == 3 and [slide for _, slide in wanted] == [False, True, True]
    assert wanted[2][0] == 300
    longer = "mouse " * 400  # about a hundred are left without sliding, 200 with it
    for extra in ([], ["--slide"]):
        assert run(monkeypatch, longer, "--device", "cpu", "--temperature", "0", *extra) == 0
    assert wanted[3][0] < 200 == wanted[4][0]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "temperature"),
    [(["x"], 0.8), (["x", "--chat"], 0.0), (["x", "--chat", "--temperature", "0.5"], 0.5)],
)
def test_an_answer_takes_the_likeliest_and_a_story_draws(monkeypatch, arguments, temperature):
    asked = []

    def watched(model, tokenizer, prompt, new, **settings):
        asked.append(settings["temperature"])
        return iter(())

    monkeypatch.setattr(command, "stream", watched)
    assert run(monkeypatch, *arguments, "--model", str(SHIPPED), "--device", "cpu") == 0
    assert asked == [temperature]


def test_who_answers_where_nobody_was_named(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(command, "instruct_files", lambda: asked.append("instruct") or SHIPPED)
    brief = ("--device", "cpu", "--max-new-tokens", "2")
    assert run(monkeypatch, "x", *brief) == 0 and asked == []
    assert run(monkeypatch, "x", "--chat", *brief) == 0 and asked == ["instruct"]
    monkeypatch.undo()
    monkeypatch.setenv("SMOL_WEIGHTS", "random")
    assert run(monkeypatch, "x", "--chat", *brief) == 1
    error = capsys.readouterr().err
    assert "SmolLM2-135M-Instruct is not to be had (SMOL_WEIGHTS=random is set)" in error


@needs_real
@pytest.mark.parametrize("named", [False, True], ids=["by itself", "a .gguf"])
def test_the_real_model_answers(monkeypatch, capsys, named):
    monkeypatch.setenv("SMOL_WEIGHTS", "packaged")
    which = ["--model", str(REAL)] if named else []
    question = "What is the capital of France?"
    assert (
        run(monkeypatch, "--chat", question, "--device", "cpu", "--dtype", "float32", *which) == 0
    )
    assert capsys.readouterr().out == "The capital of France is Paris.\n"
