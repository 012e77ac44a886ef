"""Damaged files are refused in one short text; `python -m smol.tests.fuzz` damages more."""

import dataclasses
import json
import random

import pytest
import torch

from smol import SmolLM2, load_pretrained, save_pretrained
from smol.tests import fuzz, ggufs
from smol.tests.reference import tiny_config


def test_damaged_files_are_refused_or_loaded():
    counts, wrong = fuzz.fuzz(240, seed=1)
    assert wrong == []
    assert sum(counts.values()) == 240
    assert {name for name, what in counts if what == "refused"} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.pt",
        "checkpoint weights",
        "gguf",
        "gguf quantised",
        "gguf tokenizer",
    }


def test_one_kind_of_file_alone():
    counts, wrong = fuzz.fuzz(60, seed=2, only="gguf")
    assert wrong == [] and {name for name, _ in counts} == {
        "gguf",
        "gguf quantised",
        "gguf tokenizer",
    }
    assert {what for _, what in counts} == {"loaded", "refused"}


def test_a_gguf_taken_apart_is_put_together_again(tmp_path):
    data = ggufs.write(tmp_path / "a.gguf").read_bytes()
    pieces = ggufs.pieces_of(data)
    assert ggufs.joined(pieces) == data
    keys, tensors = ggufs.parted(pieces)
    assert len(tensors) == 20
    assert ggufs.joined(ggufs.put_together(pieces, keys, tensors)) == data


def test_damage_to_a_gguf_reaches_header_and_numbers(tmp_path):
    """Most of it changes the file, and leaves it one that begins like a .gguf."""
    draw = random.Random(0)
    data = ggufs.write(tmp_path / "a.gguf").read_bytes()
    damaged = [fuzz.damage(data, "a.gguf", draw) for _ in range(200)]
    assert sum(one != data for one in damaged) > 180
    assert sum(one[:4] == b"GGUF" for one in damaged) > 170
    assert sum(one[-1000:] == data[-1000:] for one in damaged) > 120


def test_the_fuzzer_sees_what_is_no_clear_error(monkeypatch):
    """A reader that raises KeyError, or says too little, is reported."""

    def targets(folder):
        file = folder / "a.json"
        file.write_text('{"a": 1}')
        return {"a": (file, reader)}

    monkeypatch.setattr(fuzz, "targets", targets)
    for error, seen in ((KeyError("a"), "KeyError"), (ValueError("no"), "a message of 2")):

        def reader(error=error):
            raise error

        _, wrong = fuzz.fuzz(3)
        assert len(wrong) == 3 and all(seen in line for line in wrong)


def test_a_damage_changes_something():
    draw = random.Random(0)
    data = json.dumps({"a": [1, 2, {"b": "x"}], "c": None}).encode()
    changed = [fuzz.damage(data, "a.json", draw) != data for _ in range(200)]
    assert sum(changed) > 190


def test_a_million_layers_are_refused_before_they_are_made(tmp_path):
    """Found by the fuzzer: half a minute, then no memory left."""
    model = SmolLM2(tiny_config())
    save_pretrained(model, tmp_path)
    config = dataclasses.replace(model.config, num_hidden_layers=10**6).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="1000000 layers, and 29 tensors in all"):
        load_pretrained(tmp_path)


def test_a_checkpoint_without_its_config_is_torn(tmp_path):
    """Found by the fuzzer, once in 25,000: a bit flipped in the name of a key."""
    file, read = fuzz.targets(tmp_path)["training.pt"]
    state = torch.load(file, weights_only=True)
    for broken in ({**state, "config": None}, {k: v for k, v in state.items() if k != "config"}):
        torch.save(broken, file)
        with pytest.raises(ValueError, match="is torn"):
            read()
