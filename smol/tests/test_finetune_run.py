"""Fine-tuning as a run: exact resume, any number of processes, what is kept, what is refused."""

import json
import os
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from smol import BPETokenizer, load_pretrained, save_pretrained, stories
from smol.finetune import (
    FinetuneConfig,
    data,
    finetune,
    load_lora,
    merge_lora,
    pad,
    read_messages,
    render,
)
from smol.finetune import __main__ as cli
from smol.finetune.data import EVERY, STORIES, TEMPLATE, Chats, reading_of
from smol.stories import chat as of_stories
from smol.stories import exercises
from smol.stories.chat import OPEN, answers, conversations, follows
from smol.tests.ggufs import small_model, small_tokenizer
from smol.tests.test_finetune import said, streaming, with_template
from smol.train import Log, read_log

ROOT = Path(__file__).parents[2]
TOKENIZER = with_template(TEMPLATE)
END, PAD = (TOKENIZER.added_id(text) for text in ("<|im_end|>", "<|endoftext|>"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model without a chat template, and 30 conversations, answers long and short."""
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(small_model(), folder)
    small_tokenizer().save(folder)
    words = ("The quick fox", "over the lazy dog", "jumps", "of them", "1234 ears")
    talks = [
        said(f"{words[n % 5]} {n}", words[n % 3] * (1 + n % 4), words[n % 2], "don't!")[
            : 2 + n % 3
        ]
        for n in range(30)
    ]
    rows = [json.dumps({"messages": messages}) for messages in talks]
    (folder / "chats.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def settings(folder: Path, **changes) -> FinetuneConfig:
    small = {"model": str(folder), "data": str(folder / "chats.jsonl"), "steps": 6}
    often = {"log_every": 1, "eval_every": 3, "save_every": 2}
    sizes = {"batch_size": 4, "seq_len": 128, "device": "cpu", "learning_rate": 1e-2}
    return FinetuneConfig(**{**small, **often, **sizes, **changes})


def losses(out: Path) -> list[tuple]:
    rows = read_log(out / "metrics.jsonl")
    return [(row["step"], row["loss"], row["grad_norm"], row.get("val_loss")) for row in rows]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> dict[str, Path]:
    """An uninterrupted run of each method."""
    runs = {method: tmp_path_factory.mktemp("runs") / method for method in ("sft", "lora")}
    for method, out in runs.items():
        finetune(settings(folder, method=method), out)
    return runs


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_pretrained(folder).state_dict()


# -- the run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "lora"])
def test_a_run_learns_what_is_held_out_too(whole, method):
    rows = losses(whole[method])
    assert [row[0] for row in rows] == [*range(1, 7)]
    assert rows[-1][1] < rows[0][1] - 0.1
    assert rows[-1][3] < rows[2][3]


def resumed(folder, out, monkeypatch, method: str, after: int) -> Path:
    """A run that was killed after so many steps, before that step's checkpoint, and resumed."""
    add = Log.add

    def dies(log, row):
        add(log, row)
        if row["step"] == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Log, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(folder, method=method), out)
    monkeypatch.setattr(Log, "add", add)
    assert not (out / "model").exists()
    finetune(settings(folder, method=method), out, resume=True)
    return out


@pytest.mark.parametrize(("method", "after"), [("sft", 3), ("sft", 6), ("lora", 3), ("lora", 6)])
def test_resumed_is_uninterrupted_to_the_bit(folder, whole, tmp_path, monkeypatch, method, after):
    out = resumed(folder, tmp_path, monkeypatch, method, after)
    assert losses(out) == losses(whole[method])
    ours, theirs = (weights(o / "model") for o in (out, whole[method]))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_lost_position_would_show(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(Chats, "load_state_dict", lambda batches, state: None)
    out = resumed(folder, tmp_path, monkeypatch, "sft", 3)
    assert losses(out) != losses(whole["sft"])


def test_a_run_at_its_end_leaves_its_model_again(folder, whole):
    """Also where it was killed between the last checkpoint and that."""
    file = whole["lora"] / "model" / "model.safetensors"
    before = file.read_bytes()
    file.unlink()
    assert finetune(settings(folder, method="lora"), whole["lora"], resume=True)[1] == 6
    assert file.read_bytes() == before


PROGRAM = """
import sys
from smol.finetune import FinetuneConfig, finetune
for method in ("sft", "lora"):
    config = FinetuneConfig(**{**eval(sys.argv[1]), "method": method, "accumulate": 2})
    finetune(config, f"{sys.argv[2]}/{method}")
"""


def test_two_processes_train_as_one(folder, whole, tmp_path):
    """torchrun, two processes, two parts each, and a different number of targets in each of them:
    the loss and the gradient are the whole batch's."""
    (tmp_path / "program.py").write_text(PROGRAM)
    config = settings(folder)
    given = {k: getattr(config, k) for k in ("model", "data", "steps", "batch_size", "seq_len",
             "device", "learning_rate", "log_every", "eval_every", "save_every")}  # fmt: skip
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [str(tmp_path / "program.py"), repr(given), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment,
                             capture_output=True, text=True, timeout=300)  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    for method, alone in whole.items():
        ours, theirs = losses(tmp_path / method), losses(alone)
        for a, b in zip(ours, theirs, strict=True):
            assert a[1] == pytest.approx(b[1], abs=1e-4)
            assert a[2] == pytest.approx(b[2], abs=1e-3)
        assert ours[-1][3] == pytest.approx(theirs[-1][3], abs=1e-4)
        assert (tmp_path / method / "model" / "model.safetensors").is_file()


# -- what is kept ---------------------------------------------------------------------------------


def test_the_model_chats_with_transformers(folder, whole):
    """Its tokenizer has the template with marks, and an end that is not its padding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = whole["sft"] / "model"
    theirs, tokenizer = AutoTokenizer.from_pretrained(out), BPETokenizer.load(out)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (END, PAD)
    for messages in islice(read_messages(folder / "chats.jsonl"), 8):
        wanted = theirs.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        chat = render(messages, tokenizer)
        assert chat.ids == wanted["input_ids"]
        assert [int(here) for here in chat.mask] == wanted["assistant_masks"]
        assert (
            tokenizer.apply_chat_template(messages[:1], True)
            == (theirs.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"])
        )
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == END
    assert model.config.pad_token_id == PAD
    ids = torch.randint(300, (1, 20))
    assert torch.equal(model(ids, use_cache=False).logits, load_pretrained(out)(ids))


def test_lora_trains_a_and_b_alone_and_keeps_them_apart(folder, whole):
    out, base = whole["lora"], weights(folder)
    tuned = weights(out / "model")
    for key, weight in tuned.items():
        if key.endswith("_proj.weight"):
            rank = torch.linalg.matrix_rank(weight - base[key], rtol=1e-3).item()
            assert 1 <= rank <= 8
        else:
            assert torch.equal(weight, base[key]), key
    names = {file.name for file in (out / "step-000006").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "training.pt"}
    for kept in ("adapter", "step-000006"):
        merged = merge_lora(load_lora(load_pretrained(folder), out / kept)).state_dict()
        assert all(torch.equal(merged[key], tuned[key]) for key in tuned)


def test_a_torn_adapter_is_refused(folder, whole, tmp_path):
    import shutil

    shutil.copytree(whole["lora"], tmp_path / "out")
    file = tmp_path / "out" / "step-000006" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="step-000006 is torn"):
        finetune(settings(folder, method="lora"), tmp_path / "out", resume=True)


# -- what is read ---------------------------------------------------------------------------------


def test_the_grammars_conversations_are_new_in_each_step_and_the_same_for_a_seed():
    draw = [Chats(None, TOKENIZER, 2, 4096, seed) for seed in (0, 0, 1)]
    first, again, other = ([next(batches) for _ in range(3)] for batches in draw)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    rows = {tuple(row) for batch in (*first, *other) for row in batch[0][:, :300].tolist()}
    assert len(rows) == 12
    later = Chats(None, TOKENIZER, 2, 4096, 0)
    later.load_state_dict(draw[0].state_dict())
    assert torch.equal(next(later)[0], next(draw[0])[0])
    assert later.tokens_seen == later.unique_tokens == draw[0].tokens_seen


def test_a_file_is_gone_through_in_another_order_each_time(folder):
    chats = [render(m, TOKENIZER) for m in read_messages(folder / "chats.jsonl")]
    batches = Chats(chats, TOKENIZER, 5, 128, seed=3)
    rounds = [
        [tuple(row[row != -100].tolist()) for _ in range(6) for row in next(batches)[1]]
        for _ in range(2)
    ]
    assert sorted(rounds[0]) == sorted(rounds[1]) and rounds[0] != rounds[1]
    targets = sum(sum(chat.mask) for chat in chats)
    assert (batches.tokens_seen, batches.unique_tokens) == (2 * targets, targets)
    assert batches.corpus_tokens == targets


def test_a_frozen_embedding_moves_its_special_tokens_alone(folder, tmp_path):
    """Also where the run is resumed: from the weights that the hook left."""
    before = load_pretrained(folder).embed_tokens.weight
    for steps, out in ((4, tmp_path / "whole"), (2, tmp_path / "parts"), (4, tmp_path / "parts")):
        config = settings(folder, steps=steps, schedule="wsd", decay=0.1, freeze_embedding=True)
        model, _ = finetune(config, out, resume=True)
    moved = (model.embed_tokens.weight != before).any(1).nonzero()[:, 0].tolist()
    assert set(moved) <= set(TOKENIZER.special_tokens.values()) and END in moved
    assert not torch.equal(
        model.layers[0].mlp.up_proj.weight, small_model().layers[0].mlp.up_proj.weight
    )
    whole = load_pretrained(tmp_path / "whole/model").embed_tokens.weight
    torch.testing.assert_close(model.embed_tokens.weight, whole)
    with pytest.raises(ValueError, match="lora trains no embedding: leave freeze_embedding out"):
        settings(folder, method="lora", freeze_embedding=True)


def drawn_at_once(seq_len: int, *kinds: str) -> tuple[Chats, list[tuple[str, str]]]:
    """The rows of eight batches of two: what is read, and what is learned of it."""
    batches, rows = Chats(None, TOKENIZER, 2, seq_len, kinds=kinds or EVERY), []
    for inputs, labels in (next(batches) for _ in range(data.DRAWN)):
        for row, label in zip(inputs, labels, strict=True):
            last = int((label != -100).nonzero().max())
            read, learned = row[: last + 1].tolist(), label[label != -100].tolist()
            rows.append((TOKENIZER.decode(read), TOKENIZER.decode(learned)))
    return batches, rows


def test_some_rows_are_stories_as_the_base_has_read_them():
    """With what is held out of conversations: a plot that nobody practises is forgotten."""
    end, rows = "<|endoftext|>", drawn_at_once(4096)[1]
    told = [row for row in rows if row[0].startswith(end)]
    assert half_is_told(rows)
    for read, learned in told:
        assert learned.startswith(read.removeprefix(end))  # from its first token on
        story = learned.removesuffix(end)
        of_stories._facts(story, stories.grammar())  # a whole one
    drawn = (exercises.story(rng) for rng in [random.Random(1)] for _ in range(200))
    facts = [of_stories._facts(story, stories.grammar()) for story in drawn]
    held_out = [of_stories._is_held_out(fact) for fact in facts]
    assert any(of_stories.PLOT in fact.chosen for fact in facts) and 20 < sum(held_out) < 180
    part = Chats(None, TOKENIZER, 2, 100)._alone(story)  # as much as fits
    assert len(part.ids) == 100 and (end + story).startswith(TOKENIZER.decode(part.ids))


def test_some_rows_begin_a_story_that_was_wished_for_and_do_not_end_it():
    rows = drawn_at_once(4096)[1]
    begun = [row for row in rows if not row[1].endswith(("<|im_end|>", "<|endoftext|>"))]
    assert len(begun) == round(data.BEGUN * 16 / 100)
    for read, learned in begun:
        wish = read.partition("user\n")[2].partition("<|im_end|>")[0]
        title, below = learned.split("\n")
        asked = f"<|im_start|>user\n{wish}<|im_end|>\n<|im_start|>assistant\n"
        assert (asked + learned).startswith(read) and len(asked + learned) - len(read) < 9
        assert title and learned.endswith(".")
        if " with a" not in wish:  # else it goes on to the thing
            assert below.count(".") == 1
            assert follows([{"role": "user", "content": wish}], learned + " And so on.")


def test_some_rows_are_echoes():
    rows = drawn_at_once(4096)[1]
    echoes = [row for row in rows if row[0].count(row[1].removesuffix("<|im_end|>")) == 2]
    assert len(echoes) == round(data.ECHOES * 16 / 100)


def test_echoes_alone():
    rows = drawn_at_once(4096, "echo")[1]
    echoes = [row for row in rows if row[0].count(row[1].removesuffix("<|im_end|>")) == 2]
    told = [row for row in rows if row[0].startswith("<|endoftext|>")]
    assert told and len(echoes) == 16 - len(told) and half_is_told(rows)


@pytest.mark.parametrize("kinds", [("count",), ("where", "echo"), ("open", "last")])
def test_one_kind_of_question_at_a_time(kinds):
    rows = drawn_at_once(4096, *kinds)[1]
    assert half_is_told(rows)
    rows = [row for row in rows if not row[0].startswith("<|endoftext|>")]
    echoes = [row for row in rows if row[0].count(row[1].removesuffix("<|im_end|>")) == 2]
    assert len(echoes) == round(data.ECHOES * 16 / 100) * ("echo" in kinds)
    for read, learned in rows:
        if (read, learned) not in echoes:
            known = known_in(read)
            for reply in learned.removesuffix("<|im_end|>").split("<|im_end|>"):
                topics = [name for name, answer in known.items() if answer == reply]
                of = {"open" if reply == OPEN else name.partition("_")[0] for name in topics}
                assert of & set(kinds), (reply, topics)


def half_is_told(rows: list[tuple[str, str]]) -> bool:
    """Whether half of what is learned are stories alone, as near as whole rows allow."""
    counts = [(read[:13] == "<|endoftext|>", len(TOKENIZER.encode(said))) for read, said in rows]
    told, every = sum(n for alone, n in counts if alone), sum(n for _, n in counts)
    return abs(2 * told - every) <= max(n for _, n in counts)


def known_in(conversation: str) -> dict[str, str]:
    """The answers of the story that a conversation shows."""
    asked = conversation.partition("user\n")[2].partition("<|im_end|>")[0]
    for piece in asked.split("\n\n"):
        try:
            return answers(piece)
        except ValueError:
            continue
    raise AssertionError(f"no story in {asked[:80]!r}")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("", "kinds is empty"),
        ("how many", "kinds 'how many' is none of who, what, where, count, last, open, story, ec"),
        ("count,", "kinds '' is none of"),
        ("story", "kinds names no kind of question: add one of who, what"),
        ("story, echo", "kinds names no kind of question: add one of who, what"),
    ],
)
def test_kinds_that_are_none(kinds, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(model="m", kinds=kinds)
    assert FinetuneConfig(model="m", kinds="count, echo").kinds == "count,echo"
    for other in ({"data": "x.jsonl"}, {"data": "smoltalk"}, {"method": "dpo"}):
        with pytest.raises(ValueError, match="kinds are those of stories-chat, and not for dpo"):
            FinetuneConfig(model="m", kinds="count", **other)


def test_kinds_reach_the_run(folder, tmp_path, monkeypatch):
    config = settings(folder, data=STORIES, seq_len=4096, kinds="last,echo")
    reading = reading_of(config, TOKENIZER)
    assert reading.batches.state_dict()["kinds"] == ["last", "echo"]
    with pytest.raises(ValueError, match="had another kinds"):
        Chats(None, TOKENIZER, 4, 4096).load_state_dict(reading.batches.state_dict())
    taken = []
    monkeypatch.setattr(cli, "finetune", lambda config, *rest: taken.append(config) or (None, 6))
    command = "--model m --steps 6 --kinds count --out"
    monkeypatch.setattr(sys, "argv", ["smol.finetune", *command.split(), str(tmp_path)])
    assert cli.main() == 0 and taken[0].kinds == "count"


def test_a_state_of_other_shares_is_refused(monkeypatch):
    state = Chats(None, TOKENIZER, 2, 512).state_dict()
    for name in ("ALONE", "BEGUN", "ECHOES", "TOLD"):
        with monkeypatch.context() as patch:
            patch.setattr(data, name, 1)
            with pytest.raises(ValueError, match="had another conversations"):
                Chats(None, TOKENIZER, 2, 512).load_state_dict(state)


def test_rows_have_few_lengths_and_those_are_compiled():
    assert FinetuneConfig(model="m", seq_len=100).lengths == (13, 25, 38, 50, 63, 75, 88, 100)
    batches = Chats(None, TOKENIZER, 2, 4096)
    assert {next(batches)[0].size(1) for _ in range(3)} <= set(range(512, 4097, 512))


def test_stories_of_like_length_lie_together_and_any_batch_can_be_gone_on_from():
    first = Chats(None, TOKENIZER, 3, 4096)
    seen = [next(first) for _ in range(20)]
    lengths = [[int((row != -100).nonzero().max()) for row in labels] for _, labels in seen]
    spread = [max(some) - min(some) for some in lengths]
    drawn = [max(map(max, lengths[i : i + 8])) - min(map(min, lengths[i : i + 8])) for i in (0, 8)]
    assert sum(spread[:16]) / 16 < sum(drawn) / 2 / 4  # eight parts of what was drawn
    assert [inputs.size(1) for inputs, _ in seen[:8]] != sorted(i.size(1) for i, _ in seen[:8])
    again = Chats(None, TOKENIZER, 3, 4096)
    for stop in (5, 8, 11):
        again.load_state_dict({**first.state_dict(), "drawn": stop})
        assert torch.equal(next(again)[0], seen[stop][0])


def test_a_state_of_other_conversations_is_refused(folder):
    chats = [render(m, TOKENIZER) for m in read_messages(folder / "chats.jsonl")]
    state = Chats(chats, TOKENIZER, 5, 128).state_dict()
    for other in (chats[1:], None):
        with pytest.raises(ValueError, match="had another conversations: resume with the data"):
            Chats(other, TOKENIZER, 5, 128).load_state_dict(state)


def test_a_state_of_other_sentences_is_refused(monkeypatch):
    state = Chats(None, TOKENIZER, 2, 512).state_dict()
    Chats(None, TOKENIZER, 2, 512).load_state_dict(state)
    monkeypatch.setattr("smol.stories.FILES", stories.FILES[:1])
    with pytest.raises(ValueError, match="had another conversations: resume with the data"):
        Chats(None, TOKENIZER, 2, 512).load_state_dict(state)


def test_the_held_out_loss_is_per_target_of_conversations_that_are_not_learned(folder, whole):
    chats = [render(m, TOKENIZER) for m in read_messages(folder / "chats.jsonl")]
    reading = reading_of(settings(folder), TOKENIZER)
    assert reading.batches.corpus_tokens == sum(sum(chat.mask) for chat in chats[:27])
    model, nats, count = load_pretrained(whole["sft"] / "model"), 0.0, 0
    for chat in chats[27:]:
        inputs, labels, _ = pad([chat], PAD)
        nats += F.cross_entropy(model(inputs)[0], labels[0], reduction="sum").item()
        count += (labels != -100).sum().item()
    assert losses(whole["sft"])[-1][3] == pytest.approx(nats / count, rel=1e-5)
    talks = list(read_messages(folder / "chats.jsonl"))[27:]
    answers = [m["content"] for talk in talks for m in talk if m["role"] == "assistant"]
    assert reading.validation.size == sum(len(text.encode()) for text in answers)


def test_held_out_stories_are_held_out(folder, monkeypatch):
    monkeypatch.setattr("smol.finetune.data.HELD_OUT", 3)
    reading = reading_of(settings(folder, data=STORIES, seq_len=4096), TOKENIZER)
    wanted = [render(c.messages, TOKENIZER) for c in conversations(3, 0, held_out=True)]
    found = [row[row != -100].tolist() for _, rows in reading.validation.batches for row in rows]
    learned = [[i for i, here in zip(*chat, strict=True) if here] for chat in wanted]
    assert sorted(found) == sorted(learned)


def test_smoltalk_is_read_as_a_file_of_the_same_conversations_is(folder, monkeypatch):
    talks = list(read_messages(folder / "chats.jsonl"))
    streaming(monkeypatch, [{"messages": talk} for talk in talks])
    mine, theirs = (
        reading_of(settings(folder, **data), TOKENIZER) for data in ({"data": "smoltalk"}, {})
    )
    assert mine.batches.state_dict() == theirs.batches.state_dict()
    assert all(map(torch.equal, next(mine.batches), next(theirs.batches)))
    pairs = zip(mine.validation.batches, theirs.validation.batches, strict=True)
    assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "model is empty: give a name or a path"),
        ({"method": "dpo!"}, "method 'dpo!' is none of sft, lora"),
        ({"method": "dpo", "data": "smoltalk"}, "smoltalk has no pairs: name a .jsonl of them"),
        ({"rank": 0}, "rank must be 1 or more, got 0"),
        ({"alpha": 0.0}, "alpha must be above 0 and finite, got 0.0"),
        ({"fsdp": True}, "keeps a model whole in each process: leave fsdp out"),
        ({"tokenizer": "x"}, "with its own tokenizer: leave tokenizer out"),
        ({"optimizer": "muon"}, "take adamw|has no Muon"),
        ({"steps": 0}, "steps must be 1 or more"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**{"model": "m", **change})


def test_what_does_not_fit_is_refused_before_the_first_step(folder, tmp_path, capsys):
    one = tmp_path / "one.jsonl"
    one.write_text((folder / "chats.jsonl").read_text().splitlines()[0])
    for change, message in (
        ({"data": str(one)}, "has 1 conversations with an answer within 128 tokens: give two"),
        ({"seq_len": 4}, "has 0 conversations with an answer within 4 tokens"),
        ({"seq_len": 5000}, "seq_len 5000 is over the model's context of"),
        ({"data": STORIES, "seq_len": 8}, "no conversation has an answer within 8 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(settings(folder, **change), tmp_path / "out")
    with pytest.raises(ValueError, match="config must be a FinetuneConfig, got a dict"):
        finetune({}, tmp_path / "out")
    assert not list(tmp_path.glob("out/step-*"))
    assert "left out: 30 conversations of 30" in capsys.readouterr().err


def test_another_method_does_not_resume(folder, whole):
    with pytest.raises(ValueError, match="method 'sft', not 'lora': resume with the same"):
        finetune(settings(folder, method="lora"), whole["sft"], resume=True)


def test_the_commands_flags_reach_the_run(monkeypatch, tmp_path, capsys):
    got = []
    monkeypatch.setattr(cli, "finetune", lambda *a: got.append(a) or (None, a[0].steps))
    flags = {
        **{"model": "M", "data": "D", "method": "lora", "steps": 7, "batch-size": 4},
        **{"seq-len": 32, "accumulate": 2, "learning-rate": 0.5, "rank": 3, "alpha": 5.0},
        **{"beta": 0.7, "seed": 3, "log-every": 2, "eval-every": 3, "save-every": 4, "keep": 5},
        **{"schedule": "wsd", "device": "cpu", "dtype": "bfloat16"},
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["finetune", "--out", str(tmp_path), "--resume", *words])
    assert cli.main() == 0
    config, out, resume = got[0]
    assert (out, resume) == (str(tmp_path), True)
    for name, value in flags.items():
        assert getattr(config, name.replace("-", "_")) == value
    monkeypatch.setattr(sys, "argv", ["finetune", "--model", "M", "--out", str(tmp_path)])
    assert cli.main() == 0 and got[1][0] == FinetuneConfig(model="M")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--rank", "0"])
    assert cli.main() == 1
    assert capsys.readouterr().err == "smol.finetune: rank must be 1 or more, got 0\n"
