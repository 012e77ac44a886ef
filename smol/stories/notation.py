"""Reads the notation of rules and pools, and says what is wrong with a line.

story                   a rule: one word on a line; a text is one alternative of the first rule
| Once upon a time      an alternative: all that follows a bar and a space
|3 One day              another, three times as likely as one without a number
  in May                an indented line goes on with the line above

In an alternative:
/                       a line break
<rule>                  one alternative of that rule, which must not lead back to this one
<pet:animal>            draws from a pool what this text has not drawn yet, and prints its text
<pet:animal.noise>      the same, but prints another form of it
<:animal>               any item of the pool, forgotten at once
{pet} {pet.noise}       what was drawn, again, in any of its forms
{Pet} {pet.Noise}       the same with a capital

:animal = text | noise  a pool and the forms of its items; only text where none are named
- cat, kitten | purred  an item for each comma of the first form; they share the other forms

The forms one ("a cat", "an owl") and Title ("Fire Engine") are made of the first form, unless
named. Names are words of small letters, digits and _. A comment has a line of its own: # so.
"""

import re
from collections.abc import Iterator
from itertools import chain
from string import capwords
from typing import NamedTuple


class Rule(NamedTuple):
    """A part of an alternative: one alternative of that rule."""

    name: str


class Draw(NamedTuple):
    """A part of an alternative: something new from a pool, in one of its forms."""

    var: str  # "" where it is not remembered
    pool: str
    form: str


class Mention(NamedTuple):
    """A part of an alternative: what was drawn, in one of its forms."""

    var: str
    form: str


Part = str | Rule | Draw | Mention
Item = dict[str, str]  # an item of a pool: form -> text


class Alternative(NamedTuple):
    """One way to go on, with its probability among the others of its rule."""

    probability: float
    parts: tuple[Part, ...]


class Notation(NamedTuple):
    """What was read: alternatives by rule, items by pool, and the pool of each variable."""

    rules: dict[str, list[Alternative]]
    pools: dict[str, list[Item]]
    pool_of: dict[str, str]


class _Line(NamedTuple):
    """A line with the indented ones below it."""

    file: str
    number: int
    text: str

    def wrong(self, why: str) -> ValueError:
        where = f"{self.file}, line" if self.file else "line"
        text = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        return ValueError(f"{where} {self.number}, {text!r}: {why}")


class _Block(NamedTuple):
    """The line that names a rule or a pool, and its alternatives or items."""

    head: _Line
    lines: list[_Line]


def parse(*sources: tuple[str, str]) -> Notation:
    """Reads texts, each after the name of its file ("" for none), as if they were one.

    Raises ValueError for the first mistake, with the line's number, the line and the remedy.
    """
    rules, pools = _blocks(sources)
    if not rules:
        files = " and ".join(file for file, _ in sources if file) or "the text"
        raise ValueError(f"there is no rule in {files}: begin with a name, and below it | a text")
    items = {name: _items(name, block) for name, block in pools.items()}
    alternatives = {name: _alternatives(name, block) for name, block in rules.items()}
    pool_of = {}
    for line, _, parts in chain(*alternatives.values()):
        for part in parts:
            if isinstance(part, Draw) and part.var:
                _check_name(line, "variable", part.var)
                if (other := pool_of.setdefault(part.var, part.pool)) != part.pool:
                    why = f"{part.var} is drawn from {part.pool} and from {other}"
                    raise line.wrong(f"{why}: give one of them another name")
    read = Notation({}, items, pool_of)
    for name, ways in alternatives.items():
        total = sum(weight for _, weight, _ in ways)
        read.rules[name] = [Alternative(weight / total, parts) for _, weight, parts in ways]
    for line, _, parts in chain(*alternatives.values()):
        for part in parts:
            _check_part(line, part, read)
    return read


def _lines(file: str, text: str) -> list[_Line]:
    lines, goes_on = [], False
    for number, row in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        said = row.strip()  # of a \r too
        if not said or said.startswith("#"):
            goes_on = False
        elif not row[0].isspace():
            lines.append(_Line(file, number, row.rstrip()))
            goes_on = True
        elif goes_on:
            lines[-1] = lines[-1]._replace(text=f"{lines[-1].text} {said}")
        else:
            why = "an indented line goes on with the line right above it, and there is none"
            raise _Line(file, number, said).wrong(f"{why}: begin it at the margin")
    return lines


def _blocks(sources) -> tuple[dict[str, _Block], dict[str, _Block]]:
    """Rules and pools by name."""
    rules, pools = {}, {}
    for file, text in sources:
        expected, block = "", []
        for line in _lines(file, text):
            mark = line.text[0]
            if mark == "|" and expected != "|":
                raise line.wrong(
                    "an alternative stands below the name of its rule: write that on a line above"
                )
            if mark == "-" and expected != "-":
                raise line.wrong(
                    "items stand below the name of their pool: write that, with a colon before "
                    "it, on a line above"
                )
            if mark == expected:
                block.append(line)
                continue
            kind, known, expected = ("pool", pools, "-") if mark == ":" else ("rule", rules, "|")
            name = line.text.partition("=")[0][1:].strip() if mark == ":" else line.text
            _check_name(line, kind, name)
            if name in known:
                first = known[name].head
                where = f"line {first.number}" + (f" of {first.file}" if first.file else "")
                why = f"there is a {kind} {name} already, in {where}: give one another name"
                raise line.wrong(why)
            known[name] = _Block(line, block := [])
    return rules, pools


def _check_name(line: _Line, kind: str, name: str) -> None:
    if not name.isidentifier() or name != name.lower():
        raise line.wrong(
            f"{name!r} is no name for a {kind}: take one word of small letters (at the start of a "
            "line | begins an alternative, - items, : a pool, # a comment)"
        )


def _alternatives(name: str, block: _Block) -> list[tuple[_Line, int, tuple[Part, ...]]]:
    """An alternative's line, its weight and its parts."""
    found = []
    for line in block.lines:
        weight, _, text = line.text[1:].partition(" ")
        if not re.fullmatch("[1-9][0-9]*|", weight):
            raise line.wrong(
                f"the weight {weight!r} is no whole number of 1 or more: after the bar stands a "
                "space, or a weight and a space"
            )
        found.append((line, int(weight or 1), tuple(_parts(line, text))))
    if not found:
        raise block.head.wrong(f"{name} needs alternatives: write them below, each after a bar")
    return found


def _parts(line: _Line, text: str) -> Iterator[Part]:
    for piece in re.split(r"(<[^<>{}]*>|\{[^<>{}]*\})", text):
        name, _, form = piece[1:-1].partition(".")
        if piece[:1] == "{" and piece[-1:] == "}":
            if form != "Title":
                capital = name[:1].isupper() or form[:1].isupper()
                form = form.lower() or "text"
                form = form.capitalize() if capital else form
            yield Mention(name.lower(), form)
        elif piece[:1] == "<" and piece[-1:] == ">":
            var, colon, pool = name.partition(":")
            yield Draw(var, pool, form or "text") if colon else Rule(piece[1:-1])
        elif stray := re.search("[<>{}]", piece):
            raise line.wrong(
                f"{stray[0]} stands alone: write <rule>, <name:pool> or {{name}}, or, to print "
                f"it, draw it from a pool"
            )
        elif piece:
            yield piece.replace("/", "\n")


def _check_part(line: _Line, part: Part, read: Notation) -> None:
    if isinstance(part, Rule) and part.name not in read.rules:
        raise line.wrong(
            f"there is no rule {part.name}: write it, or {{{part.name}}} for what was drawn"
        )
    if isinstance(part, Mention) and part.var not in read.pool_of:
        raise line.wrong(
            f"nothing is drawn as {part.var}: write <{part.var}:pool> before it, or "
            f"<{part.var}> for a rule"
        )
    if isinstance(part, Draw) and part.pool not in read.pools:
        raise line.wrong(f"there is no pool {part.pool}: write one, :{part.pool} and its items")
    if isinstance(part, Draw | Mention):
        pool = part.pool if isinstance(part, Draw) else read.pool_of[part.var]
        forms = read.pools[pool][0]
        if part.form not in forms:
            known = ", ".join(form for form in forms if form in (form.lower(), "Title"))
            raise line.wrong(f"the pool {pool} has no form {part.form}: it has {known}")


def _items(name: str, block: _Block) -> list[Item]:
    _, equals, named = block.head.text.partition("=")
    forms = [form.strip() for form in named.split("|")] if equals else ["text"]
    for form in forms:
        _check_name(block.head, "form", form)
    if len(set(forms)) < len(forms):
        raise block.head.wrong("two forms have one name: rename one of them")
    items = []
    for line in block.lines:
        if not f"{line.text} ".startswith("- "):
            raise line.wrong("after the - comes a space")
        first, *others = (text.strip() for text in line.text[1:].split("|"))
        if len(others) + 1 != len(forms):
            count = f"{len(others) + 1} where the pool {name} has {len(forms)}"
            raise line.wrong(f"the number of columns is {count}: write {' | '.join(forms)}")
        words = re.split(r",(?: +|$)", first)
        if not all([*words, *others]):
            raise line.wrong("something is empty here: write a text for each item and form")
        items += [_item(dict(zip(forms, (word, *others), strict=True)), word) for word in words]
    if not items:
        raise block.head.wrong(f"{name} needs items: write them below, each line after a -")
    return items


def _item(named: Item, word: str) -> Item:
    """All forms of an item: those named, what comes by itself, and each with a capital."""
    one = f"{'an' if re.match('[aeiou]|hour', word.lower()) else 'a'} {word}"
    title = re.sub(r" (Of|On) ", lambda small: small[0].lower(), capwords(word))
    forms = {**named, "one": named.get("one", one)}
    capitals = {form.capitalize(): text[0].upper() + text[1:] for form, text in forms.items()}
    return {**forms, "Title": title, **capitals}
