"""Each trap of fine-tuning is one mistake and no other, and what is no trap is noticed."""

import dataclasses
import json
import sys

import pytest
import torch

from smol import BPETokenizer, SmolLM2, load_pretrained
from smol.bench import traps as bench
from smol.bench.__main__ import main
from smol.bench.timing import Run
from smol.bench.traps import CHATS, TRAPS, Trap, batch_of, ids_of, questions, some, traps
from smol.finetune import render
from smol.finetune.data import TEMPLATE
from smol.lesson import figures
from smol.pretrained.weights import SHIPPED
from smol.train import LossModel

TOKENIZER = BPETokenizer.load(SHIPPED)
TOKENIZER.chat_template = TEMPLATE
IDS = ids_of(TOKENIZER)
CUT = 70  # about half of the long ones are longer


def chats() -> list:
    return [render(c.messages, TOKENIZER) for c in some(CHATS, 0, TOKENIZER)]


def tiny() -> SmolLM2:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    return SmolLM2(dataclasses.replace(load_pretrained(SHIPPED).config, **shape, **heads))


def learned(trap: Trap) -> list[tuple[list[int], list[int]]]:
    """The inputs and labels of each conversation, its padding left out, one after another."""
    inputs, labels, _ = batch_of(trap, chats(), IDS, CUT)
    lengths = [(row != IDS.pad).sum() for row in inputs]
    return [(x[:n].tolist(), y[:n].tolist())
            for x, y, n in zip(inputs, labels, lengths, strict=True)]  # fmt: skip


def by_hand(name: str, ids: list[int], mask: list[bool]) -> tuple[list[int], list[int]]:
    """What a conversation should teach with a mistake, place by place."""
    end, n = IDS.end, len(ids) - 1
    targets = [ids[t + 1] if mask[t + 1] else -100 for t in range(n)]
    if name in ("end not learned", "pad = end"):
        targets = [-100 if i == end else i for i in targets]
    elif name == "all learned":
        targets = ids[1:]
    elif name == "one early":
        targets = [ids[t + 1] if mask[t + 2 : t + 3] == [True] else -100 for t in range(n)]
    elif name == "one late":
        targets = [ids[t + 1] if mask[t] else -100 for t in range(n)]
    elif name == "cut anywhere":
        targets = targets[:CUT]
    elif name == "cut after an answer" and n > CUT:
        ends = [t for t in range(CUT) if targets[t] == end]
        targets = targets[: ends[-1] + 1]
    while targets[-1] == -100:  # what comes after the last one teaches nothing
        targets.pop()
    return ids[: len(targets)], targets


@pytest.mark.parametrize("name", [name for name, trap in TRAPS.items() if not trap.lay])
def test_a_trap_teaches_what_its_mistake_makes_of_the_conversations(name):
    trap = TRAPS[name]
    expected = [by_hand(name, *chat) for chat in chats()]
    assert learned(trap) == expected
    clean = [by_hand("clean", *chat) for chat in chats()]
    elsewhere = trap.prompt or trap.parts > 1 or trap.faster != 1 or name == "clean"
    assert (expected == clean) == bool(elsewhere)


def test_padding_with_the_end_loses_the_ends_and_nothing_else():
    (x, y, _), (a, b, _) = (
        batch_of(TRAPS[name], chats(), IDS, CUT) for name in ("pad = end", "clean")
    )
    assert torch.equal(y, b.where(b != IDS.end, -100))
    padding = a == IDS.pad
    assert padding.any() and torch.equal(x, a.where(~padding, IDS.end))


def test_packed_neighbours_are_the_same_rows_without_what_keeps_them_apart():
    whole = batch_of(TRAPS["packed"], chats(), IDS, CUT)
    assert set(whole[2]) == {"mask", "positions"} and len(whole[0]) < CHATS
    for name, kept in (
        ("neighbours", set()),
        ("neighbours, from 0", {"positions"}),
        ("packed, run on", {"mask"}),
    ):
        inputs, labels, layout = batch_of(TRAPS[name], chats(), IDS, CUT)
        assert torch.equal(inputs, whole[0]) and torch.equal(labels, whole[1])
        assert set(layout) == kept and all(torch.equal(layout[k], whole[2][k]) for k in kept)


def test_a_mean_of_means_is_the_mean_of_each_conversations_own_gradient():
    model, trap = LossModel(tiny()), TRAPS["mean of means"]
    inputs, labels, _ = batch_of(trap, chats(), IDS, CUT)
    expected = 0
    for row in range(CHATS):
        nats, targets = model(inputs[row : row + 1], labels[row : row + 1])
        slope = torch.autograd.grad(nats / targets, model.model.norm.weight)[0]
        expected = expected + slope / CHATS
    bench.backward(model, (inputs, labels, {}), trap.parts)
    torch.testing.assert_close(model.model.norm.weight.grad, expected)
    model.zero_grad()
    bench.backward(model, (inputs, labels, {}), 1)
    assert not torch.allclose(model.model.norm.weight.grad, expected, rtol=0.01)


def test_prompts_differ_in_what_they_say():
    said = some(3, 0, TOKENIZER)
    plain, system, lines, bare = (
        [prompt for prompt, *_ in questions(TRAPS[name], said, TOKENIZER, IDS)]
        for name in ("clean", "system message", "no line break", "no template")
    )
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for p, s, without, b in zip(plain, system, lines, bare, strict=True):
        assert TOKENIZER.decode(s) == text + TOKENIZER.decode(p)
        right = TOKENIZER.decode(p).replace("<|im_end|>\n", "<|im_end|>")
        assert TOKENIZER.decode(without) == right != TOKENIZER.decode(p)
        assert b[0] == IDS.pad and not {*b[1:]} & {*TOKENIZER.special_tokens.values()}
    asked = questions(TRAPS["clean"], said, TOKENIZER, IDS)
    assert [right for _, right, _ in asked] == [
        m["content"] for c in said for m in c.messages[1::2]
    ]


def test_long_answers_are_the_sentence_itself_every_other_time():
    said = some(20, 0, TOKENIZER)
    for number, (messages, kinds) in enumerate(said):
        assert len(kinds) == 2 and (kinds[1] == "long") == bool(number % 2)
        if number % 2:
            assert messages[0]["content"].startswith(messages[3]["content"] + "\n\n")
            assert len(TOKENIZER.encode(messages[3]["content"])) < bench.ANSWER


def test_replies_are_counted(monkeypatch):
    """One right, one that ends and is wrong, one that would be right but only its text ends."""
    right = TOKENIZER.encode("Oscar.")
    rows = [[*right, IDS.end], [*right[:-1], IDS.end], [*right, IDS.pad]]
    width = max(map(len, rows)) - 1
    rows = [row + [right[0]] * (width + 2 - len(row)) for row in rows]
    made = lambda model, x, *args, **kwargs: torch.cat((x, torch.tensor(rows)), 1)  # noqa: E731
    monkeypatch.setattr(bench, "generate", made)
    asked = [([5, 6], "Oscar.", "who"), ([5, 6], "Oscar.", "open"), ([5, 6], "Oscar.", "where")]
    found = bench.answered(None, asked, TOKENIZER, IDS)
    assert found["plain"] == [1, 2] and found["open"] == [0, 1] and "long" not in found
    assert found["ended"] == pytest.approx(2 / 3)
    assert found["tokens"] == pytest.approx((2 * len(right) - 1 + width + 2) / 3)


def test_what_is_no_trap_is_noticed():
    said = some(2, 0, TOKENIZER)
    clean = questions(TRAPS["clean"], said, TOKENIZER, IDS)

    def changed(name: str, trap: Trap) -> None:
        asked = questions(trap, said, TOKENIZER, IDS)
        bench.expect_change(name, trap, chats(), IDS, CUT, asked, clean)

    for none in (
        Trap("the same in other words", chats=lambda chat, ids: chat),
        Trap("longer than they are", cut=lambda chat, length: chat),
        Trap("the rows as they are", lay=bench.padded),
        Trap("asked as it should be", prompt=bench.plain_prompt),
    ):
        with pytest.raises(AssertionError, match="'none' changes nothing of the clean run"):
            changed("none", none)
    for name, trap in TRAPS.items():
        if name != "clean":
            changed(name, trap)


def test_the_bench_asks_whether_each_is_one():
    table = {"clean": TRAPS["clean"], "none": Trap("nothing", lay=bench.padded)}
    with pytest.raises(AssertionError, match="'none' changes nothing"):
        traps(base=tiny, table=table, seeds=(0,), steps=1, count=1)


def test_the_command_writes_a_row_for_each(monkeypatch, tmp_path, capsys):
    small = lambda run: traps(run, tiny, seeds=(0, 1), steps=1, count=1)  # noqa: E731
    monkeypatch.setattr("smol.bench.__main__.BENCHES", {"traps": small})
    monkeypatch.setattr(sys, "argv", ["bench", "traps", "--json", str(tmp_path)])
    assert main() == 0
    found = json.loads((tmp_path / "traps.json").read_text(encoding="utf-8"))["traps"]
    assert list(found["rows"]) == list(TRAPS)
    for name, row in found["rows"].items():
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        for run in row["runs"]:
            assert ("plain" in run) == TRAPS[name].runs
            trained = name != "clean" and not TRAPS[name].prompt and TRAPS[name].faster == 1
            assert ("gradient" in run) == trained
            if trained:
                assert (run["gradient"] < 1e-5) == name.startswith("packed")
    gradients = {name: row["runs"][0].get("gradient") for name, row in found["rows"].items()}
    assert gradients["pad = end"] == pytest.approx(gradients["end not learned"], rel=1e-4)
    assert "neighbours" in capsys.readouterr().out
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kwargs: shown.append(data))
    figures.traps(found["rows"])
    assert shown[0]["text/plain"].startswith("Figure: right answers by mistake")


def test_it_ends_with_its_time_and_keeps_what_there_is():
    found = traps(Run(0.0), tiny, seeds=(0,), steps=1, count=1)
    assert [name for name, row in found["rows"].items() if row["runs"]] == ["clean"]
