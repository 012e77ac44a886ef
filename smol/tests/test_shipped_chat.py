"""The chat model in assets/smol-stories-chat is what its card says, and so is the one half-way."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from smol import BPETokenizer, SmolLM2, load_pretrained
from smol.bench.answers import COUNT, MODELS, story_loss, together
from smol.finetune import Exact, exact
from smol.finetune.data import TEMPLATE, end_of, pad_of
from smol.finetune.run import save_chat
from smol.generate import chat
from smol.stories.chat import ASKED, conversations
from smol.train import read_log

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"
FOLDER, HALFWAY = ASSETS / "smol-stories-chat", ASSETS / "smol-stories-halfway"
FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
}
TALKS = 100  # some 500 questions, of another seed than the stored figures


@pytest.fixture(scope="module")
def model() -> SmolLM2:
    return load_pretrained(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.load(FOLDER)


@pytest.fixture(scope="module")
def stored() -> dict[str, dict]:
    said = json.loads((ROOT / "assets/results/answers.json").read_text(encoding="utf-8"))
    return {row["model"]: row for row in said["answers"]["models"]}


def share(count: tuple[int, int]) -> float:
    right, asked = count
    return right / asked


# -- what it answers ------------------------------------------------------------------------------


def test_the_stored_figures_are_of_enough_questions_and_good_enough(stored):
    """Each kind alone, later turns apart, and what it has forgotten."""
    base, halfway, told = (stored[name] for name in MODELS)
    assert told["conversations"] == COUNT
    found = Exact(told["first"], told["later"])
    both = together(found)
    assert both["questions"][1] >= 1000 and share(both["questions"]) >= 0.97
    assert share(both["open"]) >= 0.98 and share(both["silent"]) <= 0.01
    assert told["story_loss"] <= 1.05 * base["story_loss"]
    for kind in (*ASKED, "story"):
        assert both[kind][1] >= 150 and share(both[kind]) >= (0.9 if kind in ASKED else 0.87), kind
    later = {kind: n for kind, n in found.later.items() if kind in ASKED}
    assert sum(n for _, n in later.values()) >= 1000
    assert all(share(n) >= 0.9 for n in later.values())
    before = together(Exact(base["first"], base["later"]))
    assert all(before[kind][0] == 0 for kind in (*ASKED, "story", "flawless"))
    between = together(Exact(halfway["first"], halfway["later"]))
    assert 0.2 < share(between["questions"]) < share(both["questions"]) - 0.1


def test_it_answers_as_well_where_nobody_has_looked_yet(model, tokenizer, stored):
    both = together(exact(model, tokenizer, TALKS, seed=20_001))
    assert share(both["questions"]) >= 0.96 and share(both["open"]) >= 0.97
    assert share(both["silent"]) <= 0.02 and share(both["story"]) >= 0.7  # of some 15
    usual = together(Exact(stored[FOLDER.name]["first"], stored[FOLDER.name]["later"]))
    assert abs(share(both["questions"]) - share(usual["questions"])) < 0.025


def test_it_can_still_tell_stories(model, tokenizer, stored):
    """The loss on the held-out stories, and what answering has cost of it."""
    loss = story_loss(model, tokenizer)
    assert loss == pytest.approx(stored[FOLDER.name]["story_loss"], abs=2e-4)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    more = 100 * (loss / stored["smol-stories"]["story_loss"] - 1)
    said = re.search(r"(\d\.\d\d\d) nats per token, (\d+\.\d) % more than the base", card)
    assert said and abs(float(said[1]) - loss) < 1e-3 and abs(float(said[2]) - more) < 0.1


def test_the_card_says_what_is_stored(stored):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = Exact(stored[FOLDER.name]["first"], stored[FOLDER.name]["later"])
    for kind, (right, asked) in together(found).items():
        later = found.later.get(kind)
        row = f"| {right:,} of {asked:,} | {100 * right / asked:.1f} % |"
        assert row in card, (kind, row)
        if kind in ASKED:
            assert f"{row} {100 * share(later):.1f} % |" in card, kind


def test_readme_and_contributing_say_what_is_stored(stored):
    found = together((stored[FOLDER.name]["first"], stored[FOLDER.name]["later"]))
    (right, asked), (opened, all_open) = found["questions"], found["open"]
    (quiet, said), (told, wished) = found["silent"], found["story"]
    more = 100 * (stored[FOLDER.name]["story_loss"] / stored["smol-stories"]["story_loss"] - 1)
    claim = (
        f"answers {right:,} of {asked:,} questions about stories that it never met to the letter, "
        f"its base none; of what a story leaves open it says so {opened:,} times of {all_open:,}, "
        f"and of what is there {quiet} times of {said:,}; {told} of {wished} stories that were "
        "wished for have what was wished for; the loss on held-out stories has risen by "
        f"{more:.1f} %"
    )
    for page in ("README.md", "CONTRIBUTING.md"):
        assert claim in (ROOT / page).read_text(encoding="utf-8"), page


# -- its folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [FOLDER, HALFWAY], ids=lambda folder: folder.name)
def test_it_is_small_and_whole(folder, tmp_path):
    """And as the run leaves it, in bf16."""
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000
    save_chat(load_pretrained(folder).bfloat16(), BPETokenizer.load(folder), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == FILES
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name


def test_its_end_is_no_padding_and_its_template_marks_what_is_learned(model, tokenizer):
    theirs, said = AutoTokenizer.from_pretrained(FOLDER), GenerationConfig.from_pretrained(FOLDER)
    end, fill = end_of(tokenizer), pad_of(tokenizer)
    assert end == tokenizer.added_id("<|im_end|>") != fill
    for where in (theirs, model.config, said):
        assert (where.eos_token_id, where.pad_token_id) == (end, fill)
    assert tokenizer.chat_template == theirs.chat_template == TEMPLATE
    talk = next(conversations(1, 5)).messages
    ids = theirs.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    learned = [i for i, here in zip(ids["input_ids"], ids["assistant_masks"], strict=True) if here]
    answers = [m["content"] for m in talk if m["role"] == "assistant"]
    assert tokenizer.decode(learned).split("<|im_end|>") == [*answers, ""]


def test_transformers_generates_the_same_answers(model, tokenizer):
    """By its own template, with its own defaults: greedy, and it stops by itself."""
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    their_tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for talk in conversations(6, 11, True, list(ASKED)):
        said = talk.messages[:1]
        ids = their_tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        begin = ids["input_ids"].size(1)
        made = theirs.generate(**ids, max_new_tokens=100)[0, begin:]
        reply = their_tokenizer.decode(made, skip_special_tokens=True)
        assert reply == "".join(chat(model, tokenizer, said, 100))
        assert made[-1] == model.config.eos_token_id


def test_its_log_is_of_the_last_run():
    rows = read_log(FOLDER / "metrics.jsonl")
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"`stories-chat` as it is now | {rows[-1]['step']:,} |" in card
    assert rows[-1]["lr"] < 0.01 * max(row["lr"] for row in rows)
    assert rows[-1]["tokens"] == rows[-1]["unique_tokens"]


def test_the_one_half_way_is_a_checkpoint_of_the_run_that_is_stored():
    card = (HALFWAY / "README.md").read_text(encoding="utf-8")
    run = json.loads((ROOT / "assets/results/answers_run.json").read_text(encoding="utf-8"))
    names = [row["model"] for row in run["models"]]
    assert names == sorted(names) and re.search(r"runs/(all/step-\d{6})", card)[1] in names[:-1]
