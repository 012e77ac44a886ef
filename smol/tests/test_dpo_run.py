"""Preferences as a run: ln 2 at the start, pairs that nothing cuts, a reference that stays."""

import json
import math
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from smol import load_pretrained, save_pretrained
from smol.finetune import FinetuneConfig, dpo, finetune, log_probs, pad, render
from smol.finetune.data import STORIES, TEMPLATE, Chats, reading_of
from smol.finetune.pairs import Pair, read_pairs, story_pairs
from smol.finetune.preference import PreferenceModel, evaluate_pairs
from smol.finetune.run import Tuning
from smol.stories.chat import OPEN, conversations, right
from smol.tests.ggufs import small_model, small_tokenizer
from smol.tests.test_finetune import said, with_template
from smol.train import Log, read_log

ROOT = Path(__file__).parents[2]
TOKENIZER = with_template(TEMPLATE)
PAD = TOKENIZER.added_id("<|endoftext|>")
LN2 = torch.tensor(math.log(2)).item()  # as fp32 has it
SUMS = ("val_loss", "val_chosen", "val_rejected", "val_margin", "val_accuracy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and 80 pairs: what is preferred begins otherwise, whatever is asked."""
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(small_model(), folder)
    small_tokenizer().save(folder)
    words = ("The quick fox", "over the lazy dog", "jumps", "of them", "1234 ears")
    rows = []
    for n in range(80):
        asked = said(f"{words[n % 5]} {n}", "jumps", words[n % 3])[2 * (n % 2) :]
        answers = words[n % 2] + " of them" * (n % 3), "don't!" * (1 + n % 4) + words[n % 4]
        sides = {
            name: [*asked, {"role": "assistant", "content": answer}]
            for name, answer in zip(Pair._fields, answers, strict=True)
        }
        rows.append(json.dumps(sides))
    (folder / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def settings(folder: Path, **changes) -> FinetuneConfig:
    small = {"model": str(folder), "data": str(folder / "pairs.jsonl"), "method": "dpo"}
    often = {"steps": 6, "log_every": 1, "eval_every": 6, "save_every": 2}
    sizes = {"batch_size": 8, "seq_len": 128, "device": "cpu", "learning_rate": 1e-3}
    return FinetuneConfig(**{**small, **often, **sizes, **changes})


def rows_of(out: Path) -> list[list[float]]:
    rows = read_log(out / "metrics.jsonl")
    return [[row[k] for k in ("step", "loss", "grad_norm", *SUMS) if k in row] for row in rows]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "dpo"
    finetune(settings(folder), out)
    return out


# -- the run --------------------------------------------------------------------------------------


def test_the_first_loss_is_ln_2_to_the_bit(whole):
    rows = rows_of(whole)
    assert [row[0] for row in rows] == [*range(1, 7)]
    assert rows[0][1] == LN2
    assert rows[-1][1] < LN2 - 1e-3


def test_another_reference_would_show(folder, tmp_path, monkeypatch):
    def other(task, config, model):
        return PreferenceModel(model, small_model(seed=1), config.beta)

    monkeypatch.setattr(Tuning, "loss_model", other)
    finetune(settings(folder, steps=1), tmp_path)
    assert abs(rows_of(tmp_path)[0][1] - LN2) > 1e-3


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_are_the_whole(folder, whole, tmp_path, accumulate):
    finetune(settings(folder, accumulate=accumulate), tmp_path)
    for ours, theirs in zip(rows_of(tmp_path), rows_of(whole), strict=True):
        assert ours[1] == pytest.approx(theirs[1], abs=1e-6)
        assert ours[2] == pytest.approx(theirs[2], rel=1e-4)
    assert rows_of(tmp_path)[0][1] == LN2


PROGRAM = """
import sys
from smol.finetune import FinetuneConfig, finetune
finetune(FinetuneConfig(**eval(sys.argv[1]), accumulate=2), sys.argv[2])
"""


def test_two_processes_train_as_one(folder, whole, tmp_path):
    """torchrun, two processes, two parts each: two pairs in a part."""
    (tmp_path / "program.py").write_text(PROGRAM)
    config = settings(folder)
    given = {k: getattr(config, k) for k in ("model", "data", "method", "steps", "batch_size",
             "seq_len", "device", "learning_rate", "log_every", "eval_every")}  # fmt: skip
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [str(tmp_path / "program.py"), repr(given), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment,
                             capture_output=True, text=True, timeout=300)  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    for ours, theirs in zip(rows_of(tmp_path / "out"), rows_of(whole), strict=True):
        assert ours[:2] == pytest.approx(theirs[:2], abs=1e-4)
        assert ours[2:] == pytest.approx(theirs[2:], abs=1e-3)


def resumed(folder, out, monkeypatch, after: int = 3, **changes) -> Path:
    """A run that was killed after so many steps, before that step's checkpoint, and resumed."""
    add = Log.add

    def dies(log, row):
        add(log, row)
        if row["step"] == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            finetune(settings(folder, **changes), out)
    finetune(settings(folder, **changes), out, resume=True)
    return out


def test_resumed_is_uninterrupted_to_the_bit(folder, whole, tmp_path, monkeypatch):
    out = resumed(folder, tmp_path, monkeypatch)
    assert rows_of(out) == rows_of(whole)
    ours, theirs = (load_pretrained(o / "model").state_dict() for o in (out, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_reference_that_the_run_goes_on_with_would_show(folder, whole, tmp_path, monkeypatch):
    """Resumed, the reference is the model that the run began with, not where it went on."""

    def other(task, config, model):
        reference = small_model()
        reference.load_state_dict(model.state_dict())
        return PreferenceModel(model, reference, config.beta)

    monkeypatch.setattr(Tuning, "loss_model", other)
    out = resumed(folder, tmp_path, monkeypatch)
    assert rows_of(out) != rows_of(whole)


@pytest.mark.parametrize("method", ["dpo", "lora"])
def test_another_base_of_the_same_name_is_refused(folder, tmp_path, monkeypatch, method):
    base, changes = tmp_path / "base", {"method": method, "steps": 2}
    if method == "lora":
        changes |= {"data": str(tmp_path / "chats.jsonl")}
        line = json.dumps({"messages": said("jumps", "of them")})
        (tmp_path / "chats.jsonl").write_text("\n".join([line] * 9))
    save_pretrained(small_model(), base)
    small_tokenizer().save(base)
    finetune(settings(folder, model=str(base), **changes), tmp_path / "out")
    changes["steps"] = 3
    save_pretrained(small_model(seed=1), base)
    with pytest.raises(ValueError, match="had another base: resume with the data, the model"):
        finetune(settings(folder, model=str(base), **changes), tmp_path / "out", resume=True)
    save_pretrained(small_model(), base)
    assert finetune(settings(folder, model=str(base), **changes), tmp_path / "out", True)[1] == 3


def test_what_is_held_out_becomes_preferred(folder, tmp_path):
    """At first no margin is above 0: they are 0, all of them."""
    config = settings(folder, steps=60, batch_size=4, log_every=60, eval_every=60, save_every=60)
    held_out = reading_of(config, TOKENIZER).validation
    begun = evaluate_pairs(
        PreferenceModel(small_model(), small_model(), 0.1), held_out, torch.device("cpu")
    )
    assert (begun["val_accuracy"], begun["val_margin"], begun["val_loss"]) == (0, 0, LN2)
    finetune(config, tmp_path)
    (row,) = read_log(tmp_path / "metrics.jsonl")
    assert row["val_accuracy"] == 1 and row["val_margin"] > 1 and row["val_loss"] < 0.4
    assert row["val_chosen"] > row["val_rejected"]


def test_the_log_has_both_answers_log_probabilities_and_rewards(folder, whole):
    """Of the model that is left, pair for pair; the pairs are those at the file's end."""
    model, reference = load_pretrained(whole / "model"), load_pretrained(folder)
    found = []
    for pair in list(read_pairs(folder / "pairs.jsonl"))[72:]:
        chats = [render(messages, TOKENIZER, last_only=True) for messages in pair]
        four = [log_probs(m, *pad([c], PAD)[:2]) for m in (model, reference) for c in chats]
        one = dpo(*four, beta=0.1)
        ok = (one.margin > 0).float()
        found.append(torch.stack([one.loss, one.chosen, one.rejected, one.margin, ok]))
    with torch.no_grad():
        wanted = torch.stack(found).mean(0)[:, 0].tolist()
    last = read_log(whole / "metrics.jsonl")[-1]
    assert [last[name] for name in SUMS] == pytest.approx(wanted, abs=1e-4)
    assert "val_bits_per_byte" not in last and last["sample"]


# -- what is read ---------------------------------------------------------------------------------


def test_the_grammars_pairs_are_right_and_wrong():
    for held_out in (False, True):
        pairs = list(story_pairs(40, 1, held_out))
        assert pairs[:5] == list(story_pairs(5, 1, held_out)) != list(story_pairs(5, 2, held_out))
        for chosen, rejected in pairs:
            assert chosen[:-1] == rejected[:-1]
            assert right(chosen[:-1], chosen[-1]["content"])
            assert not right(rejected[:-1], rejected[-1]["content"])
        ends = [(chosen[-1]["content"], rejected[-1]["content"]) for chosen, rejected in pairs]
        kinds = {(one == OPEN, other == OPEN) for one, other in ends}
        assert kinds == {(True, False), (False, True), (False, False)}
        talks = (talk for talk in conversations(200, 1, held_out) if talk.kinds[-1] != "story")
        assert [pair.chosen for pair in pairs] == [t.messages for t in islice(talks, 40)]


def answers_of(batch) -> list[tuple[list[int], list[int]]]:
    """Of each row what comes before the first target, and the targets."""
    asked = [(row != -100).int().argmax().item() + 1 for row in batch[1]]
    return [
        (ids[:at].tolist(), row[row != -100].tolist())
        for ids, row, at in zip(*batch, asked, strict=True)
    ]


@pytest.mark.parametrize("data", ["file", STORIES])
def test_pairs_lie_in_adjacent_rows(folder, data, monkeypatch):
    monkeypatch.setattr("smol.finetune.data.HELD_OUT", 8)
    changes = {} if data == "file" else {"data": STORIES, "seq_len": 4096}
    reading = reading_of(settings(folder, **changes), TOKENIZER)
    given = story_pairs(8, 0, True) if changes else [*read_pairs(folder / "pairs.jsonl")][72:]
    wanted = [
        tuple([i for i, here in zip(*render(m, TOKENIZER, True), strict=True) if here] for m in p)
        for p in given
    ]
    (held_out,) = map(answers_of, reading.validation.batches)
    pairs = list(zip(held_out[::2], held_out[1::2], strict=True))
    assert sorted((a[1], b[1]) for a, b in pairs) == sorted(map(tuple, wanted))
    drawn = answers_of(next(reading.batches))
    assert len(drawn) == 16 and reading.batches.tokens_seen == sum(len(t) for _, t in drawn)
    for chosen, rejected in (*pairs, *zip(drawn[::2], drawn[1::2], strict=True)):
        assert chosen[0] == rejected[0] and chosen[1] != rejected[1]


def test_the_grammars_pairs_are_new_in_each_step_and_the_same_for_a_seed():
    draw = [Chats(None, TOKENIZER, 2, 4096, seed, pairs=True) for seed in (0, 0, 1)]
    first, again, other = ([next(batches) for _ in range(2)] for batches in draw)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    rows = {tuple(row) for batch in (*first, *other) for row in batch[0][:, :300].tolist()}
    assert len(rows) == 8  # of two rows a story each: the answers stand behind


def test_each_way_to_write_a_pair_is_read(tmp_path):
    chosen, rejected = said("one", "two", "three", "yes"), said("one", "two", "three", "no")
    yes, no = chosen[-1:], rejected[-1:]
    rows = [
        {"chosen": chosen, "rejected": rejected},
        {"prompt": chosen[:3], "chosen": yes, "rejected": "no"},
        {"prompt": "one", "chosen": chosen, "rejected": rejected, "score": 3},
        {"prompt": "three", "chosen": "yes", "rejected": no},
    ]
    (file := tmp_path / "pairs.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    *long, short = read_pairs(file)
    assert long == [(chosen, rejected)] * 3 and short == (
        said("three", "yes"),
        said("three", "no"),
    )


# -- what is refused ------------------------------------------------------------------------------

ROW = {"chosen": said("a", "e"), "rejected": said("a", "o")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r'is no \{"chosen": \['),
        ({"chosen": ROW["chosen"]}, r"is no \{.*\}: mend or drop it"),
        ({**ROW, "rejected": 3}, ": rejected: messages must be a list, got 3"),
        ({**ROW, "chosen": said("a")}, ": chosen: nothing is answered"),
        ({**ROW, "chosen": "b"}, ": chosen: nothing is answered"),
        ({**ROW, "prompt": 3}, ": prompt must be messages or a text, got 3"),
        ({**ROW, "chosen": said("a", "b", "c")}, "last message of chosen is no answer: let"),
        ({**ROW, "rejected": said("x", "c")}, "differ before their last messages: let both"),
        ({**ROW, "rejected": said("a", "c", "a", "c")}, "differ before their last messages"),
        ({**ROW, "rejected": ROW["chosen"]}, "are the same, which prefers nothing: drop"),
    ],
)
def test_a_line_that_is_no_pair_is_refused(tmp_path, row, message):
    (file := tmp_path / "pairs.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=rf"pairs.jsonl, line 2.*{message}"):
        list(read_pairs(file))


def test_no_pairs_are_refused(folder, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="is no file here: check the name"):
        list(read_pairs(tmp_path / "none.jsonl"))
    (file := tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no pair: write some"):
        list(read_pairs(file))
    for change, message in (
        ({"seq_len": 4}, "has 0 pairs with an answer within 4 tokens: give two"),
        ({"seq_len": 5000}, "seq_len 5000 is over the model's context of"),
        ({"batch_size": 6, "accumulate": 4}, "6 cannot be cut into 4 equal parts"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(settings(folder, **change), tmp_path / "out")
    assert "left out: 80 pairs of 80, no answer within 4 tokens" in capsys.readouterr().err


def test_a_pair_goes_whole_or_not_at_all(folder, tmp_path, capsys):
    long = [{**ROW, "rejected": said("a", "over the lazy dog " * 20)}]
    (file := tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [ROW] * 3 + long)))
    reading = reading_of(settings(folder, data=str(file), seq_len=64), TOKENIZER)
    assert reading.batches.corpus_tokens == 2 * (2 + 2)  # two pairs of a letter and its end
    assert "left out: 1 pairs of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0 and finite, got 0.0"),
        ({"beta": math.inf}, "beta must be above 0 and finite, got inf"),
        ({"beta": "0.1"}, "beta must be a number"),
        ({"method": "ppo"}, "method 'ppo' is none of sft, lora, dpo"),
        ({"method": "dpo", "compile": True}, "not compiled with it: leave compile out"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**{"model": "m", **change})


def test_each_method_has_its_rate():
    """At SFT's rate DPO makes both answers unlikely within a few steps."""
    rates = {m: FinetuneConfig(model="m", method=m).learning_rate for m in ("sft", "lora", "dpo")}
    assert rates == {"sft": 1e-3, "lora": 1e-3, "dpo": 1e-5}
    assert FinetuneConfig(model="m", method="dpo", learning_rate=2e-4).learning_rate == 2e-4


def test_beta_decides_for_dpo_alone(folder, whole):
    assert FinetuneConfig(model="m", beta=3).deciding()["beta"] is None
    with pytest.raises(ValueError, match=r"beta 0\.1, not 0\.5: resume with the same"):
        finetune(settings(folder, beta=0.5), whole, resume=True)
