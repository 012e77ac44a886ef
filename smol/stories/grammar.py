"""A grammar that writes texts, reads its own choices back from them, and knows its entropy.

The notation of its rules and pools is stated in notation.py.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

from smol.stories.notation import Draw, Item, Mention, Part, Rule, parse


class Choice(NamedTuple):
    """What was chosen, how probably, and where the text shows it.

    From `start` to `end` stands what was drawn, or the first word of an alternative.
    """

    start: int
    end: int
    made: str
    probability: float


class Grammar:
    """Rules and pools: writes texts, reads them back, and knows its own entropy.

    From one text or several, which are read as one; `files` names them in messages. Raises
    ValueError for a mistake in them. What only the whole shows, `entropy` and `prove` find.
    """

    def __init__(self, *texts: str, files: Sequence[str] = ()):
        self.rules, self.pools, self.pool_of = parse(*zip_longest(files, texts, fillvalue=""))
        self.start = (Rule(next(iter(self.rules))),)
        leads_to = {
            name: {p.name for a in alternatives for p in a.parts if isinstance(p, Rule)}
            for name, alternatives in self.rules.items()
        }
        try:
            TopologicalSorter(leads_to).prepare()
        except CycleError as error:
            way = " to ".join(reversed(error.args[1]))
            raise ValueError(
                f"a rule leads back to itself, {way}: its texts have no end"
            ) from None

    @classmethod
    def load(cls, *files: str | Path) -> "Grammar":
        """The grammar of a file, or of several that are read as one. They are UTF-8."""
        return cls(*map(_read, files), files=[Path(file).name for file in files])

    def _all_parts(self) -> set[Part]:
        return {p for rule in self.rules.values() for a in rule for p in a.parts}

    def _free(self, draw: Draw, drawn: dict[str, Item]) -> list[Item]:
        if not draw.var:
            return self.pools[draw.pool]
        taken = [id(item) for var, item in drawn.items() if self.pool_of[var] == draw.pool]
        return [item for item in self.pools[draw.pool] if id(item) not in taken]

    def write(self, rng: random.Random, given: dict[str, Item] | None = None) -> str:
        """A text. Only rng.random() is used, which all versions of Python compute alike.

        A variable that is `given`, with an item of these pools, has this one where the text draws
        it, and no other variable has it.
        """
        todo, text, drawn, given = list(self.start), [], {}, given or {}
        while todo:
            part = todo.pop()
            if isinstance(part, str):
                text.append(part)
            elif isinstance(part, Mention):
                text.append(drawn[part.var][part.form])
            elif isinstance(part, Draw):
                if (item := given.get(part.var)) is None:
                    free = self._free(part, {**given, **drawn})
                    item = free[int(rng.random() * len(free))]
                text.append(item[part.form])
                if part.var:
                    drawn[part.var] = item
            else:
                at = rng.random()
                for alternative in self.rules[part.name]:
                    at -= alternative.probability
                    if at < 0:
                        break
                todo += reversed(alternative.parts)
        return "".join(text)

    def read(self, text: str) -> list[list[Choice]]:
        """Every way in which the grammar can write this text: one for its own, none for others.

        All alternatives are followed that agree with the text so far (`prove` shows that only
        one of them gets to its own end).
        """
        return [choices for choices, _ in self._ways(text)]

    def _ways(self, text: str) -> list[tuple[list[Choice], dict[str, Item]]]:
        found = []
        paths = [(0, _stack(self.start), {}, None)]  # position, parts to come, drawn, choices
        while paths:
            at, rest, drawn, made = paths.pop()
            while rest:
                part, rest = rest
                if isinstance(part, Mention):
                    part = drawn[part.var][part.form]
                if isinstance(part, str):
                    if not text.startswith(part, at):
                        break
                    at += len(part)
                elif isinstance(part, Draw):
                    free = self._free(part, drawn)
                    for item in free:
                        if text.startswith(item[part.form], at):
                            what = f"{part.var or part.pool} = {item[part.form]}"
                            choice = Choice(at, at + len(item[part.form]), what, 1 / len(free))
                            now = {**drawn, part.var: item} if part.var else drawn
                            paths.append((at + len(item[part.form]), rest, now, (choice, made)))
                    break
                else:
                    space = text.find(" ", at)
                    end = space if space >= 0 else len(text)
                    for number, (probability, parts) in enumerate(self.rules[part.name], 1):
                        choice = Choice(at, end, f"{part.name} {number}", probability)
                        paths.append((at, _stack(parts, rest), drawn, (choice, made)))
                    break
            else:
                if at == len(text):
                    found.append((list(_unlink(made))[::-1], drawn))
        return found

    def reading(self, text: str) -> tuple[list[Choice], dict[str, Item]]:
        """The choices that made a text, in order, and the item that each variable has in it.

        ValueError for what this cannot have written.
        """
        found = self._ways(text)
        if len(found) != 1:
            raise ValueError(f"the grammar cannot have written this: {text[:60]!r}")
        return found[0]

    def choices(self, text: str) -> list[Choice]:
        """The choices that made a text, in order; ValueError for what this cannot have written."""
        return self.reading(text)[0]

    def log_prob(self, text: str) -> float:
        """ln p of a text, in nats: exact. ValueError for what this cannot have written."""
        return sum(math.log(choice.probability) for choice in self.choices(text))

    def entropy(self) -> float:
        """The expected -ln p of a text, in nats, by the chain rule: the sum over all choices of
        how often each is met times its own entropy.

        Along the way it is proved that what is mentioned was drawn, and drawn only once.
        """

        @cache
        def inside(rule: str, drawn: frozenset) -> tuple[float, dict[frozenset, float]]:
            nats, after = 0.0, Counter()
            for probability, parts in self.rules[rule]:
                nats -= probability * math.log(probability)
                states = {drawn: probability}  # what may have been drawn -> how probably
                for part in parts:
                    following = Counter()
                    for have, p in states.items():
                        if isinstance(part, Rule):
                            more, ends = inside(part.name, have)
                            nats += p * more
                            for end, q in ends.items():
                                following[end] += p * q
                            continue
                        if isinstance(part, Draw):
                            if part.var in have:
                                raise ValueError(f"{rule}: {part.var} is drawn twice")
                            taken = sum(self.pool_of[var] == part.pool for var in have)
                            taken = taken if part.var else 0
                            if (free := len(self.pools[part.pool]) - taken) < 1:
                                raise ValueError(f"{rule}: {part.pool} has nothing left to draw")
                            nats += p * math.log(free)
                            have = have | {part.var} if part.var else have
                        elif isinstance(part, Mention) and part.var not in have:
                            raise ValueError(f"{rule}: {part.var} is mentioned but not drawn")
                        following[have] += p
                    states = following
                after.update(states)
            return nats, after

        return inside(self.start[0].name, frozenset())[0]

    def prove(self) -> None:
        """Raises ValueError unless every text can be written in one way only.

        Wherever there is a choice, no text of one alternative is the beginning of a text of
        another (or the whole of it), so that text and choices so far fix the next choice: two
        different series of choices can never give one text. (Every draw is printed where it is
        made, and `entropy` refuses one that is missing or made twice.)
        """
        self.entropy()
        for name, alternatives in self.rules.items():
            for i, one in enumerate(alternatives):
                for other in alternatives[:i]:
                    clash = self._common(one.parts, other.parts)
                    if clash is not None:
                        why = "what one can write, the other can too, or goes on from"
                        raise ValueError(f"{name} has two alternatives for {clash!r}: {why}")
        for part in self._all_parts():
            if isinstance(part, Draw):
                forms = [item[part.form] for item in self.pools[part.pool]]
                if clash := _prefix(forms):
                    why = "one begins the other, or equals it"
                    raise ValueError(f"{part.pool} has two items for {clash!r}: {why}")

    def _common(self, one: tuple[Part, ...], other: tuple[Part, ...]) -> str | None:
        """A text that both can write and that ends at least one of them; None if there is none.

        Both are read in step. A mention may be any item of its pool, which only makes the proof
        stricter. Except for what was drawn before the choice: there a variable is the same item
        on both sides, and two variables of one pool are never the same one.
        """
        within = self._drawn_in(one) | self._drawn_in(other)
        seen, pairs = set(), [(_stack(one), _stack(other), "")]
        while pairs:
            a, b, text = pairs.pop()
            if (a, b) in seen:
                continue
            seen.add((a, b))
            if not a or not b:
                return text
            mentions = isinstance(a[0], Mention) and isinstance(b[0], Mention)
            if mentions and not {a[0].var, b[0].var} & within:
                same_form = a[0].form == b[0].form
                if same_form and a[0].var == b[0].var:
                    pairs.append((a[1], b[1], f"{text}<{a[0].var}>"))
                    continue
                pool, other_pool = (self.pool_of[s[0].var] for s in (a, b))
                forms = [item[a[0].form] for item in self.pools[pool]]
                if same_form and pool == other_pool and not _prefix(forms):
                    continue  # two items, neither of which begins the other
            if not isinstance(a[0], str):
                pairs += [(start, b, text) for start in self._starts(*a)]
            elif not isinstance(b[0], str):
                pairs += [(a, start, text) for start in self._starts(*b)]
            else:
                n = min(len(a[0]), len(b[0]))
                if a[0][:n] == b[0][:n]:
                    rest = [(s[0][n:], s[1]) if s[0][n:] else s[1] for s in (a, b)]
                    pairs.append((*rest, text + a[0][:n]))
        return None

    def _drawn_in(self, parts: tuple[Part, ...]) -> set[str]:
        """The variables that these parts may draw."""
        found = {part.var for part in parts if isinstance(part, Draw)}
        rules = [self.rules[part.name] for part in parts if isinstance(part, Rule)]
        return found.union(*(self._drawn_in(a.parts) for rule in rules for a in rule))

    def _starts(self, part: Part, rest) -> list:
        if isinstance(part, Rule):
            return [_stack(alternative.parts, rest) for alternative in self.rules[part.name]]
        if isinstance(part, Draw):
            forms = [item[part.form] for item in self.pools[part.pool]]
        else:
            forms = [item[part.form] for item in self.pools[self.pool_of[part.var]]]
        return [(form, rest) for form in sorted(set(forms))]


def _read(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {file}: check the path") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 at byte {error.start}: convert it first") from None


def _prefix(texts: list[str]) -> str | None:
    """A text that begins the next one of the sorted list, or equals it; None if there is none."""
    texts = sorted(texts)
    return next((a for a, b in pairwise(texts) if b.startswith(a)), None)


def _stack(parts: tuple[Part, ...], below=None):
    """Parts as a linked list (first, rest), so that paths share what they have in common."""
    for part in reversed(parts):
        below = (part, below)
    return below


def _unlink(link):
    while link:
        first, link = link
        yield first
