"""A conversation that keeps what it has read answers as one that reads everything anew."""

import copy
import sys

import pytest
import torch

from smol import BPETokenizer, SmolLM2, SmolLM2Config, load_pretrained
from smol.generate import Memory, chat, generate_steps
from smol.generate import __main__ as command
from smol.generate import steps as stepping
from smol.pretrained import SHIPPED
from smol.tests.reference import tiny_config
from smol.tests.test_fixed import captured  # noqa: F401  a fixture

SAID = ("Who took the trumpet?", "Why?", "And what did Bella say, in the end, to all of them?")


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.load(SHIPPED)


@pytest.fixture(scope="module")
def shipped() -> SmolLM2:
    return load_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def wide(tokenizer) -> SmolLM2:
    """SmolLM2's shape in two layers of random weights."""
    torch.manual_seed(0)
    return SmolLM2(SmolLM2Config(num_hidden_layers=2, vocab_size=len(tokenizer))).eval()


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many tokens each call of a model reads."""
    sizes, forward = [], SmolLM2.forward

    def noted(self, ids, *arguments, **settings):
        sizes.append(ids.size(1))
        return forward(self, ids, *arguments, **settings)

    monkeypatch.setattr(SmolLM2, "forward", noted)
    return sizes


def turns(model, tokenizer, memory, cut=False, **settings) -> list[str]:
    """What is answered to SAID; with `cut` the first turn is forgotten before the last."""
    messages, answers = [], []
    for number, text in enumerate(SAID):
        if cut and number == len(SAID) - 1:
            messages = messages[:1] + messages[3:]
        messages.append({"role": "user", "content": text})
        settings |= {"generator": torch.Generator().manual_seed(number)}
        answers.append("".join(chat(model, tokenizer, messages, 24, memory=memory, **settings)))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


SETTINGS = [{}, {"temperature": 0.8, "repetition_penalty": 1.1}, {"slide": True}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "drawn", "may slide"])
def test_the_same_answers(shipped, tokenizer, settings):
    for cut in (False, True):
        want = turns(shipped, tokenizer, None, cut, **settings)
        assert turns(shipped, tokenizer, Memory(), cut, **settings) == want
    assert all(want)


@pytest.mark.parametrize("name", ["shipped", "wide"])
def test_the_same_answers_by_captured_steps(request, tokenizer, name, captured):  # noqa: F811
    model = request.getfixturevalue(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "captures", lambda device: False)
        want = turns(model, tokenizer, None, cut=True)
        assert turns(model, tokenizer, Memory(), cut=True) == want
    assert turns(model, tokenizer, Memory(), cut=True) == want


def ids_of(*ids: int) -> torch.Tensor:
    return torch.tensor([ids])


def new(model, ids, count=5, **settings) -> list[int]:
    return [step.ids.item() for step in generate_steps(model, ids, count, **settings)]


@pytest.fixture
def model() -> SmolLM2:
    torch.manual_seed(0)
    return SmolLM2(tiny_config(initializer_range=0.5)).eval()


def test_only_what_is_new_is_read(model, read):
    memory, first = Memory(), ids_of(3, 1, 4, 1, 5)
    said = new(model, first, memory=memory)
    assert read == [5, 1, 1, 1, 1]
    text = torch.cat((first, ids_of(*said, 9, 2, 6)), dim=1)
    read.clear()
    got = new(model, text, memory=memory)
    assert read == [4, 1, 1, 1, 1]  # the last token written was not read yet
    read.clear()
    assert got == new(model, text) and read[0] == 13
    other = torch.cat((text[:, :7], ids_of(8, 8)), dim=1)
    for again, size in ((other, 2), (other, 1), (other[:, :4], 1), (ids_of(7, 1), 2)):
        read.clear()
        got = new(model, again, memory=memory)
        assert read[0] == size
        assert got == new(model, again)


def test_a_text_left_in_the_middle_is_known_so_far(model, read):
    memory, first = Memory(), ids_of(3, 1, 4, 1, 5)
    steps = generate_steps(model, first, 20, memory=memory)
    said = [next(steps).ids.item() for _ in range(4)]
    steps.close()
    text = torch.cat((first, ids_of(*said, 9)), dim=1)
    read.clear()
    got = new(model, text, memory=memory)
    assert read[0] == 2 and got == new(model, text)


def test_tokens_made_ahead_of_a_look_are_no_part_of_the_text(model, read, captured):  # noqa: F811
    memory, first = Memory(), ids_of(3, 1, 4, 1, 5)
    free = new(model, first, 30)
    stop = free[12]
    said = new(model, first, 30, memory=memory, stop_ids=[stop])
    assert said == free[: free.index(stop) + 1]
    assert memory.k.shape[3] == len(memory.ids) == 5 + len(said)
    text = torch.cat((first, ids_of(*said, 9, 2)), dim=1)
    got = new(model, text, 30, memory=memory)
    assert got == new(model, text, 30)
    assert memory.ids == [*text[0].tolist(), *got[:-1]]


def test_another_model_or_other_weights_find_nothing(model, read):
    text = ids_of(3, 1, 4, 1, 5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[0].self_attn.k_proj.weight.mul_(-1)
    memory = Memory()
    new(model, text, memory=memory)
    read.clear()
    assert new(other, text, memory=memory) == new(other, text) and read[0] == 5
    with torch.no_grad():
        other.layers[0].self_attn.k_proj.weight.mul_(-1)
    read.clear()
    assert new(other, text, memory=memory) == new(other, text) and read[0] == 5
    other.double()
    read.clear()
    assert new(other, text, memory=memory) == new(other, text) and read[0] == 5


def test_two_at_once_with_one_memory(model):
    memory, texts = Memory(), (ids_of(3, 1, 4, 1, 5), ids_of(3, 1, 4, 2, 7))
    new(model, texts[0], memory=memory)
    both = [generate_steps(model, text, 8, memory=memory) for text in texts]
    got = [[step.ids.item() for step in pair] for pair in zip(*both, strict=True)]
    assert [list(said) for said in zip(*got, strict=True)] == [new(model, t, 8) for t in texts]


def test_past_the_context_nothing_is_kept(read):
    torch.manual_seed(0)
    model = SmolLM2(tiny_config(max_position_embeddings=16, initializer_range=0.5)).eval()
    memory, text = Memory(), ids_of(*range(12))
    said = new(model, text, 9, memory=memory, slide=True)
    assert memory.ids == []
    longer = torch.cat((text, ids_of(*said, 3)), dim=1)
    assert new(model, longer, 9, memory=memory, slide=True) == new(model, longer, 9, slide=True)


def test_after_an_error_nothing_is_kept(model):
    memory, text = Memory(), ids_of(3, 1, 4)
    new(model, text, memory=memory)
    steps = generate_steps(model, text, 9, memory=memory)
    next(steps), next(steps)
    model.norm.weight.data[3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        next(steps)
    assert memory.ids == [] and memory.k is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": {}}, "the memory must be a smol.generate.Memory, got a dict"),
        ({"memory": Memory(), "use_cache": False}, "a memory is for one text, without padding"),
        ({"memory": Memory(), "attention_mask": torch.ones(1, 3)}, "a memory is for one text"),
    ],
)
def test_what_no_memory_is_for(model, settings, message):
    with pytest.raises(ValueError, match=message):
        new(model, ids_of(3, 1, 4), **settings)
    with pytest.raises(ValueError, match="a memory is for one text"):
        next(generate_steps(model, torch.ones(2, 3, dtype=torch.int64), 3, memory=Memory()))


def test_a_conversation_in_a_terminal_reads_each_turn_once(monkeypatch, capsys, read):
    said = {}
    for extra in ([], ["--no-cache"]):
        lines = iter(SAID)
        monkeypatch.setattr(
            "builtins.input", lambda prompt, lines=lines: next(lines, None) or end()
        )
        shipped = ("--model", str(SHIPPED), "--device", "cpu", "--max-new-tokens", "12")
        monkeypatch.setattr(sys, "argv", ["smol.generate", "--chat", *shipped, *extra])
        read.clear()
        assert command.main() == 0
        said[bool(extra)] = capsys.readouterr().out
        if not extra:
            firsts = [size for size in read if size > 1]
            assert len(firsts) == 3 and sum(read) < 150
    assert said[False] == said[True]


def end():
    raise EOFError


def test_the_memory_is_as_long_as_its_text(model):
    memory = Memory()
    new(model, ids_of(3, 1, 4), 5, memory=memory)
    assert memory.k.shape[3] == len(memory.ids) == 7
