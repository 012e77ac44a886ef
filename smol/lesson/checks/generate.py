"""The checks of notebook 7: the width of a choice, speculation, a cache, stop strings, beams."""

import torch

from smol.config import SmolLM2Config
from smol.generate.text import until as our_until
from smol.lesson import kind
from smol.lesson.exercise import SMALL, ask, exercise, expect, expect_close


def _choices(logits: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Categorical(logits=logits).entropy().exp()


@exercise(instead=_choices)
def check_choices(choices):
    flat, sure = torch.zeros(8), torch.tensor([50.0] + [0.0] * 7)
    half = torch.tensor([1.0, 1.0] + [float("-inf")] * 6)  # as a filter leaves it
    uneven = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    for logits, want, what in (
        (torch.stack((flat, sure)), [8.0, 1.0], "eight equal ones, and of a sure one,"),
        (half[None], [2.0], "two, with -inf where a filter took the others,"),
        (uneven[None] + 3, [2**1.75], "1/2, 1/4, 1/8 and 1/8"),
    ):
        expect_close(ask(kind.tensor, choices, logits), torch.tensor(want), f"the width of {what}")


@exercise
def check_cache_bytes(cache_bytes):
    for config, tokens, size in ((SmolLM2Config(), 7, 4), (SMALL, 1000, 2)):
        heads, width = config.num_key_value_heads, config.head_dim
        want = 2 * config.num_hidden_layers * heads * width * tokens * size
        got = ask(kind.number, cache_bytes, config, tokens, size)
        said = f"{tokens} tokens of {size}-byte numbers, D = {config.hidden_size}"
        # each cause by what it makes of the right number, so that no two look alike at first
        causes = {
            want / 2: "keys and values are both kept",
            want * config.num_attention_heads / heads: "only key/value heads are kept",
            want / config.num_hidden_layers: "each layer keeps its own",
            want / heads: "each key/value head keeps its own",
            want / width: "a key is head_dim numbers",
            want / size: "each number has `size` bytes",
            want / tokens: "each token has its own",
        }
        why = f": {causes[got]}" if got in causes else ""
        expect(got == want, f"{said}: {got:,}, not {want:,}{why}")


@exercise
def check_until(until):
    for pieces, stop in (
        (["ab", "cd"], ["x"]),
        (["The e", "nd. Mo", "re"], ["end"]),
        (["a", "a", "b"], ["ab"]),
        (["end"], ["end"]),
        (["one\n", "\ntwo"], ["\n\n"]),
        (["ab", "ab", "c"], ["abc", "zz"]),
        (["xa", "bcd"], ["abcd", "bc"]),
        (["sure", "en"], ["end"]),
    ):
        got, want = (_shown_by(function, pieces, stop) for function in (until, our_until))
        for k, (mine, right) in enumerate(zip(got, want, strict=False)):
            when = f"after {pieces[: k + 1]}" if k < len(pieces) else "at the end"
            expect(mine == right, f"stop {stop}, {when}: {mine!r} was shown, not {right!r}")
        expect(len(got) == len(want), f"stop {stop}: of {pieces} it took {len(got) - 1}")


def _shown_by(until, pieces: list[str], stop: list[str]) -> list[str]:
    """What had been shown each time the next piece was asked for, and at the end."""
    shown, states = [], []

    def source():
        for piece in pieces:
            yield piece
            states.append("".join(shown))

    for piece in ask(kind.each, until, source(), stop):
        shown.append(kind.text(piece, "a piece of your answer"))
    return [*states, "".join(shown)]


def _beams(log_probs, prompt: list[int], width: int, steps: int) -> list[int]:
    """Beam search, one text at a time."""
    beams = [(0.0, list(prompt))]
    for _ in range(steps):
        longer = [
            (score + p, [*ids, i])
            for score, ids in beams
            for i, p in enumerate(log_probs(torch.tensor([ids]))[0].tolist())
        ]
        beams = sorted(longer, key=lambda beam: -beam[0])[:width]
    return beams[0][1]


@exercise(instead=_beams)
def check_beam(beam_search):
    """On a model of 5 tokens that looks three tokens back; 125 beams leave nothing out."""

    def log_probs(ids):
        table = torch.randn(125, 5, generator=torch.Generator().manual_seed(5)) * 2
        last = ids[:, -3:]
        return table[(last * 5 ** torch.arange(last.size(1))).sum(-1)].log_softmax(-1)

    for width in (1, 2, 5, 125):
        got = ask(kind.listed, beam_search, log_probs, [0], width, 4)
        want = _beams(log_probs, [0], width, 4)
        expect(got == want, f"width {width}, 4 steps after [0]: {got}, not {want}")


@exercise
def check_speculate(speculate):
    pair = kind.parts(2, "a pair of the token and whether the draft was kept")

    def draw(*args):
        token, kept = ask(pair, speculate, *args)
        return kind.index(token, 4, "the token"), kind.truth(kept, "whether it was kept")

    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    for q, agree in (
        (torch.tensor([0.25, 0.25, 0.25, 0.25]), 0.70),
        (torch.tensor([0.1, 0.1, 0.7, 0.1]), 0.40),
        (p.clone(), 1.0),
    ):
        generator = torch.Generator().manual_seed(0)
        tokens, keeps = zip(*(draw(p, q, generator) for _ in range(4000)), strict=True)
        got, kept = torch.bincount(torch.tensor(tokens), minlength=4) / 4000, sum(keeps) / 4000
        far = (got - p).abs().max().item()
        shares = [[round(x, 2) for x in t.tolist()] for t in (q, got, p)]
        expect(far < 0.04, "draft {}: drawn {}, wanted {}".format(*shares))
        expect(abs(kept - agree) < 0.04, f"{kept:.0%} of the drafts were kept, not {agree:.0%}")
