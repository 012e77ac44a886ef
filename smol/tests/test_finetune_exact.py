"""Answers counted: a model that knows them all, one that knows none, and one with its own mind."""

import json
import random
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from smol import load_pretrained, stories
from smol.bench import answers
from smol.finetune import evaluation, exact
from smol.finetune.data import TEMPLATE
from smol.pretrained import SHIPPED
from smol.stories import chat
from smol.stories.chat import conversations, right
from smol.tests.ggufs import small_model
from smol.tests.test_finetune import with_template
from smol.tokenizer import BPETokenizer

COUNT = 36


def with_replies(monkeypatch, reply) -> evaluation.Exact:
    """What is counted where `reply(talk)` is the answer."""
    monkeypatch.setattr(
        evaluation, "_replies", lambda model, tokenizer, talks: [reply(talk) for talk in talks]
    )
    return exact(small_model(), with_template(TEMPLATE), COUNT, seed=3)


def asked() -> tuple[Counter, Counter]:
    """How often each kind is asked, first and later."""
    kinds = [talk.kinds for talk in conversations(COUNT, 3, held_out=True)]
    both = Counter(k[0] for k in kinds), Counter(kind for k in kinds for kind in k[1:])
    both[0]["flawless"] = both[0]["story"]
    return both


def counts(found: evaluation.Exact, which: int) -> tuple[dict, dict]:
    """Without "silent"."""
    parts = [{kind: n[which] for kind, n in part.items()} for part in found]
    for part in parts:
        part.pop("silent", None)
    return tuple(parts)


def test_who_knows_all_is_right_each_time(monkeypatch):
    found = with_replies(monkeypatch, lambda talk: talk.wanted)
    assert counts(found, 0) == counts(found, 1) == asked()
    assert len(found.later) >= 5 and "story" in found.first
    for part in found:
        said = sum(n for kind, (_, n) in part.items() if kind in chat.ASKED and kind != "open")
        assert part["silent"] == (0, said) and said > 5


def test_who_is_always_silent_is_right_where_the_story_is(monkeypatch):
    found = with_replies(monkeypatch, lambda talk: chat.OPEN)
    for part, wanted in zip(counts(found, 0), asked(), strict=True):
        assert {kind: n for kind, n in part.items() if n} == {"open": wanted["open"]}
    assert all(part["silent"][0] == part["silent"][1] > 5 for part in found)


@pytest.mark.parametrize("reply", ["", "Oscar", "The Fox\nOnce.", stories.write(1, 5)[0]])
def test_who_knows_nothing_is_asked_all_the_same(monkeypatch, reply):
    """Also where what is said is a story that nobody asked for."""
    found = with_replies(monkeypatch, lambda talk: reply)
    assert counts(found, 1) == asked()
    assert sum(sum(part.values()) for part in counts(found, 0)) == 0


def test_after_a_story_that_nobody_can_read_comes_the_right_one(monkeypatch):
    found = with_replies(
        monkeypatch, lambda talk: "no story" if "\n" in talk.wanted else talk.wanted
    )
    rights, wanted = counts(found, 0), asked()
    assert rights[0].pop("story") == 0 and wanted[0].pop("story") > 3
    assert rights[0].pop("flawless") == 0 and wanted[0].pop("flawless") > 3
    assert rights == wanted


def test_a_story_with_a_slip_has_what_was_asked_for_and_is_not_flawless(monkeypatch):
    def slips(talk):
        return talk.wanted + " The end." if "\n" in talk.wanted else talk.wanted

    rights, wanted = counts(with_replies(monkeypatch, slips), 0), asked()
    assert rights[0].pop("flawless") == 0 and wanted[0].pop("flawless") > 3
    assert rights == wanted


def test_a_story_of_its_own_is_asked_about_where_it_can_be():
    rng, kept = random.Random(0), 0
    for written in conversations(200, 3, held_out=True):
        if written.kinds[0] != "story" or len(written.kinds) < 2:
            continue
        given = chat._facts(written.messages[1]["content"], stories.grammar()).drawn
        talk, own = evaluation._Talk(written), stories.grammar().write(rng, given)
        fulfils = right(written.messages[:1], own)
        assert talk.hear(own) == {"story": fulfils, "flawless": fulfils}
        same = talk.said[1]["content"] == own
        assert same or talk.said[1] == written.messages[1]
        assert talk.said[2] == written.messages[2]
        right(talk.said, "")  # it can be judged
        assert right(talk.said, "The story does not say.") == (written.kinds[1] == "open")
        kept += same and own != written.messages[1]["content"]
    assert kept >= 3


def test_a_wrong_answer_stays_in_the_conversation():
    talk = evaluation._Talk(
        next(t for t in conversations(50, 3) if len(t.kinds) > 2 and "story" not in t.kinds)
    )
    assert (
        not any(talk.hear("Nobody knows.").values()) and talk.said[1]["content"] == "Nobody knows."
    )
    assert talk.said[2] == talk.given[2] and any(talk.hear(talk.wanted).values())


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    tokenizer = BPETokenizer.load(SHIPPED)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


GOES_ON = """{% for m in messages %}{{ m['content'] }}
{%- if m['role'] == 'assistant' %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"""


def test_replies_in_batches_are_those_of_one_at_a_time():
    """Of a model that goes on with beginnings of stories, long and short ones."""
    model, tokenizer = load_pretrained(SHIPPED), BPETokenizer.load(SHIPPED)
    tokenizer.chat_template = GOES_ON
    talks = [evaluation._Talk(t) for t in islice(conversations(9, 3), 6)]
    for n, (talk, story) in enumerate(zip(talks, stories.write(6, 4), strict=True)):
        talk.said = [{"role": "user", "content": story[: 300 - 40 * n]}]
    together = evaluation._replies(model, tokenizer, talks)
    for talk, long in zip(talks, together, strict=True):  # no end is met, and alone less is wanted
        [alone] = evaluation._replies(model, tokenizer, [talk])
        assert len(alone) > 4 and long.startswith(alone)
    assert len({reply[:5] for reply in together}) == 6


def test_a_reply_ends_at_its_end_token_and_where_the_context_ends(monkeypatch, tokenizer):
    model, rooms = load_pretrained(SHIPPED), []
    said, end = tokenizer.encode("Oscar."), tokenizer.added_id("<|im_end|>")

    def generates(model, ids, room, **settings):
        rooms.append(room)
        assert end in settings["stop_ids"] and tokenizer.eos_id in settings["stop_ids"]
        return torch.cat((ids, torch.tensor([[*said, end, *said]] * len(ids))), dim=1)

    monkeypatch.setattr(evaluation, "generate", generates)
    talks = [evaluation._Talk(t) for t in conversations(4, 3)]
    assert evaluation._replies(model, tokenizer, talks) == ["Oscar."] * 4
    assert rooms[0] <= 2 * max(len(tokenizer.encode(talk.wanted)) for talk in talks)
    for talk in talks:
        talk.said = [{"role": "user", "content": talk.given[0]["content"] * 20}]
    assert evaluation._replies(model, tokenizer, talks) == [""] * 4 and len(rooms) == 1


def test_what_is_no_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="exact takes a SmolLM2, got a dict"):
        exact({}, tokenizer, 1)
    with pytest.raises(ValueError, match="count must be 1 or more"):
        exact(small_model(), tokenizer, 0)


# -- the command ----------------------------------------------------------------------------------


def test_kinds_at_the_beginning_and_later_make_one_count():
    found = evaluation.Exact(
        {"who": (3, 4), "open": (1, 2), "story": (1, 1), "silent": (0, 4)},
        {"who": (1, 2), "count": (0, 3), "silent": (2, 5)},
    )
    assert answers.together(found) == {
        "questions": (4, 9),  # what a story answers: neither what it leaves open, nor a wish
        "count": (0, 3),
        "open": (1, 2),
        "silent": (2, 9),
        "story": (1, 1),
        "who": (4, 6),
    }


def test_a_checkpoint_is_named_with_its_run():
    for folder, name in {
        "runs/a/step-000010": "a/step-000010",
        "runs/a/model": "model",
        "step-000010": "step-000010",
        "smol-stories": "smol-stories",
    }.items():
        assert answers._name(Path(folder)) == name


def test_the_command_writes_a_row_for_each_folder_as_it_comes(monkeypatch, tmp_path, capsys):
    losses = iter((0.25, ValueError("torn")))

    def story_loss(model, tokenizer):
        if isinstance(loss := next(losses), float):
            return loss
        raise loss

    monkeypatch.setattr(answers, "story_loss", story_loss)
    file = tmp_path / "it.json"
    line = ["answers", str(SHIPPED), str(SHIPPED), "--conversations", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", line)
    assert answers.main() == 1 and "torn" in capsys.readouterr().err
    said = json.loads(file.read_text(encoding="utf-8"))
    assert said["command"].endswith("smol-stories smol-stories --conversations 2")
    [row] = said["models"]  # the first one's, whatever became of the second
    assert row["model"] == "smol-stories" and row["story_loss"] == 0.25
    kinds = Counter(kind for talk in conversations(2, 0, held_out=True) for kind in talk.kinds)
    both = answers.together(evaluation.Exact(row["first"], row["later"]))
    assert {kind: both[kind] for kind in kinds} == {kind: (0, n) for kind, n in kinds.items()}


@pytest.mark.parametrize("wrong", [["--conversations", "0"], ["--json", ""]])
def test_a_command_that_cannot_be_is_refused_before_any_work(wrong, monkeypatch, capsys):
    monkeypatch.setattr(answers, "load_pretrained", None)
    monkeypatch.setattr(sys, "argv", ["answers", str(SHIPPED), *wrong])
    try:
        code = answers.main()
    except SystemExit as stop:
        code = stop.code
    assert code and wrong[0].strip("-") in capsys.readouterr().err
