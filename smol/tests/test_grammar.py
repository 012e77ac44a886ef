"""The notation, its mistakes, and the machine: what it writes, reads, proves and computes."""

import inspect
import json
import math
import random
import re
from itertools import permutations, product

import pytest

from smol import stories
from smol.data import load_corpus
from smol.stories import Grammar, notation
from smol.stories.__main__ import main

# Ten lines that say something, a comment and a blank one.
OWN = """\
# A corpus in one file.
visit
|3 <a:child> met <pet:animal.one>. <end>
| Today <a:child> and <b:child> fed {a.his} <:animal>./{B} slept.
end
| {Pet.noise}, said the {pet}.
| The {pet} {pet.noise}
  twice at {a}.

:child = text | his
- Ada, Eve, Zoë | her
:animal = text | noise
- cat, owl | cried
"""


def texts_by_hand() -> dict[str, float]:
    """All texts of OWN with their probabilities, written without the machine."""
    texts = {}
    children, animals = ("Ada", "Eve", "Zoë"), {"cat": "a cat", "owl": "an owl"}
    for child, (pet, one) in product(children, animals.items()):
        for end in (f"Cried, said the {pet}.", f"The {pet} cried twice at {child}."):
            texts[f"{child} met {one}. {end}"] = 3 / 4 / 3 / 2 / 2
    for (a, b), animal in product(permutations(children, 2), animals):
        texts[f"Today {a} and {b} fed her {animal}.\n{b} slept."] = 1 / 4 / 3 / 2 / 2
    return texts


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "my.txt"
    file.write_text(OWN, encoding="utf-8")
    return file


def test_a_corpus_of_ten_lines(own):
    """Every text has the probability that was counted by hand; the entropy is a formula's."""
    grammar = Grammar.load(own)
    grammar.prove()
    texts = texts_by_hand()
    for text, p in texts.items():
        assert grammar.log_prob(text) == pytest.approx(math.log(p), abs=1e-12)
    assert math.fsum(math.exp(grammar.log_prob(text)) for text in texts) == pytest.approx(1)
    rng = random.Random(0)
    assert {grammar.write(rng) for _ in range(1000)} == set(texts)
    # Which alternative; then of either a child and two choices of one in two, as it happens.
    formula = -(3 / 4) * math.log(3 / 4) - (1 / 4) * math.log(1 / 4)
    formula += math.log(3) + 2 * math.log(2)
    assert grammar.entropy() == pytest.approx(formula, abs=1e-12)
    assert -math.fsum(p * math.log(p) for p in texts.values()) == pytest.approx(formula)


def test_the_command_writes_what_the_corpora_read(own, tmp_path, capsys):
    out = tmp_path / "some.jsonl"
    assert main([str(own), "--count", "50", "--seed", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    corpus = load_corpus(out)
    texts = corpus.train + corpus.validation
    assert (len(corpus.train), len(texts)) == (45, 50)
    rng = random.Random(1)
    assert texts == [Grammar(OWN).write(rng) for _ in range(50)]
    lines = out.read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)) == {"text"} for line in lines)
    assert any("Zoë" in line for line in lines)  # to be read by people too
    size = sum(len(text.encode()) for text in texts)
    nats = Grammar(OWN).entropy()
    assert f"50 texts, {len(set(texts))} of them different, {size:,} bytes in {out}" in said
    assert f"{nats:.3f} nats per text, {nats * 50 / size:.4f} per byte" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["my.txt", "some.jsonl"]
    assert main([str(own), "--count", "1", "--seed", "1", "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["text"] == texts[0]


def test_the_command_has_defaults(own, capsys):
    assert main([str(own)]) == 0
    assert capsys.readouterr().out.startswith("2,400 texts, 24 of them different, ")
    rng = random.Random(stories.SEED)
    first = load_corpus(own.with_suffix(".jsonl")).train[:100]
    assert first == [Grammar(OWN).write(rng) for _ in range(100)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{own}.txt"], "there is no file .*: check the path"),
        (["{folder}"], "is a folder: name the file with your rules"),
        (["{folder}", "--out", "{folder}/a.jsonl"], "is a folder: name the file with your rules"),
        (["{own}", "--count", "0"], "--count must be 1 or more, got 0"),
        (["{own}", "--out", "my.txt"], "my.txt must end in .jsonl"),
        (["{own}", "--out", "{folder}/no/a.jsonl"], "no could not be written"),
        (["{own}", "--check"], "--check is for the stories"),
        ([""], "FILE is empty: give a name or a path"),
        (["{own}", "--seed", "-7"], "--seed must be 0 or more, got -7"),
        (["--count", "3"], "are for a FILE of your own: name it"),
        (["{faulty}"], r"faulty.jsonl is the grammar itself: name another file with --out"),
        (
            ["{faulty}", "--out", "{folder}/a.jsonl"],
            r"^smol.stories: faulty.jsonl, line 2, '\|0 a': the weight",
        ),
        (["{twice}"], "^smol.stories: s has two alternatives for 'a': "),
        (["{latin}"], "latin.txt is not UTF-8 at byte 4: convert it first"),
    ],
)
def test_the_command_says_what_is_wrong(own, tmp_path, capsys, arguments, says):
    faulty, twice, latin = (tmp_path / n for n in ("faulty.jsonl", "twice.txt", "latin.txt"))
    faulty.write_text("s\n|0 a")
    twice.write_text("s\n| a\n| a")
    latin.write_bytes(b"s\n| \xe9")
    known = {"own": own, "folder": tmp_path, "faulty": faulty, "twice": twice, "latin": latin}
    before = {file.name for file in tmp_path.iterdir()}
    assert main([argument.format(**known) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(says, said.err)
    assert {file.name for file in tmp_path.iterdir()} == before


# -- the notation ---------------------------------------------------------------------------------


STATED = inspect.cleandoc(notation.__doc__).split("\n")[2:]


def test_it_is_stated_alike_where_it_is_read_and_where_it_is_used():
    file = stories.FILES[0].read_text(encoding="utf-8")
    comment = [line.removeprefix("#")[1:] for line in file.split("\n\n")[0].split("\n")]
    stated = comment[comment.index("") + 1 :]
    assert len(stated) > 15
    assert stated == STATED


def test_the_statement_is_true():
    """Its own example: the lines on the left, as a grammar."""
    left = [line[:24].strip() for line in STATED if len(line) > 24]
    rule = "\n".join(left[:3]) + "\n  in May"
    grammar = Grammar(f"{rule}/<pet:animal.noise> {{pet}}\n{left[-4]}\n{left[-3]}")
    assert left[-4].startswith(":animal =")
    for text in (
        "Once upon a time",
        "One day in May\npurred cat",
        "One day in May\npurred kitten",
    ):
        assert len(grammar.read(text)) == 1
    assert grammar.rules["story"][1].probability == 3 / 4


def test_line_ends_marks_and_comments_of_any_editor(tmp_path):
    as_it_is = [Grammar(OWN).write(random.Random(seed)) for seed in range(20)]
    file = tmp_path / "other.txt"
    for other in (
        OWN.replace("\n", "\r\n"),
        "\ufeff" + OWN,
        OWN.replace("\n", "  \n"),
        OWN.replace("\n-", "\n\n   # a comment\n-"),
        OWN.replace("\n  twice", "\n\ttwice"),
        OWN.replace(" = ", "=").replace(", owl", ",   owl"),
        OWN.split("\n\n")[1] + OWN.split("\n\n")[0],
    ):
        file.write_bytes(other.encode())
        for grammar in (Grammar.load(file), Grammar(other)):
            assert [grammar.write(random.Random(seed)) for seed in range(20)] == as_it_is


def test_one_text_or_several():
    rules, pools = OWN.split("\n\n")
    assert Grammar(rules, pools).rules == Grammar(OWN).rules
    assert Grammar(rules, pools).pools == Grammar(OWN).pools
    with pytest.raises(ValueError, match=r"^b.txt, line 2, .* end already, in line 5 of a.txt"):
        Grammar(rules, "\nend", files=["a.txt", "b.txt"])
    with pytest.raises(ValueError, match="below the name of its rule"):
        Grammar(rules, "| not of the rule above: another file")


def test_forms():
    texts = "s\n| <a:p> <b:p.Title> {a.one} {A.one} {b.one} {B.his} {a.His} {b.Title} {A}"
    grammar = Grammar(f"{texts}\n:p = text | his\n- hour of rest | its\n- yak | hers")
    found = {grammar.write(random.Random(seed)) for seed in range(9)}
    assert found == {
        "hour of rest Yak an hour of rest An hour of rest a yak Hers Its Yak Hour of rest",
        "yak Hour of Rest a yak A yak an hour of rest Its Hers Hour of Rest Yak",
    }
    own = Grammar("s\n| <a:p.one> {A.one} {a.Title}\n:p = text | one | title\n- unit | a unit | U")
    assert own.write(random.Random(0)) == "a unit A unit U"


def test_a_pool_prints_what_the_notation_would_take_for_its_own():
    grammar = Grammar("s\n| 1 <:sign> 2\n:sign\n- /, <, {x}, #, yo-yo\n:unused\n- 1,000")
    grammar.prove()
    assert len(grammar.read("1 / 2")) == len(grammar.read("1 {x} 2")) == 1
    assert grammar.pools["unused"][0]["text"] == "1,000"


POOL = "\n:p = text | his\n- Ada | her\n- Bo | his"
MISTAKES = {  # a text, the line that is wrong, what is said of it
    "nothing": ("", None, "there is no rule in the text: begin with a name"),
    "only comments": ("# a\n\n", None, "there is no rule"),
    "only a pool": (POOL, None, "there is no rule"),
    "no rule yet": ("\n| a\ns", 2, "an alternative stands below the name of its rule: write"),
    "an alternative in a pool": (f"s\n| a{POOL}\n| b", 6, "below the name of its rule"),
    "no pool yet": ("- a\ns\n| b", 1, "items stand below the name of their pool: write"),
    "items in a rule": ("s\n| b\n- a", 3, "items stand below the name of their pool"),
    "weight 0": ("s\n| b\n|0 a", 3, "the weight '0' is no whole number of 1 or more"),
    "weight below 0": ("s\n|-1 a", 2, "the weight '-1' is no whole number"),
    "half a weight": ("s\n|1.5 a", 2, "the weight '1.5' is no whole number"),
    "no space": ("s\n|a b", 2, "the weight 'a' is .* after the bar stands a space"),
    "no alternative": ("s\n| <x>\n\nx", 4, "x needs alternatives: write them below"),
    "no items": ("s\n| b\n:p", 3, "p needs items: write them below"),
    "a column too few": (f"s\n| a{POOL}\n- Cy", 6, r"1 where .* p has 2: write text \| his"),
    "a column too many": (f"s\n| a{POOL}\n- C | d | e", 6, "3 where the pool p has 2"),
    "an item of nothing": ("s\n| a\n:p\n- b, , c", 4, "something is empty here"),
    "a comma at the end": ("s\n| a\n:p\n- b,", 4, "something is empty here"),
    "a form of nothing": (f"s\n| a{POOL}\n- Cy |", 6, "something is empty here"),
    "a ruler": ("s\n| a\n:p\n- b\n-----", 5, "after the - comes a space"),
    "two rules": ("s\n| a\nt\n| b\ns\n| c", 5, "there is a rule s already, in line 1: give"),
    "two pools": (f"s\n| a{POOL}\n:p\n- c", 6, "there is a pool p already, in line 3"),
    "two forms": ("s\n| a\n:p = text | his | his", 3, "two forms have one name"),
    "no rule of that name": ("s\n| a <x>", 2, "there is no rule x: write it, or {x} for"),
    "a form of a rule": ("s\n| a <s.one>", 2, "there is no rule s.one"),
    "no pool of that name": ("s\n| a <b:q>", 2, "there is no pool q: write one"),
    "nothing of that name": (
        f"s\n| <a:p> {{b}}{POOL}",
        2,
        "nothing is drawn as b: write <b:pool>",
    ),
    "no name": ("s\n| {}", 2, "nothing is drawn as "),
    "no form to draw": (f"s\n| <a:p.her>{POOL}", 2, "p has no form her: it has text, his, one, T"),
    "no form to forget": (f"s\n| <:p.her>{POOL}", 2, "the pool p has no form her"),
    "no form to mention": (f"s\n| <a:p> {{a.her}}{POOL}", 2, "the pool p has no form her"),
    "no text": ("s\n| <a:p>\n:p = now\n- b", 2, "p has no form text: it has now, one, Title"),
    "two pools drawn from": (
        f"s\n| <a:p>\n| <a:q>{POOL}",
        3,
        "a is drawn from q and from p: give",
    ),
    "a variable with a capital": (f"s\n| <A:p>{POOL}", 2, "'A' is no name for a variable"),
    "two words": ("s\n| a\nthe end\n| b", 3, "'the end' is no name for a rule: take one word"),
    "a rule with a capital": ("Story\n| a", 1, "'Story' is no name for a rule"),
    "a pool of no name": ("s\n| a\n: = text", 3, "'' is no name for a pool"),
    "a pool without =": ("s\n| a\n:p text | his", 3, "'p text | his' is no name for a pool"),
    "a form of no name": ("s\n| a\n:p =", 3, "'' is no name for a form"),
    "indented at the start": ("  s\n| a", 1, "an indented line goes on with the line right above"),
    "indented after a gap": ("s\n| a\n\n  b", 4, "there is none: begin it at the margin"),
    "an open bracket": ("s\n| a <b", 2, "< stands alone: write <rule>"),
    "a closed brace": ("s\n| a} b", 2, "} stands alone"),
    "one in the other": ("s\n| <a{s}>", 2, "< stands alone"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line(name):
    text, number, why = MISTAKES[name]
    with pytest.raises(ValueError, match=why) as raised:
        Grammar(text)
    if number:
        line = text.split("\n")[number - 1].strip()
        assert str(raised.value).startswith(f"line {number}, {line!r}: ")
    assert "\n" not in str(raised.value)


def test_a_long_line_is_cut():
    with pytest.raises(ValueError, match=r"^line 2, '\| x{57}…': there is no rule y"):
        Grammar(f"s\n| {'x' * 80} <y>")


# -- the proof ------------------------------------------------------------------------------------

AMBIGUOUS = {
    "one alternative begins another": "s\n| a <x>.\nx\n| b\n| bc",
    "two rules write the same": "s\n| <x> end\n| <y> end\nx\n| b\ny\n| b",
    "equal after a draw": "s\n| <a:p> ran\n| <b:p> ran fast\n:p\n- Ada, Bo",
    "an item begins another": "s\n| <a:p>!\n:p\n- Ann, Anna",
    "a mention may be a literal": "s\n| <a:p> <x>!\nx\n| {a}\n| Bo\n:p\n- Ada, Bo",
    "a form that two items share": (
        "s\n| <a:p> <b:p> <x>!\nx\n| {a.form}\n| {b.form}"
        "\n:p = text | form\n- Ada | she\n- Bo | she"
    ),
    "two names for one thing": "s\n| <a:p> {a}!\n| <b:p> {b}!\n:p\n- Ada, Bo, Cy",
    "one name for two things": (
        "s\n| <a:p.f> {a.h}cd\n| <a:p.g> {a.h}d"
        "\n:p = text | f | g | h\n- X | foo | bar | ab\n- Y | baz | foo | abc"
    ),
    "nothing, or something": "s\n| a<x>.\nx\n|\n| b",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_grammar_is_refused(name):
    with pytest.raises(ValueError, match=r"two (alternatives|items) for"):
        Grammar(AMBIGUOUS[name]).prove()


def test_what_looks_ambiguous_but_is_not_is_accepted():
    """Two variables of one pool are never the same item, so naming one or the other differs."""
    Grammar("s\n| <a:p> and <b:p>: <x>!\nx\n| {a} won\n| {b} won\n:p\n- Ada, Bo, Cy").prove()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("s\n| {a} <a:p>", "a is mentioned but not drawn"),
        ("s\n| <x> {a}\nx\n| <a:p>.\n| b.", "a is mentioned but not drawn"),
        ("s\n| <a:p> <a:p>", "a is drawn twice"),
        ("s\n| <a:p> <b:p> <c:p>", "p has nothing left to draw"),
    ],
)
def test_draws_that_do_not_add_up_are_refused(rules, message):
    grammar = Grammar(f"{rules}\n:p\n- Ada, Bo")
    for refuses in (grammar.entropy, grammar.prove):
        with pytest.raises(ValueError, match=message):
            refuses()


@pytest.mark.parametrize(
    ("rules", "way"),
    [
        ("s\n| a\n| b <s>", "s to s"),
        ("s\n| a <x>\nx\n| b\n| c <y>\ny\n| d <x>", "(x to y to x|y to x to y)"),
        ("s\n| never led to\nx\n| b\n| c <x>", "x to x"),
    ],
)
def test_a_rule_that_leads_back_to_itself_is_refused(rules, way):
    with pytest.raises(ValueError, match=f"a rule leads back to itself, {way}: "):
        Grammar(rules)


def test_entropy_of_a_grammar_small_enough_to_list():
    """Every text listed with its probability: the sum of -p ln p is the entropy, to the bit."""
    rules = "s\n|3 <a:p> met <b:p>. <x>\n| <:p> slept.\nx\n| {a} won.\n|2 {b} won <:p>."
    grammar = Grammar(f"{rules}\n:p\n- Ada, Bo, Cy")
    grammar.prove()
    rng = random.Random(0)
    texts = {grammar.write(rng) for _ in range(5000)}
    p = [math.prod(c.probability for c in grammar.read(text)[0]) for text in texts]
    assert len(texts) == 3 * 2 * (1 + 3) + 3
    assert math.fsum(p) == pytest.approx(1, abs=1e-12)
    assert -math.fsum(q * math.log(q) for q in p) == pytest.approx(grammar.entropy(), abs=1e-12)
