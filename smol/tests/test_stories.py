"""The stories: the file is what the command writes, the grammar is unambiguous, the floor true."""

import math
import random
import statistics
import subprocess
import sys

import pytest

from smol import stories
from smol.data import load_corpus
from smol.stories.__main__ import main
from smol.stories.grammar import Grammar


@pytest.fixture(scope="module")
def file() -> str:
    return (stories.DATA / "stories.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shelf(file) -> list[str]:
    return file.removesuffix("\n").split("\n\n")


def test_the_file_and_its_card_are_what_the_command_writes(capsys):
    """On the Python that runs the tests, whichever wrote the file."""
    assert main(["--check"]) == 0
    assert "2,400 stories" in capsys.readouterr().out


def test_the_check_can_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stories, "DATA", tmp_path)
    monkeypatch.setattr(stories, "COUNT", 100)
    assert main(["--check"]) == 1
    assert "run `python -m smol.stories`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_size_and_variety(file, shelf):
    assert 1_000_000 < len(file.encode()) < 2_000_000
    assert file.isascii()
    assert len(shelf) == stories.COUNT == len(set(shelf))


def test_every_story_of_the_file_is_read_back_in_one_way(shelf):
    for story in shelf:
        assert len(stories.grammar().read(story)) == 1


def test_reading_back_is_writing_again(shelf):
    """The choices read are those that were made: they lead a writer to the same text."""

    class Replay(random.Random):
        def __init__(self, choices):
            self.choices = iter(choices)

        def random(self):
            return next(self.choices)

    class Record(random.Random):
        def random(self):
            self.drawn.append(super().random())
            return self.drawn[-1]

    rng = Record(stories.SEED)
    for story in shelf[:200]:
        rng.drawn = []
        assert stories.grammar().write(rng) == story
        assert len(rng.drawn) == len(stories.read(story))  # nothing is chosen unseen
        assert stories.grammar().write(Replay(rng.drawn)) == story


def test_the_card_and_the_corpus_hold_out_the_same_stories(shelf):
    corpus = load_corpus("stories")
    held_out = len(shelf) // stories.HELD_OUT
    assert corpus.validation == shelf[-held_out:]
    assert corpus.train == shelf[:-held_out]


def test_the_grammar_is_proved_unambiguous():
    stories.grammar().prove()


def test_entropy_agrees_with_fresh_stories():
    """The exact sum over choices against the mean of -ln p: within four standard errors."""
    nats = [-stories.log_prob(story) for story in stories.write(1500, seed=1)]
    error = statistics.stdev(nats) / math.sqrt(len(nats))
    assert abs(statistics.mean(nats) - stories.entropy()) < 4 * error < 1.2


def test_the_estimate_would_see_a_wrong_entropy():
    """A pool counted at half its size is outside the bars; finer slips, test_grammar.py sees."""
    grammar = Grammar.load(*stories.FILES)
    grammar.pools["name"] = grammar.pools["name"][::2]
    assert abs(grammar.entropy() - stories.entropy()) > 1.2


def test_choices_stand_where_the_text_shows_them():
    story = stories.write(1, seed=4)[0]
    choices = stories.read(story)
    assert choices[0].start == 0
    assert [c.start for c in choices] == sorted(c.start for c in choices)
    hero = next(c for c in choices if c.made.startswith("hero = "))
    assert story[hero.start : hero.end] == hero.made.removeprefix("hero = ")


def test_a_text_that_is_no_story_is_refused():
    story = stories.write(1, seed=5)[0]
    for text in (
        "",
        "Once upon a time.",
        story[:-1],
        story + " The end.",
        story.replace(".", "!"),
    ):
        with pytest.raises(ValueError, match="cannot have written this"):
            stories.log_prob(text)


def test_the_same_seed_writes_the_same_stories():
    assert stories.write(3, seed=7) == stories.write(3, seed=7) != stories.write(3, seed=8)


def test_the_command_runs_without_torch():
    """The corpus needs nothing but Python: stories and grammar import the standard library."""
    code = (
        "import sys, types; p = types.ModuleType('smol'); p.__path__ = [sys.argv[1]];"
        "sys.modules['smol'] = p; from smol import stories; stories.write(1, 0);"
        "print('torch' in sys.modules)"
    )
    folder = str(stories.DATA.parent / "smol")
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
