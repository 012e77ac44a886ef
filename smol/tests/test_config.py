"""config.json of either generation read, ours written, and what is no SmolLM2 refused."""

import dataclasses
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from smol import SmolLM2, SmolLM2Config
from smol.config import STAND_INS
from smol.pretrained import PUBLISHED
from smol.tests.reference import tiny_config

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FIELDS = [field.name for field in dataclasses.fields(SmolLM2Config)]
REQUIRED = [name for name in FIELDS if name not in (*SPECIAL_IDS, *STAND_INS)]


def old_style(**changes) -> dict:
    """The keys as transformers 4 wrote them, and as SmolLM2's own config.json still has them."""
    keys = {**dataclasses.asdict(tiny_config()), "model_type": "llama", "hidden_act": "silu"}
    return {**keys, "rope_theta": 1234.0, "rope_scaling": None, "attention_bias": False, **changes}


def new_style(**changes) -> dict:
    """The keys as transformers 5 writes them: no rope_theta of its own."""
    d = old_style(rope_parameters={"rope_type": "default", "rope_theta": 1234.0})
    del d["rope_theta"], d["rope_scaling"]
    return {**d, **changes}


@pytest.mark.parametrize("style", [old_style, new_style])
def test_both_generations_say_the_same(style):
    assert SmolLM2Config.from_dict(style()) == tiny_config(rope_theta=1234.0)


@pytest.mark.parametrize("style", [old_style, new_style])
def test_transformers_reads_the_same_theta(style):
    assert LlamaConfig(**style()).rope_parameters["rope_theta"] == 1234.0


def test_a_theta_in_two_places_must_be_one():
    """Transformers takes the nested one in silence; with a wrong theta it talks nonsense."""
    assert SmolLM2Config.from_dict(new_style(rope_theta=1234.0)).rope_theta == 1234.0
    with pytest.raises(ValueError, match=r"rope_theta is 1234.0 and 99.0: which one is it\?"):
        SmolLM2Config.from_dict(new_style(rope_theta=99.0))
    with pytest.raises(ValueError, match="rope_type is 'linear'"):  # not hidden by the other place
        SmolLM2Config.from_dict(new_style(rope_scaling={"type": "linear", "factor": 2}))


@pytest.mark.parametrize("missing", ["dropped", None])
def test_what_decides_no_number_may_be_missing(missing):
    """As in hand-converted Llamas: transformers' default stands in."""
    d = old_style(initializer_range=missing)
    if missing:
        del d["initializer_range"]
    assert SmolLM2Config.from_dict(d).initializer_range == LlamaConfig().initializer_range
    d["max_position_embeddings"] = None
    with pytest.warns(UserWarning, match="longer texts than 2048 tokens will be refused"):
        config = SmolLM2Config.from_dict(d)
    assert config.max_position_embeddings == LlamaConfig().max_position_embeddings


@pytest.mark.parametrize("style", [old_style, new_style])
@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_key_is_named(style, name):
    d = style()
    d.pop(name, None)
    if name == "rope_theta":
        d["rope_parameters"] = {"rope_type": "default"}
    with pytest.raises(ValueError, match=f"config.json has no {name}: add what the weights"):
        SmolLM2Config.from_dict(d)


def test_no_theta_is_never_ten_thousand():
    d = old_style()
    del d["rope_theta"]
    with pytest.raises(ValueError, match="no rope_theta"):
        SmolLM2Config.from_dict(d)


@pytest.mark.parametrize("name", SPECIAL_IDS)
def test_a_special_id_may_be_missing(name):
    d = old_style()
    del d[name]
    assert getattr(SmolLM2Config.from_dict(d), name) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu"}, "is 'gelu', this model has 'silu' only: load it with"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"rope_interleaved": True}, "rope_interleaved is True"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type is 'llama3'"),
        ({"rope_parameters": "default"}, "rope_parameters"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"head_dim": 16}, "head_dim is 16, .* = 8 only: load it with"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_smollm2_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        SmolLM2Config.from_dict(old_style(**changes))


@pytest.mark.parametrize("changes", [{}, {"head_dim": 8}, {"head_dim": None}, {"mlp_bias": False}])
def test_what_makes_no_difference_is_accepted(changes):
    assert SmolLM2Config.from_dict(old_style(**changes)) == tiny_config(rope_theta=1234.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 50}, "hidden_size 50 does not divide into num_attention_heads 6"),
        ({"hidden_size": 42}, "heads of an even size"),  # six heads of 7
        ({"num_key_value_heads": 4}, "num_attention_heads 6 .* num_key_value_heads 4"),
        ({"num_key_value_heads": 12}, "num_attention_heads 6 .* num_key_value_heads 12"),
    ],
)
def test_heads_that_do_not_divide_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


NUMBERS = {f.name: f.type for f in dataclasses.fields(SmolLM2Config) if f.type in (int, float)}


@pytest.mark.parametrize(
    "value", ["8", True, -1, 0, None, [8], float("nan"), float("inf")], ids=repr
)
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_positive_number_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be (a |1 or more|above 0).*, got"):
        tiny_config(**{name: value})


@pytest.mark.parametrize("name", [name for name, kind in NUMBERS.items() if kind is int])
def test_a_count_is_a_whole_number(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, got 48.0"):
        tiny_config(**{name: 48.0})


@pytest.mark.parametrize("value", ["false", 0, 1, None], ids=repr)
def test_tie_word_embeddings_is_true_or_false(value):
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        tiny_config(tie_word_embeddings=value)


@pytest.mark.parametrize("value", ["0", 1.5], ids=repr)
@pytest.mark.parametrize("name", SPECIAL_IDS)
def test_a_special_id_is_a_token_id(name, value):
    with pytest.raises(ValueError, match=name):
        tiny_config(**{name: value})


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().rope_theta = 10_000.0


CONFIGS = {
    "tiny": tiny_config(),
    "other": tiny_config(
        tie_word_embeddings=False,
        rope_theta=77.0,
        rms_norm_eps=1e-3,
        eos_token_id=[1, 2],
        pad_token_id=3,
    ),
    **{name.rpartition("/")[2]: published.config for name, published in PUBLISHED.items()},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_to_dict_goes_through_json_and_back(name):
    config = CONFIGS[name]
    assert SmolLM2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_ours_and_we_read_theirs(name):
    config = CONFIGS[name]
    theirs = LlamaConfig(**config.to_dict())
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": config.rope_theta}
    assert (theirs.rms_norm_eps, theirs.head_dim) == (config.rms_norm_eps, config.head_dim)
    for key in FIELDS:
        if key != "rope_theta":
            assert getattr(theirs, key) == getattr(config, key), key
    assert SmolLM2Config.from_dict(theirs.to_dict()) == config


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
        ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
    ],
)
def test_published_sizes_have_transformers_keys_and_the_published_count(name, parameters):
    config = PUBLISHED[name].config
    with torch.device("meta"):
        ours, theirs = SmolLM2(config), LlamaForCausalLM(LlamaConfig(**config.to_dict()))
    assert sum(p.numel() for p in ours.parameters()) == parameters
    expected = {k.removeprefix("model."): t.shape for k, t in theirs.state_dict().items()}
    assert {k: t.shape for k, t in ours.state_dict().items()} == expected


def test_what_a_parameter_count_cannot_see_is_as_published():
    heads = {
        name.rpartition("-")[2]: (c.num_attention_heads, c.num_key_value_heads, c.rope_theta)
        for name, (c, *_) in PUBLISHED.items()
        if not name.endswith("-Instruct")
    }
    assert heads == {"135M": (9, 3, 1e5), "360M": (15, 5, 1e5), "1.7B": (32, 32, 1.3e5)}


def test_the_defaults_are_smollm2_135m():
    """The numbers of its config.json on the hub, typed in once more."""
    assert dataclasses.asdict(SmolLM2Config()) == {
        **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536},
        **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
        **{"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0},
        **{"initializer_range": pytest.approx(0.041666666666666664)},
        **{"tie_word_embeddings": True},
        **{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None},
    }
