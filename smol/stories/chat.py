"""Conversations about the stories, in which every right answer is known.

A story's choices can be read back from its text, so that code can say what the story says of
almost anything: who came last, where the kettle was, how many candles there were. What is asked,
in which words, and what each choice answers stands in chat.txt. Instructions ("Tell me a story
about a vet called Oscar.") are written and read back by the same grammar, so that `right` can
judge whatever a model replies, a story of its own included.

Part of it is held out, for fair evaluation: one plot, a tenth of the names, a tenth of the
combinations of a hero with an animal, a trade and a town, and for each thing to say the last of
its wordings. Fine-tuning meets none of it.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from smol import checks, stories
from smol.stories.grammar import Grammar
from smol.stories.notation import Alternative, Draw, Item, Mention, Part

__all__ = [
    "KINDS",
    "OPEN",
    "SAYS",
    "Conversation",
    "answers",
    "conversations",
    "follows",
    "right",
    "short_conversations",
]

FILE = Path(__file__).with_name("chat.txt")
SAYS, OPEN = "The story says: ", "The story does not say."
# What an answer can be, and how often each kind of question is asked where it can be: more often
# what few stories say, as how many there were, and who came last. "open" is what the story does
# not say; "story" is a story that somebody wished for.
ASKED = {"who": 2, "what": 3, "where": 2, "count": 6, "last": 6, "open": 3}
# What nearly every story says, and a model has soon learned: not asked where there is another of
# its kind to ask, three times of five.
ALWAYS, SKIPPED = ("who_hero", "who_other", "what_pet", "where_home"), 0.6
KINDS = (*ASKED, "story")
NEAR = 0.5  # of the open ones are such as another story of this plot may answer
WISHES = 0.15  # of all conversations begin with an instruction
TURNS = 12  # questions about a story, at the most, and as many
LETTERS = 1600  # as 512 tokens of assets/smol-stories hold, with 20 for what ChatML adds
PLOT, TENTH = "noise", 10  # held out
PAIRED = ("pet", "job", "town")  # what makes a combination with the hero
# How all stories begin, below their titles.
OPENING = """opening
| <home>
| <hero:name> of <town:town> had <pet:animal.one> that <habit>.
"""
FIRST = ("who_hero", "what_pet", "where_home", "what_job")  # what a story's first sentence decides
ANYWHERE = {"item": "object", "nook": "spot"}  # variables of wishes that no story has: its pool


class Conversation(NamedTuple):
    """Messages as chat templates take them, and of which kind each answer is, in turn.

    `_asdict()` is a line of a .jsonl of conversations.
    """

    messages: list[dict[str, str]]
    kinds: list[str]


class _Facts(NamedTuple):
    """What a text chose: an item for each variable, the first alternative for each rule, and all
    texts drawn, also those that nobody needs again."""

    drawn: dict[str, Item]
    chosen: dict[str, Alternative]
    texts: set[str]


@cache
def _chat() -> Grammar:
    """The grammar of instructions; it also holds what may be asked, and what is answered."""
    return Grammar.load(FILE, *stories.FILES)


@cache
def _opening() -> Grammar:
    return Grammar(OPENING, *(file.read_text(encoding="utf-8") for file in stories.FILES))


@cache
def _topics() -> tuple[dict[str, list], dict[str, list]]:
    """The wordings of each KIND_TOPIC; and its answers, as (rule, what its alternatives say)."""
    ways, says = {}, defaultdict(list)
    for name, alternatives in _chat().rules.items():
        head, _, topic = name.partition("_")
        if head in ASKED:
            ways[name] = [a.parts for a in alternatives]
        elif topic:
            says[topic].append((head, [a.parts for a in alternatives]))
    return ways, {name: says[name.partition("_")[2]] for name in ways}


def _facts(text: str, grammar: Grammar) -> _Facts:
    """ValueError for what the grammar cannot have written."""
    choices, drawn = grammar.reading(text)
    chosen, texts = {}, set()
    for choice in choices:
        name, drew, said = choice.made.partition(" = ")
        if drew:
            texts.add(said)
        else:
            rule, number = name.split()
            chosen.setdefault(rule, grammar.rules[rule][int(number) - 1])
    return _Facts(drawn, chosen, texts)


def _text(parts: Sequence[Part], facts: _Facts) -> str | None:
    """The parts in the words of a story, with a capital; None where it lacks one of them."""
    said = _said(parts, facts)
    return said and said[:1].upper() + said[1:]


def _said(parts: Sequence[Part], facts: _Facts) -> str | None:
    """The same, as a story has it within a sentence."""
    try:
        return "".join(_words(parts, facts))
    except KeyError:
        return None


def _words(parts: Sequence[Part], facts: _Facts) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Mention | Draw):
            yield facts.drawn[part.var][part.form]
        elif isinstance(part, str):
            yield part
        else:
            yield from _words(facts.chosen[part.name].parts, facts)


def _answers(facts: _Facts) -> dict[str, str]:
    found = {}
    rules = stories.grammar().rules
    for name, says in _topics()[1].items():
        said = []
        for rule, lines in says:
            if rule in facts.chosen:
                number = rules[rule].index(facts.chosen[rule]) if len(lines) > 1 else 0
                said.append(_said(lines[number], facts))
        said = [text for text in said if text]
        if "?" not in said:
            found[name] = SAYS + said[0] if said else OPEN
    return found


def answers(story: str) -> dict[str, str]:
    """The answers of a story by topic, {"who_hero": "The story says: Oscar.", …}: OPEN for what it
    does not say.

    All others begin with SAYS. So what was read is written as it was read: to a tokenizer " Juno"
    within a sentence is another token than "Juno" at its beginning, and of a name that no training
    asked for a model cannot know that the two are one. A topic's name begins with its kind. One
    that has no plain answer here is left out. ValueError for a text that is no story.
    """
    return _answers(_facts(story.strip("\n"), stories.grammar()))


def right(messages: Sequence[Mapping[str, str]], reply: str) -> bool:
    """Whether a reply to the last of these messages is right: the exact judge.

    To a question it is the one right answer, to the letter; to an instruction any story that the
    grammar can have written and that has what was asked for. The story is the last one told in
    the conversation, by whomever. ValueError where there is none, or for another question.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's: leave out the reply to be judged")
    asked = messages[-1]["content"]
    try:
        wish = _facts(asked, _chat())
    except ValueError:
        pass
    else:
        return _fulfils(wish, reply)
    said = [piece for message in messages for piece in message["content"].split("\n\n")]
    for story in reversed(said):
        try:
            facts = _facts(story, stories.grammar())
        except ValueError:
            continue
        for name, answer in _answers(facts).items():
            ways = {_text(way, facts) for way in _topics()[0][name]}
            if not ways.isdisjoint(asked.split("\n\n")):
                return reply == answer
        raise ValueError(f"nobody knows the answer to {asked[-60:]!r}: ask as chat.txt does")
    raise ValueError("there is no story of the grammar's in this conversation: tell one first")


def follows(messages: Sequence[Mapping[str, str]], reply: str) -> bool:
    """Whether a reply to an instruction has what was asked for, flawless or not: hero, animal,
    trade and town as its opening sentence has them, a thing anywhere.

    `right` wants the whole to be a story, in which nothing contradicts anything: a small model
    forgets within a page who looked where. ValueError where the last message is no instruction.
    """
    try:
        wish = _facts(messages[-1]["content"], _chat())
    except ValueError:
        raise ValueError("the last message is no instruction: ask `right` about it") from None
    _, _, below = reply.strip("\n").partition("\n")
    try:
        drawn = _facts(below[: below.find(". ") + 1], _opening()).drawn
    except ValueError:
        return False
    known = _opening().pool_of
    return all(
        drawn.get(var) == item if var in known else item["text"].lower() in reply.lower()
        for var, item in wish.drawn.items()
    )


def _fulfils(wish: _Facts, story: str) -> bool:
    try:
        facts = _facts(story, stories.grammar())
    except ValueError:
        return False
    known = stories.grammar().pool_of
    return all(
        facts.drawn.get(var) == item
        if var in known
        else not facts.texts.isdisjoint(item.values())  # anywhere, as whatever it may be
        for var, item in wish.drawn.items()
    )


def conversations(
    count: int, seed: int, held_out: bool = False, kinds: Sequence[str] = KINDS
) -> Iterator[Conversation]:
    """`count` conversations, one at a time: the same for the same seed on every machine.

    Each is about one story, which the user shows or asks for. With held_out the wordings, and
    something in each story, are such as no other conversation has. With fewer `kinds` only such
    questions are asked, and only of stories that answer one. Each fits 512 tokens of
    assets/smol-stories in ChatML, without a system message.
    """
    count = checks.whole("count", count)
    rng = random.Random(checks.seed("seed", seed))
    held_out = checks.flag("held_out", held_out)
    wanted = [checks.one_of("kinds", kind, KINDS) for kind in kinds]
    if not any(kind in ASKED for kind in wanted):
        raise ValueError(f"kinds names no kind of question: add one of {', '.join(ASKED)}")
    talks = (_conversation(rng, held_out, wanted) for _ in itertools.repeat(None))
    return itertools.islice((talk for talk in talks if talk.kinds), count)


def _conversation(rng: random.Random, held_out: bool, wanted: Sequence[str]) -> Conversation:
    """Without any message where a story answers none of the kinds that are wanted."""
    wished = rng.random() < WISHES and "story" in wanted
    said, kinds = [], []
    if wished:
        wish, given = _wish(rng, held_out)
        story, facts = _story(rng, held_out, given)
        said, kinds = [wish, story], ["story"]
    else:
        story, facts = _story(rng, held_out)
    turns = int(rng.random() * TURNS) + (not wished)
    for kind, question, answer in _questions(rng, facts, held_out, turns, wanted):
        if not kinds:
            question = _shown(rng, story, question, held_out)
        if kinds and sum(len(text) + 20 for text in (*said, question, answer)) > LETTERS:
            break
        said += [question, answer]
        kinds.append(kind)
    roles = ("user", "assistant") * len(kinds)
    messages = [{"role": r, "content": text} for r, text in zip(roles, said, strict=True)]
    return Conversation(messages, kinds)


def short_conversations(seed: int, held_out: bool = False) -> Iterator[Conversation]:
    """Two or three plain questions about the first sentence of a story, conversations without end.

    Each question has one wording, and the sentence alone decides the answer. A minute of training
    shows on them. Held out are the heroes' names, a tenth of all.
    """
    rng = random.Random(checks.seed("seed", seed))
    held_out = checks.flag("held_out", held_out)
    names = enumerate(stories.grammar().pools["name"])
    heroes = [name for i, name in names if (i % TENTH == TENTH - 1) == held_out]
    return (_short(rng, _pick(rng, heroes)) for _ in itertools.repeat(None))


def _short(rng: random.Random, hero: Item) -> Conversation:
    story = stories.grammar().write(rng, {"hero": hero})
    facts = _facts(story, stories.grammar())
    known, messages, kinds = _answers(facts), [], []
    topics = [topic for topic in FIRST if topic in known]
    shown = story.split("\n")[1].partition(". ")[0] + ".\n\n"
    for _ in range(2 + (rng.random() < 0.5)):
        topic = topics.pop(int(rng.random() * len(topics)))
        question, answer = _text(_topics()[0][topic][0], facts), known[topic]
        messages += [
            {"role": "user", "content": shown + question},
            {"role": "assistant", "content": answer},
        ]
        kinds.append("open" if answer == OPEN else topic.partition("_")[0])
        shown = ""
    return Conversation(messages, kinds)


def _pick(rng: random.Random, items: Sequence):
    """One of them. Only rng.random() is used, which all versions of Python compute alike."""
    return items[int(rng.random() * len(items))]


def _wording(ways: Sequence, held_out: bool) -> Sequence:
    """Those of these wordings that may be used: the last one, or all others."""
    return ways[-1:] if held_out else ways[:-1]


def _story(rng, held_out: bool, given: dict[str, Item] | None = None) -> tuple[str, _Facts]:
    """A story that has what is given, held out or not, and what can be read from it."""
    given = given or {}
    while True:
        story = stories.grammar().write(rng, given)
        if all(item["text"].lower() in story.lower() for item in given.values()):  # faster
            facts = _facts(story, stories.grammar())
            if given.items() <= facts.drawn.items() and _is_held_out(facts) == held_out:
                return story, facts


def _is_held_out(facts: _Facts) -> bool:
    """Whether plot, a name, or a combination of the hero with something else is held out."""
    pools, pool_of = stories.grammar().pools, stories.grammar().pool_of
    names = [pools["name"].index(i) for var, i in facts.drawn.items() if pool_of[var] == "name"]
    if PLOT in facts.chosen or any(number % TENTH == TENTH - 1 for number in names):
        return True
    if "hero" not in facts.drawn:
        return False
    hero = pools["name"].index(facts.drawn["hero"])
    others = [pools[pool_of[v]].index(facts.drawn[v]) for v in PAIRED if v in facts.drawn]
    return any((hero + other) % TENTH == 0 for other in others)


def _wish(rng: random.Random, held_out: bool) -> tuple[str, dict[str, Item]]:
    """An instruction, and what a story needs to fulfil it, by the story's own variables."""
    chat, known = _chat(), stories.grammar().pool_of
    told = _pick(rng, chat.rules["told"])
    tell = _pick(rng, _wording(chat.rules["tell"], held_out))
    chosen = {"wish": chat.rules["wish"][0], "tell": tell, "told": told}
    draws = [part for part in told.parts if isinstance(part, Draw)]
    while True:
        wish = _Facts({d.var: _pick(rng, chat.pools[d.pool]) for d in draws}, chosen, set())
        # A town, an animal or a thing alone is nothing to hold out: there the wording is.
        if "hero" not in wish.drawn or _is_held_out(wish) == held_out:
            break
    given = {}
    for var, item in wish.drawn.items():
        if var not in known:
            var = _pick(rng, [v for v, pool in known.items() if pool == ANYWHERE[var]])
        pool = stories.grammar().pools[known[var]]
        given[var] = next(other for other in pool if other["text"] == item["text"])
    return _text(chat.start, wish), given


def _shown(rng: random.Random, story: str, question: str, held_out: bool) -> str:
    """A story and the first question about it: now and then the question stands first."""
    pieces = [story, question] if rng.random() < 0.75 else [question, story]
    if rng.random() < 0.5:
        here = _pick(rng, _wording(_chat().rules["here"], held_out))
        pieces.insert(pieces.index(story), "".join(here.parts))
    return "\n\n".join(pieces)


def _questions(
    rng: random.Random, facts: _Facts, held_out: bool, turns: int, wanted: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Some things of the kinds that are wanted, none twice: kind, question, answer."""
    (ways, says), known = _topics(), _answers(facts)
    left = defaultdict(dict)  # by kind, then by topic: how it can be asked
    for name, answer in known.items():
        said = [_text(way, facts) for way in _wording(ways[name], held_out)]
        if said := [text for text in said if text]:
            left["open" if answer == OPEN else name.partition("_")[0]][name] = said
    for _ in range(turns):
        kinds = [k for k in ASKED for _ in range(ASKED[k]) if left[k] and k in wanted]
        if not kinds:
            break
        kind = _pick(rng, kinds)
        topics = list(left[kind])
        if kind == "open" and rng.random() < NEAR:
            near = [n for n in topics if any(rule in facts.chosen for rule, _ in says[n])]
            topics = near or topics
        if rng.random() < SKIPPED:
            topics = [n for n in topics if n not in ALWAYS] or topics
        topic = _pick(rng, topics)
        yield kind, _pick(rng, left[kind].pop(topic)), known[topic]
