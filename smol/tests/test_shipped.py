"""The trained model in assets/smol-stories is what its card says."""

import math
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from smol import BPETokenizer, SmolLM2, generate, load_pretrained, stories
from smol.data import load_corpus
from smol.train import PRESETS, LossModel, TrainConfig, evaluate, read_log, validation_of
from smol.train.checkpoint import save_whole

FOLDER = Path(__file__).parents[2] / "assets" / "smol-stories"


@pytest.fixture(scope="module")
def model() -> SmolLM2:
    return load_pretrained(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.load(FOLDER)


@pytest.fixture(scope="module")
def held_out(model, tokenizer) -> dict:
    config = TrainConfig(preset="small", batch_size=16)
    validation = validation_of(load_corpus("stories"), tokenizer, config)
    return evaluate(LossModel(model), validation, torch.device("cpu"))


def test_it_is_small_and_of_its_preset(model):
    assert (FOLDER / "model.safetensors").stat().st_size <= 6_000_000
    preset = PRESETS["small"]
    changed = {"vocab_size": preset.vocab_size, "pad_token_id": 1}
    assert vars(model.config) == {**vars(preset.config), **changed}
    assert model.config.num_attention_heads == 3 * model.config.num_key_value_heads


def test_its_held_out_loss_is_what_the_card_says(held_out):
    """bf16 weights, products in fp32; no better than the floor allows, or something leaks."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    said = re.search(r"\*\*(\d+\.\d) % above the floor\*\*", card)
    assert said, "the card does not say how far above the floor it is"
    assert abs(100 * held_out["val_over_floor"] - float(said[1])) < 0.2
    assert held_out["val_over_floor"] > 0


def test_the_readme_says_how_far_above_the_floor_it_is(held_out):
    """Three digits of the model's loss, of its floor, and of what the log of its training says."""
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    loss, above = held_out["val_loss"], held_out["val_over_floor"]
    log = [row for row in read_log(FOLDER / "metrics.jsonl") if "val_over_floor" in row]
    floor, logged = loss / (1 + above), 100 * log[-1]["val_over_floor"]
    found = re.search(
        rf"has {loss:.3f} nats per token on 240 held-out stories, whose floor is {floor:.3f}: it "
        r"is (\d\.\d\d) % above it \(the log of its training ends at "
        rf"{logged:.2f} %, which the picture rounds to {logged:.1f} %\)",
        readme,
    )
    assert found and abs(float(found[1]) - 100 * above) < 0.03


def test_both_libraries_load_it_and_agree(model, tokenizer):
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    their_tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = load_corpus("stories").validation[0]
    ids = tokenizer.encode(text)
    assert their_tokenizer(text)["input_ids"] == ids
    assert their_tokenizer.eos_token_id == tokenizer.eos_id == model.config.eos_token_id
    with torch.no_grad():
        assert torch.equal(theirs(torch.tensor([ids])).logits, model(torch.tensor([ids])))


def test_what_leaves_padding_out_of_the_loss_leaves_the_end_in(model):
    """Tokenizer, config and generation_config name one end and another padding: a model whose
    ends were masked as padding never learns to stop."""
    from transformers import DataCollatorForLanguageModeling, GenerationConfig

    theirs = AutoTokenizer.from_pretrained(FOLDER)
    said = GenerationConfig.from_pretrained(FOLDER)
    end, pad = theirs.eos_token_id, theirs.pad_token_id
    for config in (model.config, AutoConfig.from_pretrained(FOLDER), said):
        assert (config.eos_token_id, config.pad_token_id) == (end, pad)
    assert said.bos_token_id == model.config.bos_token_id == end != pad
    long, short = (theirs(text)["input_ids"] + [end] for text in ("There was a vet.", "Once"))
    batch = DataCollatorForLanguageModeling(theirs, mlm=False)([{"input_ids": long},
                                                                {"input_ids": short}])  # fmt: skip
    masked = [-100] * (len(long) - len(short))
    assert batch["labels"].tolist() == [long, short + masked]
    assert batch["input_ids"][1].tolist() == short + [pad] * len(masked)


def test_its_folder_is_as_training_leaves_it(model, tokenizer, tmp_path):
    save_whole(model.bfloat16(), tokenizer, tmp_path)
    model.float()
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (FOLDER / file.name).read_bytes(), file.name
    assert len(list(tmp_path.iterdir())) == 5


def test_it_writes_stories_that_the_grammar_can_read(model, tokenizer):
    """Whole ones, with every name, animal and thing in its place: one wrong word and the grammar
    refuses. At temperature 1, from nothing but the end of text."""
    torch.manual_seed(0)
    start = torch.full((24, 1), tokenizer.eos_id)
    out = generate(model, start, 320, temperature=1.0, stop_ids=[tokenizer.eos_id])
    read = 0
    for row in out[:, 1:].tolist():
        text = tokenizer.decode(
            row[: row.index(tokenizer.eos_id)] if tokenizer.eos_id in row else row
        )
        try:
            assert math.isfinite(stories.log_prob(text))
        except ValueError:
            continue
        read += 1
    assert read >= 4  # about half; none from random weights


def test_its_log_ends_where_it_does(held_out):
    rows = [row for row in read_log(FOLDER / "metrics.jsonl") if "val_over_floor" in row]
    assert rows[-1]["val_over_floor"] == pytest.approx(held_out["val_over_floor"], abs=0.02)
    assert rows[-1]["tokens"] == rows[-1]["unique_tokens"]
