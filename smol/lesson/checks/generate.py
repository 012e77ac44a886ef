"""The checks of notebook 7: the width of a choice, top-p, the sampling loop, the cached loop,
speculation, stop strings, beams. The slips that they name: slips_generate.py."""

import torch
from torch import Tensor

from smol.generate.sampling import keep_top_p
from smol.generate.steps import generate
from smol.generate.text import until as our_until
from smol.lesson import kind
from smol.lesson.checks.slips_generate import (
    CHOICES,
    ONCE,
    PROBABILITIES,
    RESEEDED,
    SAMPLE,
    SPECULATE,
    TOP_P,
    cached_loop,
    sampler,
    say_how_it_fed,
)
from smol.lesson.exercise import SMALL, ask, exercise, expect, expect_close, expect_like
from smol.lesson.kind import NotYet, Raised
from smol.model import SmolLM2


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
        got, wanted = ask(kind.tensor, choices, logits), torch.tensor(want)
        for says, slip in CHOICES.items():
            made = slip(logits)
            same = got.shape == made.shape and got.dtype == made.dtype
            same = same and torch.allclose(got, made, equal_nan=True)
            right = made.shape == wanted.shape and torch.allclose(made, wanted)
            if same and not right:
                raise NotYet(f"the width of {what} is {_short(got)}: {says}")
        expect_close(got, wanted, f"the width of {what}")


def _short(numbers: Tensor) -> list | float:
    return [round(x, 3) for x in numbers.tolist()] if numbers.dim() else round(numbers.item(), 3)


# -- top-p ----------------------------------------------------------------------------------------


def _rows_without_a_tie(logits: Tensor, p: float) -> Tensor:
    """The rows in which no running sum is so near to p that rounding could decide."""
    likely = logits.double().softmax(-1).sort(descending=True).values
    return logits[((likely.cumsum(-1) - p).abs() > 1e-5).all(-1)]


def _top_p_cases() -> list[tuple[str, Tensor, float]]:
    """What it is asked, and by which name it is told of: small ones first."""
    two = torch.tensor([[4.0, 2, 16, 2, 8], [2, 16, 4, 8, 2]]).log()  # of 32: 1/8 1/16 1/2 …
    cases = [("1/8, 1/16, 1/2, 1/16, 1/4", two, 0.8)]
    cases += [("one sure token among eight", torch.tensor([[0.0] * 7 + [9]]), 0.9)]
    cases += [("four equal ones", torch.zeros(1, 4), 0.5)]
    cases += [("four equal ones", torch.zeros(1, 4), 1e-9)]
    many = torch.randn(64, 500) * 3
    cases += [("random logits", _rows_without_a_tie(many, p), p) for p in (0.1, 0.5, 0.9, 0.99)]
    return cases


def _same(a: Tensor, b: Tensor, name: str) -> bool:
    """Equal to the bit, NaN equal to NaN. Of equal ones it does not matter which are kept."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if name.startswith("four equal"):
        a, b = a.sort(-1).values, b.sort(-1).values
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@exercise(instead=keep_top_p)
def check_keep_top_p(keep):
    from transformers import TopPLogitsWarper

    cases = _top_p_cases()
    got = [_unchanged(keep, logits, p) for _, logits, p in cases]
    want = [TopPLogitsWarper(p)(None, logits) for _, logits, p in cases]
    wrong = [k for k, (name, *_) in enumerate(cases) if not _same(got[k], want[k], name)]
    if not wrong:
        _expect_none_to_be_no_filter(keep, cases[0][1])
        return "exact: transformers' numbers, to the bit"
    usual = [k for k, (name, *_) in enumerate(cases) if not name.startswith("four equal")]
    for asked in (range(len(cases)), usual):  # the slip itself, or with another at the border
        for says, slip in TOP_P.items():
            same = (_same(got[k], slip(*cases[k][1:]), cases[k][0]) for k in asked)
            if wrong[0] in asked and all(same):
                name, _, p = cases[wrong[0]]
                raise NotYet(f"{name}, p = {p}: {says}")
    _say_what_is_kept(got[wrong[0]], want[wrong[0]], *cases[wrong[0]])


def _unchanged(keep, logits: Tensor, p: float) -> Tensor:
    copy = logits.clone()
    got = ask(kind.tensor, keep, copy, p)
    same = copy.shape == logits.shape and torch.equal(copy, logits)
    expect(same, "your function changes the logits that it was given: masked_fill, not …fill_")
    return got


def _expect_none_to_be_no_filter(keep, logits: Tensor) -> None:
    back = "no filter is wanted then, so give the logits back"
    try:
        expect(_same(_unchanged(keep, logits, None), logits, ""), f"p is None: {back}")
    except Raised as error:
        raise Raised(f"{error}. p may be None: {back}") from error


def _say_what_is_kept(got: Tensor, want: Tensor, name: str, logits: Tensor, p: float) -> None:
    about = f"{name}, p = {p}"
    got = expect_like(got, want, f"{about}: your answer")
    expect(not got.isnan().any(), f"{about}: there is NaN in your answer")
    dropped = want.isneginf()
    low = dropped.any() and bool((got[dropped] < -1e3).all()) and not got.isneginf().any()
    expect(not low, f"{about}: a dropped token is given -inf, not a number that is only small")
    if name.startswith("four equal"):
        kept, right = ((~t.isneginf()).sum().item() for t in (got, want))
        whichever = f"you keep {kept} of the four equal ones, should be {right} (whichever)"
        expect(kept == right, f"p = {p}: {whichever}")
        dropped = got.isneginf()  # others of the four are as good
    same = torch.equal(got.isneginf(), dropped)
    expect(not same, f"{about}: the right ones are kept, with other logits: leave those alone")
    row = int((got.isneginf() != dropped).any(-1).nonzero()[0])
    kept, right = ((~t[row].isneginf()).nonzero()[:, 0].tolist() for t in (got, want))
    if logits.size(1) > 8:
        kept, right = len(kept), len(right)
    raise NotYet(f"{about}: in row {row} you keep {kept}, should be {right}")


# -- the sampling loop ----------------------------------------------------------------------------

SEED = 20160  # one that nobody would write into a loop by chance
SETTINGS = (  # temperature, top_k, top_p, min_p
    (0.7, None, None, None),
    (1.5, 8, None, None),
    (1.6, None, 0.7, None),
    (1.6, None, None, 0.3),
    (1.8, 30, 0.8, 0.2),
    (2.5, 9, 0.6, 0.15),
    (2.0, None, 0.8, 0.45),
)


@exercise(instead=sampler())
def check_sample(sample):
    model, ids = SmolLM2(SMALL).eval(), torch.randint(256, (2, 5))
    got, want, runs, moved = [], [], [], False
    for settings in SETTINGS:
        generator = torch.Generator().manual_seed(SEED)
        before = generator.get_state()
        hook = model.register_forward_pre_hook(lambda module, args: runs.append(1))
        try:
            got.append(_drawn_ids(sample, model, ids.clone(), 12, *settings, generator))
        finally:
            hook.remove()
        expect(len(runs) != 1, ONCE)
        expect(generator.initial_seed() == SEED, RESEEDED)
        moved = moved or not torch.equal(before, generator.get_state())
        names = dict(zip(("temperature", "top_k", "top_p", "min_p"), settings, strict=True))
        generator = torch.Generator().manual_seed(SEED)
        want.append(generate(model, ids, 12, use_cache=False, generator=generator, **names))
    for ids_drawn in got:
        _expect_text(ids_drawn, ids, 12)
    if all(map(torch.equal, got, want)):
        return f"exact: the ids of `generate` with the same generator, {len(SETTINGS)} settings"
    for says, slip in SAMPLE.items():
        args = ((s, torch.Generator().manual_seed(SEED)) for s in SETTINGS)
        expect(
            not all(
                torch.equal(slip(model, ids, 12, *s, g), x)
                for (s, g), x in zip(args, got, strict=True)
            ),
            says,
        )
    expect(moved, "the generator is not used: torch.multinomial(p, 1, generator=generator)")
    k = next(k for k in range(len(SETTINGS)) if not torch.equal(got[k], want[k]))
    told = "temperature {}, top_k {}, top_p {}, min_p {}".format(*SETTINGS[k])
    raise NotYet(
        f"{told}: other ids than those of `generate` with the same generator, which "
        "draws by torch.multinomial(p, 1, generator=generator), once for each token"
    )


def _drawn_ids(sample, *args) -> Tensor:
    try:
        return ask(kind.tensor, sample, *args)
    except Raised as error:
        if "1 or 2 dim" in str(error):
            raise Raised(f"{error}. Logits of the last place only? model(ids)[:, -1]") from error
        if "probability tensor" in str(error):
            expect(args[4:7] == (None, None, None), PROBABILITIES)
            raise Raised(f"{error}. multinomial wants probabilities: softmax(-1) first") from error
        raise


def _expect_text(got: Tensor, ids: Tensor, new: int) -> None:
    """`ids` (B, T) and `new` more."""
    (B, T), shape = ids.shape, list(got.shape)
    expect(got.dtype == torch.int64, f"your answer is {got.dtype}, ids are torch.int64")
    alone = "the prompt is missing: give back ids with the new ones behind"
    expect(shape != [B, new], alone)
    expect(
        shape == [B, T + new],
        f"{new} tokens after {T}, in {B} texts: your answer is {shape}, should be {[B, T + new]}",
    )
    expect(torch.equal(got[:, :T], ids), "your answer does not begin with the prompt")


# -- the cached loop ------------------------------------------------------------------------------


@exercise(instead=cached_loop())
def check_write_cached(write_cached):
    model, ids, new = SmolLM2(SMALL).eval(), torch.randint(256, (2, 7)), 12
    want = generate(model, ids, new, use_cache=False)
    passes, chosen = [], []  # see `say_how_it_fed`

    def listen(module, args, kwargs):
        given = dict(zip(("input_ids", "cache"), args, strict=False)) | kwargs
        held = given.get("cache")
        passes.append((given["input_ids"], held, None if held is None else held.length))

    hook = model.register_forward_pre_hook(listen, with_kwargs=True)
    model.register_forward_hook(lambda module, args, out: chosen.append(out[:, -1].argmax(-1)))
    try:
        got, failed = ask(kind.tensor, write_cached, model, ids.clone(), new), None
    except Raised as error:
        got, failed = None, error
    finally:
        hook.remove()
    say_how_it_fed(passes, chosen, want, ids.size(1), failed)
    if failed:
        raise failed
    _expect_text(got, ids, new)
    expect(torch.equal(got, want), "other ids than those of `write`")
    count = sum(fed.size(1) for fed, *_ in passes)
    more = (
        ": one more than needed: the last token need not be read"
        if count == ids.size(1) + new
        else ""
    )
    return f"exact: the ids of `write`, and {count} token passes in place of 150{more}"


# -- going further --------------------------------------------------------------------------------


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
            why = _why(mine, right, stop, k == len(pieces))
            expect(mine == right, f"stop {stop}, {when}: {mine!r} was shown, not {right!r}{why}")
        expect(len(got) == len(want), f"stop {stop}: of {pieces} it took {len(got) - 1}")


def _why(mine: str, right: str, stop: list[str], over: bool) -> str:
    """The reason in words, where what was shown gives it away."""
    if any(text in mine for text in stop):
        return ": a stop string itself is never shown"
    if len(mine) > len(right):
        return ": the end of it may be the beginning of a stop string: hold it back until you know"
    if over:
        return ": what was held back is shown when nothing more can come"
    if any(map(mine.endswith, (text[:1] for text in stop))) or right.startswith(mine):
        return ": hold back only what may begin a stop string, and cut at the one that ends first"
    return ""


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


def _beams_of(beam_search, log_probs, width: int) -> list:
    try:
        return ask(kind.listed, beam_search, log_probs, [0], width, 4)
    except Raised as error:
        if "out of range" in str(error):
            fewer = f"at first there are fewer continuations than {width}"
            raise Raised(f"{error}. {fewer}: min(width, how many there are)") from error
        raise


def _all_at_once(log_probs, prompt: list[int], width: int, steps: int) -> list[int]:
    """The same over one table, as the card has it: the notebook goes on with it."""
    ids, scores = torch.tensor([prompt]), torch.zeros(1)
    for _ in range(steps):
        longer = scores[:, None] + log_probs(ids)
        scores, best = longer.flatten().topk(min(width, longer.numel()))
        rows, tokens = best // longer.size(1), best % longer.size(1)
        ids = torch.cat((ids[rows], tokens[:, None]), dim=1)
    return ids[0].tolist()


@exercise(instead=_all_at_once)
def check_beam(beam_search):
    """On a model of 5 tokens that looks three tokens back; 125 beams leave nothing out."""

    def log_probs(ids):
        table = torch.randn(125, 5, generator=torch.Generator().manual_seed(5)) * 2
        last = ids[:, -3:]
        return table[(last * 5 ** torch.arange(last.size(1))).sum(-1)].log_softmax(-1)

    for width in (1, 2, 5, 125):
        got = _beams_of(beam_search, log_probs, width)
        want = _beams(log_probs, [0], width, 4)
        expect(got != want[1:], "the prompt is missing: give back its ids as well")
        wider = got != want and got == _beams(log_probs, [0], 125, 4)
        expect(not wider, f"width {width}: more texts are kept than that: topk(width)")
        greedy = width > 1 and got == _beams(log_probs, [0], 1, 4)
        why = ": that is greedy's, so what else was kept is lost" if greedy else ""
        expect(got == want, f"width {width}, 4 steps after [0]: {got}, not {want}{why}")


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
        for says, slip in SPECULATE.items():
            made, often = slip(p, q)
            same = (got - made).abs().max() < 0.03 and abs(kept - often) < 0.03
            right = (made - p).abs().max() < 1e-6 and abs(often - agree) < 1e-6
            expect(right or not same, f"draft {shares[0]}: drawn {shares[1]}: {says}")
        expect(far < 0.04, "draft {}: drawn {}, wanted {}".format(*shares))
        expect(abs(kept - agree) < 0.04, f"{kept:.0%} of the drafts were kept, not {agree:.0%}")
