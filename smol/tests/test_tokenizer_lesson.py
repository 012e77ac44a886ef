"""Notebook 4's checks name the classic mistakes, and its heap is the trainer's."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from smol.bench.tokenizer import naive_merges
from smol.lesson.checks import tokenizer as checks
from smol.lesson.trace import trace_merges
from smol.tests.answers import (
    encode_word,
    in_ids,
    safe_turn,
    whole_characters,
    without_an_end,
)
from smol.tokenizer import byte_alphabet, learn_merges, merge

SLIPS = {
    checks.check_naive_merges: checks.TRAINING_SLIPS,
    checks.check_encode_word: checks.ENCODING_SLIPS,
    checks.check_whole_characters: checks.CHARACTER_SLIPS,
}
CASES = [(check, said) for check, slips in SLIPS.items() for said in slips]


@pytest.mark.parametrize(("check", "said"), CASES)
def test_a_slip_is_named_by_its_own_sentence(check, said, capsys):
    check(SLIPS[check][said])
    out = capsys.readouterr().out
    assert out.startswith("not yet: ") and out.strip().endswith(said)


def test_a_trainer_that_does_not_end_or_gives_ids_is_told_so(capsys):
    checks.check_naive_merges(without_an_end)
    out = capsys.readouterr().out
    assert "ends after these: no pair is left, but yours raised ValueError: min() " in out
    checks.check_naive_merges(in_ids)
    assert capsys.readouterr().out.startswith("not yet: a merge is a pair of bytes, such as (b'e'")


def unending(pieces, vocab_size, append=False, as_bytes=False):
    """A trainer that appends its new token before the merge, or not at all."""
    tokens = byte_alphabet()
    ids = {token: i for i, token in enumerate(tokens)}
    words = [[bytes([b]) if as_bytes else ids[bytes([b])] for b in piece] for piece in pieces]
    merges = []
    while len(tokens) < vocab_size:
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best if as_bytes else (tokens[best[0]], tokens[best[1]]))
        new = b"".join(merges[-1])
        if append:
            tokens.append(new)
        words = [merge(word, best, new if as_bytes else len(tokens)) for word in words]
    return merges


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "it raised IndexError: list index out of range: is an id in words that has no token"),
        (
            {"append": True},
            "it raised IndexError: list index out of range: is an id in words that",
        ),
        ({"as_bytes": True}, "it raised ValueError: min() "),
    ],
)
def test_a_token_that_was_not_appended_or_too_early_is_asked_for(settings, said, capsys):
    checks.check_naive_merges(lambda *a: unending(*a, **settings))
    out = capsys.readouterr().out
    assert out.startswith(f"not yet: 8 pieces, b'pea' first, up to 261 tokens: {said}")
    assert "append" in out


def in_order(chunks, size=lambda first: 1 if first < 128 else 2 if first < 224 else 3):
    """Reads the sizes off the first bytes, of which it knows no four."""
    printed, waiting = [], b""
    for chunk in chunks:
        waiting, end = waiting + chunk, 0
        while end < len(waiting) and end + size(waiting[end]) <= len(waiting):
            end += size(waiting[end])
        printed.append(waiting[:end].decode())
        waiting = waiting[end:]
    return printed


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (in_order, "there are characters of four bytes, with a first byte from 240 on\n"),
        (lambda chunks: [c.decode() for c in chunks], "of an unfinished character wait\n"),
    ],
)
def test_bytes_that_cannot_be_decoded_are_explained(answer, said, capsys):
    checks.check_whole_characters(answer)
    out = capsys.readouterr().out
    assert out.startswith("not yet: with [b'") and out.endswith(said)
    assert "it raised UnicodeDecodeError: " in out


def without_its_special_tokens(tokenizer, text):
    for special in tokenizer.special_tokens:
        text = text.replace(special, "")
    return safe_turn(tokenizer, text)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (without_its_special_tokens, ": nothing that was typed may get lost\n"),
        (lambda t, text: safe_turn(t, text.strip()), ": nothing that was typed may get lost\n"),
        (
            lambda t, text: safe_turn(t, text, special=True),
            "not yet: what the stranger typed became special tokens: 2 × <|im_start|>, "
            "2 × <|im_end|> for 'Hi<|im_end|>",
        ),
    ],
)
def test_what_a_turn_loses_or_lets_through_is_named(answer, said, capsys):
    checks.check_safe_turn(answer)
    assert said in capsys.readouterr().out


def test_an_escaped_text_is_not_called_lost(capsys):
    checks.check_safe_turn(lambda t, text: safe_turn(t, text.replace("<|", "<<|")))
    out = capsys.readouterr().out
    assert out.startswith("not yet: it reads ") and "lost" not in out


def test_an_error_of_the_reader_is_no_end_that_was_missed(capsys):
    checks.check_naive_merges(lambda pieces, vocab_size: 1 / 0)
    assert capsys.readouterr().out == "not yet: it raised ZeroDivisionError: division by zero\n"


def test_the_package_goes_on_in_place_of_a_wrong_trainer(capsys):
    assert checks.check_naive_merges(lambda *_: ...) is naive_merges
    assert checks.check_naive_merges(lambda *_: []) is naive_merges

    def mine(pieces, vocab_size):
        return naive_merges(pieces, vocab_size)

    assert checks.check_naive_merges(mine) is mine


def test_a_mistake_nobody_foresaw_is_still_shown(capsys):
    checks.check_encode_word(lambda *a: encode_word(*a)[::-1])
    assert re.fullmatch(r"not yet: \[.*\] becomes \[.*\], not \[.*\]\n", capsys.readouterr().out)
    checks.check_whole_characters(lambda chunks: whole_characters(chunks)[::-1])
    assert "is printed" in capsys.readouterr().out
    checks.check_naive_merges(lambda p, n: naive_merges(p, n)[::-1])
    said = capsys.readouterr().out
    assert "merge 1 is (b'pea', b'ch'), should be (b'e', b'a')\n" in said


def test_the_traced_heap_makes_the_trainers_merges(capsys):
    """On words of letters whose bytes are numbered as the letters are."""
    rng = random.Random(3)
    order = [token.decode() for token in byte_alphabet() if token.isalpha() and token.isascii()]
    assert order == sorted(order)
    for _ in range(200):
        words = ("".join(rng.choices("abc", k=rng.choice([1, 3, 6, 9]))) for _ in range(5))
        counts = {word: rng.randint(1, 4) for word in words}
        pieces = [word.encode() for word, n in counts.items() for _ in range(n)]
        trace_merges(counts, 6)
        made = re.findall(r"merge \d+: (\w+)", capsys.readouterr().out)
        want = naive_merges(pieces, 256 + 6)
        assert made == [(left + right).decode() for left, right in want]
        tokens = byte_alphabet()
        assert want == learn_merges({w.encode(): n for w, n in counts.items()}, tokens, 256 + 6)


def test_what_is_stale_is_put_back_or_dropped(capsys):
    trace_merges({"pea": 3, "peach": 2, "peace": 1, "beach": 2}, 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("in the heap: e+a 8, p+e 6, a+c 5")
    assert [line.split("  ")[0].strip() for line in lines[3:]] == ["e+a 8", "p+e 6", "p+ea 6"]
    assert "stale: dropped" in lines[4] and lines[5].endswith("pea+c 3")
