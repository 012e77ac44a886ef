"""LoRA: nothing at the start, then α/r B A, and the same when it is merged, saved and loaded."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from smol import SmolLM2, generate, load_pretrained, save_pretrained
from smol.finetune import (
    LoRALinear,
    add_lora,
    load_lora,
    lora,
    lora_parameters,
    merge_lora,
    save_lora,
    without_lora,
)
from smol.generate.fast import prepare_for_decoding
from smol.tests.reference import random_ids, tiny_config

IDS = random_ids(2, 16)
LINEARS = {
    "mlp": ["down_proj", "gate_proj", "up_proj"],
    "self_attn": ["k_proj", "o_proj", "q_proj", "v_proj"],
}
TARGETS = sorted(LINEARS["mlp"] + LINEARS["self_attn"])
NAMES = [f"{part}.{name}" for part, names in LINEARS.items() for name in names]


@pytest.fixture
def model(ours):
    return copy.deepcopy(ours)


def drawn(model: SmolLM2, r: int = 4, alpha: float = 12, seed: int = 0) -> SmolLM2:
    """The model with a change that can be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for weight in lora_parameters(add_lora(model, r, alpha)):
            nn.init.normal_(weight, std=0.1)
    return model


def close(got: torch.Tensor, want: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@torch.no_grad()
def check_lora(ours) -> None:
    """To the bit what it was, then exactly α/r B A beside each weight of the blocks."""
    model = copy.deepcopy(ours)
    assert torch.equal(add_lora(model, 4, 12)(IDS), ours(IDS))
    A = model.layers[0].self_attn.q_proj.lora_A.weight
    bound = A.size(1) ** -0.5  # of a uniform distribution
    assert A.abs().max() <= bound and abs(A.std() * math.sqrt(3) / bound - 1) < 0.1
    model = drawn(copy.deepcopy(ours), 4, 12)
    want = copy.deepcopy(ours)
    for layer, plain in zip(model.layers, want.layers, strict=True):
        for name in NAMES:
            with_lora, weight = layer.get_submodule(name), plain.get_submodule(name).weight
            weight += 3 * with_lora.lora_B.weight @ with_lora.lora_A.weight
    assert (want(IDS) - ours(IDS)).abs().max() > 0.05
    close(model(IDS), want(IDS))


def test_it_is_nothing_at_the_start_and_then_what_the_paper_says(ours):
    check_lora(ours)


class Unscaled(LoRALinear):
    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class AlphaAlone(LoRALinear):
    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.alpha


class RandomB(LoRALinear):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        nn.init.normal_(self.lora_B.weight, std=1e-3)


class ZeroA(LoRALinear):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        nn.init.zeros_(self.lora_A.weight)


class NotAdded(LoRALinear):
    def forward(self, x):
        return self.base_layer(x)


@pytest.mark.parametrize("wrong", [Unscaled, AlphaAlone, RandomB, ZeroA, NotAdded])
def test_lora_that_is_wrong_is_seen(ours, monkeypatch, wrong):
    monkeypatch.setattr(lora, "LoRALinear", wrong)
    with pytest.raises(AssertionError):
        check_lora(ours)


def test_all_linears_of_the_blocks_and_nothing_else_are_trained(model):
    plain = copy.deepcopy(model)
    add_lora(model, 2, 4)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"layers.{i}.{name}.{part}.weight"
        for i in range(len(model.layers))
        for name in NAMES
        for part in ("lora_A", "lora_B")
    }
    assert len(lora_parameters(model)) == len(trained)
    assert type(model.lm_head) is nn.Linear and model.lm_head.weight is model.embed_tokens.weight
    before = [p.clone() for p in lora_parameters(model)]
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.01), []
    for _ in range(8):  # what needs no gradient has none, and stays, whatever it would decay
        loss = F.cross_entropy(model(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert not any(map(torch.equal, before, lora_parameters(model)))
    state = {k.replace("base_layer.", ""): v for k, v in model.state_dict().items()}
    assert all(torch.equal(state[name], weight) for name, weight in plain.state_dict().items())


@torch.no_grad()
def test_merged_is_unmerged(model):
    want = drawn(model)(IDS)
    keys = set(merge_lora(model).state_dict())
    close(model(IDS), want)
    assert keys == set(SmolLM2(model.config).state_dict())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="the model has no LoRA: add it first"):
        merge_lora(model)  # twice would add it twice


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-6), (torch.bfloat16, 0.2)])
def test_it_is_merged_in_any_precision(model, dtype, off):
    want = drawn(model.to(dtype))(IDS)
    assert {p.dtype for p in model.parameters()} == {dtype}
    close(merge_lora(model)(IDS), want, off)


def test_the_reference_is_the_model_without_it(ours, model):
    drawn(model)
    with torch.no_grad():
        changed = model(IDS)
        with without_lora(model) as reference:
            assert torch.equal(reference(IDS), ours(IDS))
        assert torch.equal(model(IDS), changed) and not torch.equal(changed, ours(IDS))
        with pytest.raises(KeyError), without_lora(model):
            raise KeyError
        assert torch.equal(model(IDS), changed)


def test_a_model_with_lora_answers_as_the_merged_one(model):
    drawn(model)
    got = generate(model, IDS, 12)
    columns = generate(prepare_for_decoding(copy.deepcopy(model)), IDS, 12)
    assert torch.equal(got, generate(merge_lora(model), IDS, 12)) and torch.equal(got, columns)


# -- saved --------------------------------------------------------------------------------------


def test_what_is_saved_has_pefts_names(model, tmp_path):
    drawn(model, 4, 12)
    save_lora(model, tmp_path / "a", "some/model")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["lora_alpha"] == 12 and config["peft_type"] == "LORA"
    assert config["target_modules"] == TARGETS
    assert config["base_model_name_or_path"] == "some/model"
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    q = "base_model.model.model.layers.2.self_attn.q_proj"
    assert torch.equal(
        tensors[f"{q}.lora_A.weight"], model.layers[2].self_attn.q_proj.lora_A.weight
    )
    assert tensors[f"{q}.lora_B.weight"].shape == (48, 4)
    assert len(tensors) == 2 * 3 * 7 and not any("embed" in k or "head" in k for k in tensors)
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == sorted(
        (lora.CONFIG, lora.WEIGHTS)
    )


@torch.no_grad()
def test_it_is_loaded_again(ours, model, tmp_path):
    want = drawn(model)(IDS)
    save_lora(model, tmp_path)
    assert torch.equal(load_lora(copy.deepcopy(ours), tmp_path)(IDS), want)


@torch.no_grad()
def test_the_merged_model_is_transformers(model, tmp_path):
    from transformers import AutoModelForCausalLM

    want = drawn(model)(IDS)
    with pytest.raises(ValueError, match=r"not what its config says: .*lora_A"):
        save_pretrained(model, tmp_path)
    save_pretrained(merge_lora(model), tmp_path)
    close(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, want)
    close(load_pretrained(tmp_path)(IDS), want)


PEFT = "peft, which an adapter is for, is not installed: pip install -e '.[dev]'"


@torch.no_grad()
def test_peft_loads_what_is_saved(reference, model, tmp_path):
    peft = pytest.importorskip("peft", reason=PEFT)
    want = drawn(model)(IDS)
    save_lora(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(reference), tmp_path)
    close(theirs(IDS).logits, want)
    close(theirs.merge_and_unload()(IDS).logits, merge_lora(model)(IDS))


@torch.no_grad()
def test_what_peft_saves_is_loaded(reference, model, tmp_path):
    peft = pytest.importorskip("peft", reason=PEFT)
    config = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=TARGETS, task_type="CAUSAL_LM", init_lora_weights=False
    )
    theirs = peft.get_peft_model(copy.deepcopy(reference), config).eval()
    theirs.save_pretrained(tmp_path)
    close(load_lora(model, tmp_path)(IDS), theirs(IDS).logits)
    few = peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(copy.deepcopy(reference), few).save_pretrained(tmp_path / "few")
    with pytest.raises(ValueError, match="is not for every Linear of this model's blocks"):
        load_lora(merge_lora(model), tmp_path / "few")


# -- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ((0, 1), "r must be 1 or more, got 0"),
        ((2.0, 1), "r must be a whole number"),
        ((2, 0), "alpha must be above 0 and finite, got 0"),
        ((2, math.inf), "alpha must be above 0 and finite"),
        ((2, "16"), "alpha must be a number"),
    ],
)
def test_settings_out_of_range_change_nothing(model, settings, why):
    with pytest.raises(ValueError, match=why):
        add_lora(model, *settings)
    assert all(p.requires_grad for p in model.parameters())


def test_lora_is_added_once_to_a_model_of_ours(model, reference):
    with pytest.raises(ValueError, match="the model has LoRA already: merge it first"):
        add_lora(add_lora(model))
    with pytest.raises(ValueError, match="add_lora takes a SmolLM2, got a LlamaForCausalLM"):
        add_lora(reference)


def test_without_lora_there_is_nothing_to_do(model, tmp_path):
    def entered(model):
        with without_lora(model):
            pass

    for use in (lora_parameters, entered, lambda model: save_lora(model, tmp_path / "a")):
        with pytest.raises(ValueError, match="the model has no LoRA"):
            use(model)
    assert not (tmp_path / "a").exists()


def spoiled(folder, **changes) -> None:
    config = json.loads((folder / lora.CONFIG).read_text())
    (folder / lora.CONFIG).write_text(json.dumps({**config, **changes}))


BAD = {
    "no file": (lambda f: (f / lora.WEIGHTS).unlink(), "safetensors is missing"),
    "half a file": (lambda f: (f / lora.WEIGHTS).write_bytes(b"abc"), "no whole adapter"),
    "no JSON": (lambda f: (f / lora.CONFIG).write_text("{"), "no whole adapter"),
    "a list": (lambda f: (f / lora.CONFIG).write_text("[]"), "no whole adapter"),
    "no r": (lambda f: (f / lora.CONFIG).write_text('{"peft_type": "LORA"}'), "no whole adapter"),
    "another kind": (lambda f: spoiled(f, peft_type="IA3"), r"of another kind \(IA3\): peft"),
    "another scale": (lambda f: spoiled(f, use_rslora=True), r"another kind \(use_rslora\)"),
    "another rank": (lambda f: spoiled(f, r=5), "not for every Linear of this model's blocks"),
    "a wrong rank": (lambda f: spoiled(f, r=0), "r must be 1 or more"),
    "another model": (
        lambda f: save_lora(drawn(SmolLM2(tiny_config(num_hidden_layers=2))), f),
        "not for every Linear",
    ),
    "a key too many": (
        lambda f: save_file({**load_file(f / lora.WEIGHTS), "x": IDS}, f / lora.WEIGHTS),
        "not for every Linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was(ours, model, tmp_path, name):
    spoil, why = BAD[name]
    save_lora(drawn(copy.deepcopy(model)), tmp_path)
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        load_lora(model, tmp_path)
    assert set(model.state_dict()) == set(ours.state_dict())
    assert torch.equal(model(IDS), ours(IDS)) and all(p.requires_grad for p in model.parameters())
