"""Weights out and in: exact where all is well, one clear sentence where it is not."""

import copy
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from smol import SmolLM2, SmolLM2Config, load_pretrained, pretrained, save_pretrained
from smol.pretrained import Published, from_reference, load_reference, weights
from smol.pretrained import reference as reference_module
from smol.tests.reference import random_ids, tiny_config, tiny_reference

DTYPES = [torch.float32, torch.bfloat16]


def make_model(dtype: torch.dtype = torch.float32, **changes) -> SmolLM2:
    return from_reference(tiny_reference(**changes)).to(dtype)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, ours):
    folder = tmp_path_factory.mktemp("saved")
    save_pretrained(ours, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A checkpoint to spoil."""
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture
def shards(tmp_path, reference):
    """A checkpoint of several files, written by transformers."""
    reference.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) >= 3
    return tmp_path / "shards"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(folder, **changes):
    """Tensors put in, replaced, or (None) taken out."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {key: t.clone() for key, t in {**tensors, **changes}.items() if t is not None}
    save_file(tensors, folder / "model.safetensors")


def assert_same_weights(a: SmolLM2, b: SmolLM2):
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, tensor in a.state_dict().items():
        assert tensor.dtype == b.state_dict()[key].dtype, key
        assert torch.equal(tensor, b.state_dict()[key]), key


# -- all is well ------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_save_and_load_is_exact(tmp_path, dtype, tied):
    model = make_model(dtype, tie_word_embeddings=tied)
    save_pretrained(model, tmp_path / "a" / "b")  # folders are made
    loaded = load_pretrained(tmp_path / "a" / "b", dtype=dtype)
    assert loaded.config == model.config
    assert not loaded.training
    assert_same_weights(loaded, model)
    assert (loaded.lm_head.weight is loaded.embed_tokens.weight) is tied


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transformers_loads_what_we_save(tmp_path, dtype, tied):
    model = make_model(dtype, tie_word_embeddings=tied)
    save_pretrained(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)  # dtype: what config.json says
    ids = random_ids(2, 40)
    with torch.no_grad():
        assert torch.equal(theirs(ids, use_cache=False).logits, model(ids))


def test_transformers_takes_the_dtype_from_what_we_save(tmp_path):
    save_pretrained(make_model(torch.bfloat16), tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_we_load_what_transformers_saves(tmp_path, dtype):
    reference = tiny_reference(dtype=dtype)
    reference.save_pretrained(tmp_path)
    ids = random_ids(2, 40)
    with torch.no_grad():
        got = load_pretrained(tmp_path, dtype=dtype)(ids)
        assert torch.equal(got, reference(ids, use_cache=False).logits)


def test_shards_are_loaded(shards, ours):
    assert_same_weights(load_pretrained(shards), ours)


def test_thirty_tied_layers_are_272_keys(tmp_path):
    config = SmolLM2Config(vocab_size=8, hidden_size=18, intermediate_size=4)
    save_pretrained(SmolLM2(config), tmp_path)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert len(keys) == 272  # as in the published file
    assert "lm_head.weight" not in keys
    assert all(key.startswith("model.") for key in keys)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_files_keys_are_those_transformers_writes(tmp_path, tied):
    reference = tiny_reference(tie_word_embeddings=tied)
    reference.save_pretrained(tmp_path / "theirs")
    save_pretrained(from_reference(reference), tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert ("lm_head.weight" in ours) is not tied


def test_loading_takes_the_dtype_asked_for_and_fp32_by_default(tmp_path):
    model = make_model(torch.bfloat16)
    save_pretrained(model, tmp_path)
    assert_same_weights(load_pretrained(tmp_path), model.float())
    half = load_pretrained(tmp_path, dtype=torch.float16)
    assert {p.dtype for p in half.parameters()} == {torch.float16}


def test_a_tied_head_in_the_file_is_no_harm(folder, ours):
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(folder, **{"lm_head.weight": table})
    loaded = load_pretrained(folder)
    assert loaded.lm_head.weight is loaded.embed_tokens.weight
    assert_same_weights(loaded, ours)


def test_a_loaded_model_trains(saved):
    model = load_pretrained(saved)
    model(random_ids(1, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_compiled_model_is_saved_without_its_wrapper(tmp_path, ours):
    save_pretrained(torch.compile(ours), tmp_path)
    assert_same_weights(load_pretrained(tmp_path), ours)


def test_a_model_may_be_saved_where_it_came_from(folder, ours):
    model = load_pretrained(folder)
    save_pretrained(model, folder)
    save_pretrained(model, folder)
    assert_same_weights(model, ours)
    assert_same_weights(load_pretrained(folder), ours)


def test_a_loaded_model_does_not_hang_on_its_file(folder, ours):
    model = load_pretrained(folder)
    with (folder / "model.safetensors").open("r+b") as file:  # in place, as `cp` does it
        file.write(bytes((folder / "model.safetensors").stat().st_size))
    assert_same_weights(model, ours)


def test_a_reference_is_copied_not_shared(reference):
    ours = from_reference(reference)
    ours.norm.weight.data.zero_()
    assert reference.model.norm.weight.abs().min() > 0


def test_loading_leaves_the_random_numbers_alone(saved):
    state = torch.get_rng_state()
    load_pretrained(saved)
    assert torch.equal(state, torch.get_rng_state())


# -- files that are not there, or not what they should be ---------------------------------------


def refuses(error: type[Exception], message: str, folder):
    with pytest.raises(error, match=message) as caught:
        load_pretrained(folder)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing", "nothing", "a/"])
def test_a_missing_folder_is_named(name):
    refuses(FileNotFoundError, f"there is no folder {re.escape(name)}", name)


def test_a_file_is_no_folder(folder):
    refuses(FileNotFoundError, "a file: name a .gguf, or the folder", folder / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refuses(FileNotFoundError, f"{re.escape(name)} is missing", folder)


def test_a_pickle_is_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuses(FileNotFoundError, "pytorch_model.bin is a pickle and is not opened", folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"<html>", b"\xff\xfe\x00", b'{"a": 1,}'], ids=repr
)
def test_a_config_that_is_not_json_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    refuses(ValueError, "config.json is not JSON", folder)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"llama"'])
def test_a_config_that_is_no_object_is_named(folder, content):
    (folder / "config.json").write_text(content)
    refuses(ValueError, r"config.json holds a \w+, not an object", folder)


def test_a_config_of_another_model_is_refused(folder):
    edit_config(folder, hidden_act="gelu")
    refuses(ValueError, "not a SmolLM2: hidden_act is 'gelu'", folder)


def size_of_header(whole: bytes) -> int:
    return 8 + int.from_bytes(whole[:8], "little")


@pytest.mark.parametrize(
    "cut",
    [
        lambda whole: 0,
        lambda whole: 5,  # within the header's length
        lambda whole: 100,  # within the header
        size_of_header,  # all of the header, nothing after it
        lambda whole: len(whole) // 2,
        lambda whole: len(whole) - 1,
    ],
    ids=["empty", "length", "header", "no_data", "middle", "last_byte"],
)
def test_a_truncated_file_is_named(folder, cut):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: cut(whole)])
    refuses(ValueError, "model.safetensors is not a whole safetensors file .* fetch it", folder)


@pytest.mark.parametrize("spoil", [lambda w: w + b"\0", lambda w: b"garbage" * 99, lambda w: b"<"])
def test_what_is_no_safetensors_file_is_named(folder, spoil):
    file = folder / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    refuses(ValueError, "model.safetensors is not a whole safetensors file", folder)


def test_a_missing_shard_is_named(shards):
    missing = sorted(shards.glob("model-*.safetensors"))[1]
    missing.unlink()
    refuses(FileNotFoundError, f"{missing.name} is missing: .*index.json lists it", shards)


def test_a_truncated_shard_is_named(shards):
    file = sorted(shards.glob("model-*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1])
    refuses(ValueError, f"{file.name} is not a whole safetensors file", shards)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}], ids=str)
def test_an_index_without_a_map_is_named(shards, content):
    (shards / "model.safetensors.index.json").write_text(json.dumps(content))
    refuses(ValueError, "index.json has no weight_map", shards)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_cannot_lead_out_of_its_folder(shards, name):
    content = {"weight_map": {"model.norm.weight": name}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(content))
    refuses(ValueError, f"names '{name}', which is not a file of its own folder", shards)


# -- tensors that do not fit --------------------------------------------------------------------

UP = "model.layers.1.mlp.up_proj.weight"


def test_a_missing_key_is_named(folder):
    edit_weights(folder, **{UP: None})
    refuses(ValueError, rf"1 keys \({UP}\) missing, none with no place", folder)


def test_an_unexpected_key_is_named(folder):
    edit_weights(folder, **{"model.rotary_emb.inv_freq": torch.ones(4)})
    refuses(ValueError, r"none missing, 1 keys \(model.rotary_emb.inv_freq\) with no", folder)


def test_many_keys_are_counted(folder):
    edit_config(folder, num_hidden_layers=4)
    refuses(ValueError, r"9 keys \(model.layers.3.input_layernorm.weight, .*, …\) missing", folder)


def test_a_wrong_shape_is_named(folder):
    edit_weights(folder, **{UP: torch.ones(80, 47)})
    refuses(ValueError, rf"{UP} is \(80, 47\), the config wants \(80, 48\)", folder)


def test_a_head_that_differs_is_not_tied_away(folder):
    edit_weights(folder, **{"lm_head.weight": torch.ones(97, 48)})
    refuses(ValueError, "head that differs from the embedding, but its config ties", folder)


def test_an_untied_head_may_not_be_missing(folder):
    edit_config(folder, tie_word_embeddings=False)
    refuses(ValueError, r"1 keys \(lm_head.weight\) missing", folder)


def test_a_tensor_in_two_shards_is_refused(shards):
    """Whichever shard came last would win, without a word."""
    last = sorted(shards.glob("model-*.safetensors"))[-1]
    save_file({**load_file(last), "model.embed_tokens.weight": torch.ones(97, 48)}, last)
    refuses(ValueError, "model.embed_tokens.weight", shards)


# -- published weights --------------------------------------------------------------------------


def publish(monkeypatch, folder, config=None, **known) -> str:
    """Makes `folder` (None: not to be had) what the hub holds under the name that is returned."""
    name = "someone/tiny"

    def fetch(asked, patterns=()):
        if folder is None:
            raise FileNotFoundError(f"{asked} cannot be had")
        return folder

    monkeypatch.delenv("SMOL_WEIGHTS", raising=False)
    monkeypatch.setitem(pretrained.PUBLISHED, name, Published(config or tiny_config(), **known))
    for module in (weights, reference_module):
        monkeypatch.setattr(module, "fetch", fetch)
    return name


def test_a_wrong_hash_is_refused(monkeypatch, folder):
    name = publish(monkeypatch, folder, sha256="0" * 64)
    refuses(ValueError, r"model.safetensors has sha256 \w{16}…, published is 0{16}…", name)


def test_the_right_hash_is_taken(monkeypatch, folder, ours):
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    name = publish(monkeypatch, folder, sha256=sha256)
    assert_same_weights(load_pretrained(name), ours)


def test_smol_offline_fetches_nothing(monkeypatch):
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    refuses(FileNotFoundError, "someone/tiny is not fetched: SMOL_OFFLINE=1", "someone/tiny")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_random_reference_is_ours_to_the_bit(monkeypatch, dtype):
    reference = load_reference(dtype, publish(monkeypatch, None))
    assert reference.lm_head.weight is reference.model.embed_tokens.weight
    ids = random_ids(2, 300)
    with torch.no_grad():
        assert torch.equal(from_reference(reference)(ids), reference(ids, use_cache=False).logits)


def test_a_random_reference_says_so(monkeypatch, capsys):
    reference = load_reference(repo_id=publish(monkeypatch, None), seed=7)
    assert reference.weights == "random" and not reference.training
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "someone/tiny: random weights, seed 7" in out


def test_a_random_reference_has_norms_that_matter(monkeypatch):
    reference = load_reference(repo_id=publish(monkeypatch, None))
    norms = torch.cat([p for k, p in reference.named_parameters() if "norm" in k])
    assert norms.min() < 0.6 and norms.max() > 1.4


def test_a_random_reference_follows_its_seed_only(monkeypatch):
    name = publish(monkeypatch, None)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load_reference(repo_id=name)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = load_reference(repo_id=name), load_reference(repo_id=name, seed=1)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_published_reference_says_so(monkeypatch, capsys, folder, ours, dtype):
    reference = load_reference(dtype, publish(monkeypatch, folder))
    assert reference.weights == "published" and not reference.training
    assert capsys.readouterr().out == "someone/tiny: the published weights\n"
    assert reference.dtype == dtype
    assert_same_weights(from_reference(reference), load_pretrained(folder, dtype=dtype))


def test_a_reference_that_is_not_published_cannot_be_made_up():
    with pytest.raises(FileNotFoundError, match="no folder no-such-folder"):
        load_reference(repo_id="no-such-folder")


# -- a disk that is full ------------------------------------------------------------------------


def no_space(tensors, file, **kwargs):
    file.write_bytes(b"the first few bytes")
    raise OSError(errno.ENOSPC, "No space left on device")


def no_space_in_rust(tensors, file, **kwargs):
    file.write_bytes(b"the first few bytes")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def interrupted(tensors, file, **kwargs):
    file.write_bytes(b"the first few bytes")
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure", [no_space, no_space_in_rust])
def test_a_full_disk_leaves_the_old_checkpoint(monkeypatch, folder, ours, failure):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(weights, "save_file", failure)
    with pytest.raises(OSError, match=r"could not be written .*No space left"):
        save_pretrained(SmolLM2(tiny_config()), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert_same_weights(load_pretrained(folder), ours)


def test_a_full_disk_can_be_told_from_its_errno(monkeypatch, folder):
    monkeypatch.setattr(weights, "save_file", no_space)
    with pytest.raises(OSError) as caught:
        save_pretrained(SmolLM2(tiny_config()), folder)
    assert caught.value.errno == errno.ENOSPC


def test_what_is_renamed_is_on_the_disk(monkeypatch, tmp_path, ours):
    """After a power cut, what was renamed but never written out is a file of nothing."""
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.fstat(fd).st_ino) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("renamed") or replace(a, b))
    save_pretrained(ours, tmp_path)
    written = {file.stat().st_ino for file in tmp_path.iterdir()}
    assert set(calls[:2]) == written and calls[2:] == ["renamed"] * 2


def test_an_interrupted_save_leaves_no_part_behind(monkeypatch, folder):
    before = sorted(folder.iterdir())
    monkeypatch.setattr(weights, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(SmolLM2(tiny_config()), folder)
    assert sorted(folder.iterdir()) == before


def test_a_disk_full_at_the_config_leaves_weights_and_config_that_belong_together(
    monkeypatch, folder, ours
):
    other = SmolLM2(dataclasses.replace(tiny_config(), num_hidden_layers=1))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "write_text", full)
        with pytest.raises(OSError, match=r"could not be written"):
            save_pretrained(other, folder)
    assert_same_weights(load_pretrained(folder), ours)


def test_a_head_that_is_tied_in_the_config_only_is_not_lost(tmp_path):
    """The file would hold one matrix for the two, and the head would be gone without a word."""
    model = SmolLM2(tiny_config())
    model.lm_head.weight = torch.nn.Parameter(torch.ones(97, 48))
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        save_pretrained(model, tmp_path)


def test_a_dtype_by_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"torch\.bfloat16, got 'bfloat16'"):
        load_pretrained(tmp_path, dtype="bfloat16")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_a_dtype_that_is_no_float_is_refused(saved, dtype):
    with pytest.raises(ValueError, match=rf"a float of torch such as .*, got {dtype}$"):
        load_pretrained(saved, dtype=dtype)


@pytest.mark.parametrize("device", ["tpu", "cuda:99", torch.device("cuda", 99)], ids=repr)
def test_a_device_that_is_not_here_is_refused(saved, device):
    with pytest.raises(ValueError, match=r"^device .* is not to be had here: take 'cpu'$"):
        load_pretrained(saved, device=device)


def test_what_the_siblings_configs_say():
    """From their config.json (huggingface.co): a slip here would count them wrong."""
    small, instruct, medium, large = (known.config for known in pretrained.PUBLISHED.values())
    assert (instruct.bos_token_id, instruct.eos_token_id, instruct.pad_token_id) == (1, 2, 2)
    for config, shape in (
        (small, (576, 1536, 30, 9, 3, 100_000, 1 / 24)),
        (instruct, (576, 1536, 30, 9, 3, 100_000, 1 / 24)),
        (medium, (960, 2560, 32, 15, 5, 100_000, 0.02)),
        (large, (2048, 8192, 24, 32, 32, 130_000, 0.02)),
    ):
        names = (
            "hidden_size intermediate_size num_hidden_layers num_attention_heads "
            "num_key_value_heads rope_theta initializer_range"
        )
        assert tuple(getattr(config, name) for name in names.split()) == pytest.approx(shape)


def test_where_the_hub_is_away_only_the_cache_is_asked(monkeypatch, tmp_path):
    asked = []

    class Api:
        def model_info(self, *args, **kwargs):
            raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **more: asked.append(more) or tmp_path
    )
    monkeypatch.delenv("SMOL_OFFLINE")
    (tmp_path / "model.safetensors").touch()
    assert pretrained.fetch("owner/name") == tmp_path
    assert [more["local_files_only"] for more in asked] == [True]


# -- whose weights they are -----------------------------------------------------------------------


def test_ones_own_weights_may_have_a_published_name(monkeypatch, tmp_path, ours):
    """As `hf download --local-dir HuggingFaceTB/SmolLM2-135M` leaves them, then fine-tuned."""
    monkeypatch.chdir(tmp_path)
    save_pretrained(ours, pretrained.REPO_ID)
    for name in (pretrained.REPO_ID, f"./{pretrained.REPO_ID}", tmp_path / pretrained.REPO_ID):
        assert_same_weights(load_pretrained(name), ours)


def test_shards_whose_index_is_missing_are_loaded(shards, ours):
    (shards / "model.safetensors.index.json").unlink()
    assert_same_weights(load_pretrained(shards), ours)
    sorted(shards.glob("model-*"))[1].unlink()
    refuses(FileNotFoundError, r"holds \d shards of \d+ and no model.safetensors.index", shards)
    for file in shards.glob("model-*"):  # a name is not believed: all would be counted up to it
        file.rename(shards / "model-00001-of-99999999999.safetensors")
    refuses(FileNotFoundError, r"holds 1 shards of 99999999999 and no model", shards)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_quantised_weights_are_refused(folder, dtype):
    """As numbers by themselves they would load, and mean nothing."""
    edit_weights(folder, **{"model.norm.weight": torch.ones(48).to(dtype)})
    refuses(ValueError, r"model.norm.weight as \w+: quantised weights mean nothing", folder)


# -- what can be saved ----------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_nan_is_saved_as_it_is(tmp_path, tied):
    """It is nobody's business here, and no reason to speak of a head that differs."""
    model = SmolLM2(tiny_config(tie_word_embeddings=tied))
    with torch.no_grad():
        model.embed_tokens.weight[3, 3] = math.nan
    save_pretrained(model, tmp_path)
    assert load_pretrained(tmp_path).embed_tokens.weight[3].isnan().sum() == 1
    model.lm_head.weight = torch.nn.Parameter(model.embed_tokens.weight.clone())
    save_pretrained(model, tmp_path)  # two tensors, and the same


def test_a_model_is_saved_out_of_its_wrappers(tmp_path, ours):
    for wrapped in (
        torch.nn.DataParallel(ours),
        torch.nn.DataParallel(torch.compile(ours)),
        torch.compile(torch.nn.DataParallel(ours)),
    ):
        save_pretrained(wrapped, tmp_path)
        assert_same_weights(load_pretrained(tmp_path), ours)


@pytest.mark.parametrize("what", [None, "model", torch.nn.Linear(2, 2), SmolLM2], ids=str)
def test_what_is_no_model_is_not_saved(tmp_path, what):
    with pytest.raises(ValueError, match="save_pretrained takes a SmolLM2, got"):
        save_pretrained(what, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["layer", "buffer", "bias", "config", "dtype", "parametrised"])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, ours, how):
    """And what stood there still stands."""
    save_pretrained(ours, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    model = copy.deepcopy(ours)
    if how == "layer":
        del model.layers[1]
    elif how == "buffer":
        model.register_buffer("extra", torch.zeros(1))
    elif how == "bias":
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(97))
    elif how == "config":
        model.config = dataclasses.replace(model.config, num_hidden_layers=2)
    elif how == "dtype":
        model = model.to(torch.float8_e4m3fn)
    else:
        torch.nn.utils.parametrizations.weight_norm(model.layers[0].mlp.up_proj)
    with pytest.raises(ValueError, match=r"is not what its config says|dtype must be a float"):
        save_pretrained(model, tmp_path)
    assert before == {file: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_head_that_is_shared_but_not_tied_is_saved_twice(tmp_path, ours):
    model = copy.deepcopy(ours)
    model.config = dataclasses.replace(model.config, tie_word_embeddings=False)
    save_pretrained(model, tmp_path)
    again = load_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, ours.embed_tokens.weight)
    assert again.lm_head.weight is not again.embed_tokens.weight


def test_a_model_of_shapes_only_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="the model has shapes only, or is in shards"):
        save_pretrained(pretrained.skeleton(tiny_config()), tmp_path)


def test_a_file_is_no_folder_to_save_in(tmp_path, ours):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file is a file, not a folder: name another"):
        save_pretrained(ours, tmp_path / "file")


@pytest.mark.parametrize("what", [None, "HuggingFaceTB/SmolLM2-135M", {}], ids=str)
def test_what_is_no_reference_is_named(what):
    with pytest.raises(ValueError, match="the reference must be a model of transformers, got"):
        from_reference(what)
