"""Settings of the wrong kind are refused by name, before any work, or taken for what they are.

One table of kinds and values; every public setting is held against it.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from smol import BPETokenizer, SmolLM2, SmolLM2Config, load_pretrained, save_pretrained
from smol.checks import flag, named, number, one_of, path, seed, shown, token_ids, whole
from smol.data import FreshStories, Windows, open_stream, padded
from smol.generate import generate, generate_steps, left_pad, stream
from smol.lesson.exercise import SMALL
from smol.model import KVCache
from smol.train import TrainConfig, train
from smol.train.settings import CHECKS

WRONG = {
    "whole": ["3", 2.5, 3.0, True, torch.tensor(3), Path("3"), iter([3]), [3], b"3", math.nan, {}],
    "number": ["0.5", True, torch.tensor(0.5), Path("1"), iter([1.0]), [0.5], b"", math.nan, 1j],
    "flag": ["true", 1, 0, 0.0, torch.tensor(True), Path("x"), iter([]), [], "", np.int64(1)],
    "name": [3, 2.5, True, torch.tensor(3), iter("x"), ["x"], b"x", "", "  ", Path(), {}],
}
WRONG["name"].remove(Path())  # the folder one is in, said as such
KIND_OF = {int: "whole", float: "number", bool: "flag", str: "name"}


def kinds(*names: str) -> list:
    """Each wrong value of each (setting: kind), None among them, as cases of a test."""
    cases = []
    for entry in names:
        name, kind = entry.split(": ")
        values = [*WRONG[kind.removesuffix("?")], *([] if kind.endswith("?") else [None])]
        cases += [pytest.param(name, value, id=f"{name}={shown(value)}") for value in values]
    return cases


def of_fields(cls) -> list:
    """The fields of a dataclass, as `kinds` wants them."""
    found = [(f.name, f.type) for f in dataclasses.fields(cls)]
    names = [f"{name}: {KIND_OF[kind]}" for name, kind in found if kind in KIND_OF]
    return kinds(*names)


# -- the checks themselves ------------------------------------------------------------------------


def test_what_is_right_comes_back_as_pythons_own():
    for got, want in (
        (whole("n", np.int64(3)), 3),
        (number("n", np.float32(0.5), "any", bool), 0.5),
        (number("n", np.int16(2), "any", bool), 2.0),
        (flag("n", np.bool_(True)), True),
        (named("n", Path("a/b")), str(Path("a/b"))),
        (token_ids("n", torch.tensor([[1, 2]])), [1, 2]),
        (token_ids("n", np.array([1, 2])), [1, 2]),
        (token_ids("n", (i for i in (0, 5))), [0, 5]),
        (one_of("n", "a", ("a", "b")), "a"),
        (seed("n", 2**63 - 1), 2**63 - 1),
    ):
        assert got == want and type(got) is type(want)
        assert json.loads(json.dumps(got)) == want


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: whole("n", 0), "n must be 1 or more, got 0"),
        (lambda: whole("n", 9, most=8), "n must be 8 or less, got 9"),
        (lambda: whole("n", "8"), "n must be a whole number, got '8'"),
        (lambda: whole("n", torch.ones(99)), "n must be a whole number, got a Tensor"),
        (lambda: whole("n", "x" * 999), f"n must be a whole number, got '{'x' * 59}…"),
        (lambda: number("n", math.nan, "above 0", lambda x: x > 0), "n must be above 0, got nan"),
        (lambda: named("n", ""), "n is empty: give a name or a path"),
        (lambda: one_of("n", 3, ("a", "b")), "n 3 is none of a, b"),
        (lambda: seed("n", 99999999999999999999), "n must be 9223372036854775807 or less"),
        (lambda: number("n", 10**400, "finite", math.isfinite), "n must be finite, got 10"),
        (
            lambda: path("n", "~no-such-user/x"),
            "n '~no-such-user/x' names no home: write the whole path",
        ),
        (lambda: whole("n", -(10**5000)), "n must be 1 or more, got a number of 16,610 bits"),
        (lambda: number("n", 10**5000, "finite", math.isfinite), "n must be finite, got a number"),
        (lambda: seed("n", -1), "n must be 0 or more, got -1"),
        (lambda: token_ids("n", "abc"), "n must be a list of token ids, got 'abc'"),
        (lambda: token_ids("n", 5), "n must be a list of token ids, got 5"),
        (lambda: token_ids("n", torch.tensor(5)), "n must be a list of token ids, got a Tensor"),
        (lambda: token_ids("n", [[1], [2]]), r"each of n must be a whole number, got a list"),
        (lambda: token_ids("n", [1.0]), r"each of n must be a whole number, got 1.0"),
    ],
)
def test_what_is_wrong_is_said_in_one_short_sentence(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert len(str(raised.value)) < 160


# -- every setting --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), of_fields(TrainConfig))
def test_a_setting_of_a_run(name, value):
    if name == "tokenizer" and value is None:
        pytest.skip("the preset's own")
    with pytest.raises(ValueError, match=name):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("betas", ["ab", 0.9, (0.9,), (0.9, "x"), (0.9, 1.0), None, (True, 0.5)])
def test_betas_are_a_pair_of_numbers(betas):
    with pytest.raises(ValueError, match="betas must be"):
        TrainConfig(betas=betas)


def test_every_setting_of_a_run_has_its_check():
    assert list(CHECKS) == [field.name for field in dataclasses.fields(TrainConfig)]


def test_what_a_run_keeps_can_be_saved():
    """Of NumPy and pathlib too: a run of hours ends with a checkpoint or not at all."""
    config = TrainConfig(
        steps=np.int64(5),
        batch_size=np.int32(4),
        learning_rate=np.float32(0.5),
        data=Path("some.txt"),
        tokenizer=Path("t"),
        betas=[0.5, 0.5],
        compile=np.bool_(False),
    )
    kept = config.deciding()
    assert json.loads(json.dumps(kept)) == kept
    assert (kept["data"], kept["tokenizer"], kept["betas"]) == ("some.txt", "t", [0.5, 0.5])
    assert config == dataclasses.replace(config, steps=5, batch_size=4, data="some.txt")


@pytest.mark.parametrize(("name", "value"), kinds("out: name", "resume: flag"))
def test_an_argument_of_a_run(name, value, tmp_path):
    arguments = {"out": tmp_path / "out", "resume": False, name: value}
    with pytest.raises(ValueError, match=name):
        train(TrainConfig(), **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), of_fields(SmolLM2Config))
def test_a_key_of_a_config(name, value):
    with pytest.raises(ValueError, match=name):
        SmolLM2Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    kinds("bos_token_id: whole?", "pad_token_id: whole?") + kinds("eos_token_id: whole?"),
)
def test_a_special_id_of_a_config(name, value):
    if name == "eos_token_id" and value == [3]:
        pytest.skip("there may be several")
    with pytest.raises(ValueError, match=name):
        SmolLM2Config(**{name: value})


class Unasked(SmolLM2):
    """A model that must not be asked for anything."""

    def forward(self, *args, **kwargs):
        raise AssertionError("it worked before it had looked")


GENERATION = kinds(
    *("max_new_tokens: whole", "temperature: number", "top_k: whole?", "top_p: number?"),
    *("min_p: number?", "repetition_penalty: number", "use_cache: flag", "slide: flag"),
    *("compile: flag", "num_return_sequences: whole"),
)
GENERATION += [
    pytest.param(name, value, id=f"{name}={shown(value)}")
    for name, values in {
        "generator": [42, "0", True, torch.tensor(1)],
        "stop_ids": ["0", 2.5, [2.5], [None], [True], -1, [-1], {0: 1}],
        "input_ids": [None, "Once", [1, 2], torch.tensor([1, 2]), torch.ones(1, 2), 5],
        "attention_mask": [[1, 1], "11", 1, torch.ones(3)],
    }.items()
    for value in values
]


@pytest.mark.parametrize(("name", "value"), GENERATION)
def test_a_setting_of_a_generation(name, value):
    """`generate`, and the settings that `stream` hands on."""
    model, tokenizer = Unasked(SMALL), BPETokenizer.train(["a text"], 256)
    settings = {"input_ids": torch.tensor([[1, 2]]), "max_new_tokens": 3, name: value}
    with pytest.raises(ValueError, match=name.replace("_ids", "_ids|prompt")):
        generate(model, **settings)
    prompt, new = settings.pop("input_ids"), settings.pop("max_new_tokens")
    if name not in ("input_ids", "num_return_sequences", "attention_mask"):
        with pytest.raises(ValueError, match=name):
            list(stream(model, tokenizer, prompt, new, **settings))


@pytest.mark.parametrize(
    "prompt", [None, 3, ["Once"], [1.5], torch.ones(2, 2), [[1], [2]], [True]]
)
def test_a_prompt_of_a_stream(prompt):
    tokenizer = BPETokenizer.train(["a text"], 256)
    with pytest.raises(ValueError, match="prompt"):
        list(stream(Unasked(SMALL), tokenizer, prompt, 3))


@pytest.mark.parametrize("stop", ["end", 5, [5], [""], [None], b"end", True])
def test_stop_strings_of_a_stream(stop):
    tokenizer = BPETokenizer.train(["a text"], 256)
    with pytest.raises(ValueError, match="stop must be a list of strings"):
        list(stream(Unasked(SMALL), tokenizer, "a", 3, stop=stop))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, b: generate(None, torch.tensor([[1]]), 3),
        lambda m, b: list(stream(b, m, "a", 3)),
        lambda m, b: list(stream(m, None, "a", 3)),
        lambda m, b: SmolLM2Config.from_dict("config.json"),
        lambda m, b: SmolLM2Config.from_dict([1]),
        lambda m, b: BPETokenizer(b.vocab, None),
        lambda m, b: BPETokenizer(b.vocab, [], ["<|a|>"]),
        lambda m, b: BPETokenizer(b.vocab, [], None, True, "<|a|>"),
        lambda m, b: load_pretrained("a\0b"),
        lambda m, b: generate(m, torch.tensor([[1]]), 3, stop_ids=256),
        lambda m, b: left_pad([[2**70]]),
    ],
)
def test_the_wrong_object_is_named(call):
    with pytest.raises(ValueError, match=r"must be|takes|is what|holds a NUL|outside the vocab"):
        call(Unasked(SMALL), BPETokenizer.train(["a text"], 256))


def test_what_is_meant_is_taken():
    """One id as stop_ids, None for none, prompts as tensors, NumPy's numbers."""
    torch.manual_seed(0)
    model = SmolLM2(SMALL).eval()
    ids = torch.tensor([[1, 2]])
    whole_text = generate(model, ids, 6)
    first = whole_text[0, 2].item()
    for stop in (
        first,
        np.int64(first),
        [first],
        {first},
        torch.tensor([first]),
        torch.tensor(first),
    ):
        assert torch.equal(generate(model, ids, np.int64(6), stop_ids=stop), whole_text[:, :3])
    for stop in (None, (), []):
        assert torch.equal(generate(model, ids, 6, stop_ids=stop), whole_text)
    lists = left_pad([[1, 2], [3]])
    for prompts in ([torch.tensor([1, 2]), torch.tensor([3])], (np.array([1, 2]), (3,))):
        assert all(map(torch.equal, left_pad(prompts), lists))
    assert left_pad([torch.tensor([0])])[0].tolist() == [[0]]  # id 0 is a token
    tokenizer = BPETokenizer.train(["a text"], 256)
    texts = {
        "".join(stream(model, tokenizer, prompt, 6, stop=stop, stop_ids=()))
        for prompt in ([1, 2], torch.tensor([1, 2]), ids)
        for stop in (None, [], ())
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("pad_id", v) for v in (None, "0", 1.5, True, -1)),
        *(("prompts", v) for v in ([5], ["ab"], [[1.5]], [[True]], [None], [[]])),
    ],
)
def test_prompts_to_pad(name, value):
    with pytest.raises(ValueError, match=r"prompt|pad_id"):
        left_pad(**{"prompts": [[1, 2], [3]], name: value})


@pytest.mark.parametrize(("name", "value"), kinds("vocab_size: whole", "split_digits: flag"))
def test_a_setting_of_a_tokenizers_training(name, value):
    def texts():
        raise AssertionError("it read before it had looked")
        yield

    with pytest.raises(ValueError, match=name):
        BPETokenizer.train(**{"texts": texts(), "vocab_size": 300, name: value})


@pytest.mark.parametrize(
    ("name", "value"), kinds("batch_size: whole", "seq_len: whole", "seed: whole")
)
def test_a_setting_of_batches(name, value):
    tokenizer = BPETokenizer.train(["a text"], 260, ["<|endoftext|>"])
    tokens = np.arange(99, dtype=np.uint16)
    settings = {"batch_size": 2, "seq_len": 4, "seed": 0, name: value}
    for make in (lambda **s: Windows(tokens, **s), lambda **s: FreshStories(tokenizer, **s)):
        with pytest.raises(ValueError, match=name):
            make(**settings)


@pytest.mark.parametrize(("name", "value"), kinds("pad_id: whole", "max_length: whole?"))
def test_a_setting_of_padding(name, value):
    with pytest.raises(ValueError, match=name):
        padded(**{"sequences": [[1, 2, 3]], "pad_id": 0, name: value})


@pytest.mark.parametrize(("name", "value"), kinds("held_out: whole"))
def test_how_many_documents_are_held_out(name, value, tmp_path):
    (tmp_path / "some.jsonl").write_text('{"text": "a"}\n' * 5, encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        open_stream(tmp_path, **{name: value})


@pytest.mark.parametrize("where", [*WRONG["name"], None], ids=shown)
def test_where_models_and_tokenizers_lie(where):
    for call in (load_pretrained, BPETokenizer.load, lambda w: save_pretrained(SmolLM2(SMALL), w)):
        with pytest.raises(ValueError, match=r"is empty|must be a name or a path"):
            call(where)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64, "float32", None, 32], ids=str
)
def test_a_dtype_to_load_in(dtype, tmp_path):
    with pytest.raises(ValueError, match="dtype must be a float of torch"):
        load_pretrained(tmp_path, dtype)


@pytest.mark.parametrize("device", ["tpu", 1.5, "cuda:x", [], "xpu:99"], ids=str)
def test_a_device_to_load_on(device, tmp_path):
    with pytest.raises(ValueError, match="is not to be had here: take 'cpu'"):
        load_pretrained(tmp_path, device=device)


@pytest.mark.parametrize(("name", "value"), kinds("batch_size: whole", "max_length: whole"))
def test_a_size_of_a_cache(name, value):
    with pytest.raises(ValueError, match=name):
        KVCache(**{"config": SMALL, "batch_size": 1, "max_length": 4, name: value})


def test_generate_steps_looks_at_its_first_step():
    with pytest.raises(ValueError, match="temperature must be a number"):
        next(generate_steps(Unasked(SMALL), torch.tensor([[1]]), 3, temperature="0.7"))
