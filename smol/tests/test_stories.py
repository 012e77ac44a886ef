"""The stories: the file is what the command writes, the grammar is unambiguous, the floor true."""

import math
import random
import statistics
import subprocess
import sys

import pytest

from smol import stories
from smol.data import load_corpus
from smol.grammar import Grammar


@pytest.fixture(scope="module")
def file() -> str:
    return (stories.DATA / "stories.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shelf(file) -> list[str]:
    return file.removesuffix("\n").split("\n\n")


def test_the_file_and_its_card_are_what_the_command_writes(monkeypatch, capsys):
    """On the Python that runs the tests, whichever wrote the file."""
    monkeypatch.setattr(sys, "argv", ["stories", "--check"])
    assert stories.main() == 0
    assert "2,400 stories" in capsys.readouterr().out


def test_the_check_can_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stories, "DATA", tmp_path)
    monkeypatch.setattr(sys, "argv", ["stories", "--check"])
    assert stories.main() == 1
    assert "run `python -m smol.stories`" in capsys.readouterr().out


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


AMBIGUOUS = {
    "one alternative begins another": ("s\n| a <x>.\nx\n| b\n| bc", {}),
    "two rules write the same": ("s\n| <x> end\n| <y> end\nx\n| b\ny\n| b", {}),
    "equal after a draw": ("s\n| <a:p> ran\n| <b:p> ran fast", {"p": "text\nAda, Bo"}),
    "an item begins another": ("s\n| <a:p>!", {"p": "text\nAnn, Anna"}),
    "a mention may be a literal": ("s\n| <a:p> <x>!\nx\n| {a}\n| Bo", {"p": "text\nAda, Bo"}),
    "a form that two items share": (
        "s\n| <a:p> <b:p> <x>!\nx\n| {a.form}\n| {b.form}",
        {"p": "text | form\nAda | she\nBo | she"},
    ),
    "two names for one thing": ("s\n| <a:p> {a}!\n| <b:p> {b}!", {"p": "text\nAda, Bo, Cy"}),
    "one name for two things": (
        "s\n| <a:p.f> {a.h}cd\n| <a:p.g> {a.h}d",
        {"p": "text | f | g | h\nX | foo | bar | ab\nY | baz | foo | abc"},
    ),
    "nothing, or something": ("s\n| a<x>.\nx\n|\n| b", {}),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_grammar_is_refused(name):
    with pytest.raises(ValueError, match=r"two (alternatives|items) for"):
        Grammar(*AMBIGUOUS[name]).prove()


def test_what_looks_ambiguous_but_is_not_is_accepted():
    """Two variables of one pool are never the same item, so naming one or the other differs."""
    Grammar(
        "s\n| <a:p> and <b:p>: <x>!\nx\n| {a} won\n| {b} won", {"p": "text\nAda, Bo, Cy"}
    ).prove()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("s\n| {a} <a:p>", "a is mentioned but not drawn"),
        ("s\n| <x> {a}\nx\n| <a:p>.\n| b.", "a is mentioned but not drawn"),
        ("s\n| <a:p> <a:p>", "a is drawn twice"),
    ],
)
def test_a_draw_that_is_missing_or_made_twice_is_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Grammar(rules, {"p": "text\nAda, Bo"}).entropy()


def test_faulty_grammars_are_named():
    pool = {"p": "text\nAda, Bo"}
    for rules, message in (
        ("s\n| <x>", "there is no rule x"),
        ("s\n| <a:q>", "there is no pool q"),
        ("s\n|0 a", "s needs alternatives, each of weight 1 or more"),
        ("s\n| <x>\nx", "x needs alternatives"),
    ):
        with pytest.raises(ValueError, match=message):
            Grammar(rules, pool)
    with pytest.raises(ValueError, match="a rule leads back to itself"):
        Grammar("s\n| a\n| b <s>", pool).entropy()
    with pytest.raises(ValueError, match="p has nothing left to draw"):
        Grammar("s\n| <a:p> <b:p> <c:p>", pool).entropy()


def test_a_variable_belongs_to_one_pool():
    with pytest.raises(ValueError, match="a is drawn from q and from p"):
        Grammar("s\n| <a:p>\n| <a:q>", {"p": "text\nAda", "q": "text\nBo"})


def test_entropy_of_a_grammar_small_enough_to_list():
    """Every text listed with its probability: the sum of -p ln p is the entropy, to the bit."""
    rules = "s\n|3 <a:p> met <b:p>. <x>\n| <:p> slept.\nx\n| {a} won.\n|2 {b} won <:p>."
    grammar = Grammar(rules, {"p": "text\nAda, Bo, Cy"})
    grammar.prove()
    rng = random.Random(0)
    texts = {grammar.write(rng) for _ in range(5000)}
    p = [math.prod(c.probability for c in grammar.read(text)[0]) for text in texts]
    assert len(texts) == 3 * 2 * (1 + 3) + 3
    assert math.fsum(p) == pytest.approx(1, abs=1e-12)
    assert -math.fsum(q * math.log(q) for q in p) == pytest.approx(grammar.entropy(), abs=1e-12)


def test_entropy_agrees_with_fresh_stories():
    """The exact sum over choices against the mean of -ln p: within four standard errors."""
    nats = [-stories.log_prob(story) for story in stories.write(1500, seed=1)]
    error = statistics.stdev(nats) / math.sqrt(len(nats))
    assert abs(statistics.mean(nats) - stories.entropy()) < 4 * error < 1.2


def test_the_estimate_would_see_a_wrong_entropy():
    """A pool counted at half its size is outside the bars; finer slips, the list above sees."""
    grammar = Grammar(stories.GRAMMAR, stories.POOLS)
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
