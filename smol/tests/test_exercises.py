"""Every exercise accepts a right answer and rejects each of the likely wrong ones."""

import _thread
import contextlib
import functools
import importlib
import io
import itertools
import math
import operator
import pkgutil
import re
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smol import count
from smol.bench.tokenizer import naive_merges
from smol.finetune import LoRALinear, dpo, log_probs
from smol.generate.sampling import keep_top_p
from smol.lesson import checks
from smol.lesson.checks import finetune, preference, slips_finetune, slips_preference, slips_train
from smol.lesson.checks.count import SLIPS as COUNTING_SLIPS
from smol.lesson.checks.count import decode_count, layer_count, peak_count
from smol.lesson.checks.diagnosis import TREE, leaf
from smol.lesson.checks.fast import OWN, SLOPE, WAITS, own_gradient, waits_for
from smol.lesson.checks.fixed import ONE_QUERY
from smol.lesson.checks.learn import ADAMW, CLIP, LOSS, WSD
from smol.lesson.checks.loop import LOOP, broken_loop, training_loop
from smol.lesson.checks.parity import (
    LEAKS,
    LOSS_MISTAKES,
    check_diagnosis,
    check_own_mutant,
    said_of_loss,
)
from smol.lesson.checks.slips_generate import (
    CHOICES,
    SAMPLE,
    TOP_P,
    WRITE_CACHED,
    cached_loop,
    sampler,
)
from smol.lesson.checks.tokenizer import CHARACTER_SLIPS, ENCODING_SLIPS, TRAINING_SLIPS
from smol.lesson.exercise import SMALL, exercise
from smol.model import SmolLM2, eager_attention
from smol.parity import MUTANTS, plant_unknown
from smol.tests.answers import (
    adamw,
    beam_search,
    by_formula,
    cache_bytes,
    choices,
    clip,
    cosine_nearest,
    encode_word,
    euclid_nearest,
    exp_loss,
    go_on,
    go_on_asking_the_same,
    go_on_by_place,
    go_on_in_place,
    go_on_over_the_table,
    go_on_that_returns_at_once,
    go_on_with_what_append_returns,
    go_on_with_what_append_returns_apart,
    high_half_first,
    in_another_style,
    in_ids,
    in_parts,
    interleave,
    largest_cosine,
    largest_of_all_off,
    largest_off_in_the_sum_only,
    log_p_loss,
    loss,
    nearest_in_place,
    nearest_with_its_row_cut_out,
    nearest_with_its_row_zeroed,
    numbers_alone,
    over_all_windows,
    parameters,
    puts,
    rope,
    safe_turn,
    second_nearest,
    speculate,
    speculate_anew,
    too_long_by_one,
    unmoved,
    unpack_q4_1,
    until,
    until_all_is_there,
    until_held_back_too_much,
    until_without_holding_back,
    verdict,
    whole_characters,
    window,
    without_an_end,
)
from smol.tests.answers_fixed import replayed, run_blocks
from smol.train.loss import loss_and_slope
from smol.train.schedule import wsd

MANY = "with B texts the tokens lie along the last dimension: gather(-1, labels[..., None])"
CLASSES = (
    "cross_entropy looks for the classes in dimension 1: flatten(0, 1) the logits, flatten() "
)
RAISING = {  # of notebook 5: what raises an error, and how the check explains it
    "next_token_loss": {
        lambda z, i: -z[:, :-1].log_softmax(-1).gather(1, i[:, 1:, None])[..., 0].mean(): MANY,
        lambda z, i: -z[:, :-1].log_softmax(-1).gather(1, i[:, None, 1:]).mean(): MANY,
        lambda z, i: -z[:, :-1].log_softmax(-1).gather(-1, i[:, 1:]).mean(): (
            "the labels lack a last dimension: gather(-1, labels[..., None])"
        ),
        lambda z, i: F.cross_entropy(z[:, :-1], i[:, 1:]): f"{CLASSES}the labels",
        lambda z, i: F.cross_entropy(z[:, :-1].flatten(0, 1), i[:, 1:]): (
            "as many labels as logits are wanted: logits[:, :-1], ids[:, 1:], both flattened"
        ),
        lambda z, i: F.cross_entropy(z[:, :-1].flatten(0, 1), i.flatten()): (
            "as many labels as logits are wanted: logits[:, :-1], ids[:, 1:], both flattened"
        ),
    },
    "wsd": {
        lambda step, c: min(
            1, (step + 1) / (c.warmup * c.steps), (c.steps - step) / (c.decay * c.steps)
        ): ("take warmup_and_decay: a warm-up of 0 has one step, and so a decay of 0"),
    },
    "clip": {
        lambda g, n: [one * min(1, n / torch.cat(g).norm()) for one in g]: (
            "some gradients are matrices: flatten() each before cat"
        ),
        lambda g, n: [one * min(1, n / torch.stack(g).norm()) for one in g]: (
            "the gradients differ in shape: flatten() each, then cat"
        ),
    },
    "whole_mean": {
        lambda means, counts: sum(means * counts) / sum(counts): (
            "two lists of numbers: multiply pair by pair"
        ),
        lambda means, counts: sum(means / counts): "two lists of numbers: take them pair by pair",
    },
}

FILES = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def checks_of(module) -> dict[str, Callable]:
    """The checks that a file defines, by the name of their exercise."""
    return {
        name.removeprefix("check_"): function
        for name, function in vars(module).items()
        if name.startswith("check_") and function.__module__ == module.__name__
    }


MODULES = [
    importlib.import_module(f"smol.lesson.checks.{found.name}")
    for found in pkgutil.iter_modules(checks.__path__)
]
CHECKS = {name: check for module in MODULES for name, check in checks_of(module).items()}

COUNTED = {"layer_flops": layer_count, "peak_bytes": peak_count, "decode_seconds": decode_count}


def slips_of(name: str) -> list[Callable]:
    """The wrong counts that the check of notebook 6 knows, each an answer."""
    slips = COUNTING_SLIPS[name].values()
    return [functools.partial(COUNTED[name], **switches) for switches in slips]


# a right answer, wrong answers: each the likely mistake
EXERCISES = {
    "choices": (choices, [*CHOICES.values()]),
    "keep_top_p": (keep_top_p, [*TOP_P.values()]),
    "sample": (sampler(), [*SAMPLE.values()]),
    "write_cached": (cached_loop(), [*WRITE_CACHED.values()]),
    "until": (
        until,
        [
            until_without_holding_back,
            until_all_is_there,
            until_held_back_too_much,
            lambda pieces, stop: pieces,
        ],
    ),
    "beam": (
        beam_search,
        [
            lambda f, prompt, width, steps: beam_search(f, prompt, 1, steps),
            lambda f, prompt, width, steps: beam_search(f, prompt, 1000, steps),
            lambda f, prompt, width, steps: beam_search(f, prompt, width, steps)[1:],
            lambda *_: torch.zeros(5),
        ],
    ),
    "speculate": (
        speculate,
        [
            speculate_anew,
            lambda p, q, g: (torch.multinomial(p, 1, generator=g).item(), True),
            lambda p, q, g: (torch.multinomial(q, 1, generator=g).item(), True),
            lambda p, q, g: torch.multinomial(p, 1, generator=g).item(),
        ],
    ),
    "waits_for": (waits_for, [*WAITS.values()]),
    "loss_and_slope": (loss_and_slope, [*SLOPE.values()]),
    "own_gradient": (own_gradient, [*OWN.values()]),
    "run_blocks": (run_blocks, [lambda *about: run_blocks(*about, parts=lambda i: 0)]),
    "replayed": (replayed, [lambda *about: replayed(*about, ids="stale")]),
    "one_query": (
        eager_attention,
        [slip for some in ONE_QUERY.values() for slip in slips_train.all_of(some)],
    ),
    **{
        name: (right, [slip for some in slips.values() for slip in slips_train.all_of(some)])
        for name, right, slips in (
            ("inputs_and_labels", slips_finetune.shifted, slips_finetune.LABELS),
            ("backward_in_parts", finetune.backward, finetune.GRADIENTS),
            ("dpo_loss", lambda *about: dpo(*about).loss.mean(), slips_preference.LOSSES),
            ("best_policy", preference.best_policy, slips_preference.POLICIES),
            ("policy_loss", preference.policy_loss, slips_preference.POLICY),
        )
    },
    "ids_and_mask": (
        slips_finetune.rendered,
        [lambda m, t: (slips_finetune.rendered(m, t)[0], [])],
    ),
    "merged": (LoRALinear.merged, [lambda layer: layer.base_layer, lambda layer: layer]),
    "log_probs": (log_probs, [lambda *about: -log_probs(*about), lambda m, x, y: m(x).sum(-1)]),
    "layer_flops": (count.layer_flops, slips_of("layer_flops")),
    "peak_bytes": (peak_count, slips_of("peak_bytes")),
    "decode_seconds": (decode_count, slips_of("decode_seconds")),
    "next_token_loss": (
        lambda z, i: F.cross_entropy(z[:, :-1].flatten(0, 1), i[:, 1:].flatten()),
        [
            *RAISING["next_token_loss"],
            exp_loss,
            lambda z, i: -z.softmax(-1)[:, :-1].gather(-1, i[:, 1:, None]).log().mean(),
            *(one for some in LOSS.values() for one in (some if type(some) is tuple else (some,))),
        ],
    ),
    "adamw": (adamw, [*ADAMW.values(), lambda *a: adamw(*a)[0]]),
    "wsd": (lambda step, config: wsd(step, config), [*WSD.values(), *RAISING["wsd"]]),
    "clip": (clip, [*CLIP.values(), lambda g, n: g[:1], *RAISING["clip"]]),
    "training_loop": (in_another_style, [over_all_windows, *(broken_loop(name) for name in LOOP)]),
    "whole_mean": (
        lambda losses, counts: sum(map(operator.mul, losses, counts)) / sum(counts),
        [lambda losses, counts: sum(losses) / len(losses), *RAISING["whole_mean"]],
    ),
    "verdict": (
        verdict,
        [
            lambda t, h, f, u: "leak" if min(t, h) < f else verdict(t, h, f, u),
            lambda t, h, f, u: "by heart" if t < h else verdict(t, h, f, u),
            lambda t, h, f, u: "learning",
            lambda t, h, f, u: "nothing" if h >= u else verdict(t, h, f, u),
            lambda t, h, f, u: "by heart" if t < f <= h else verdict(max(t, h / 2), h, f, u),
            *(slip for some in slips_train.VERDICT.values() for slip in slips_train.all_of(some)),
        ],
    ),
    "count": (
        parameters,
        [
            lambda c: parameters(c, tied=0),
            lambda c: parameters(c, tied=1),
            lambda c: 134_515_008,
            lambda c: parameters(c, kv=c.hidden_size),
        ],
    ),
    "go_on": (
        go_on,
        [
            lambda *a: go_on(*a, row=0),
            lambda m, i, n: go_on(m, i, n)[len(i) :],
            lambda *a: go_on(*a, seen=-1),
            go_on_in_place,
            go_on_by_place,
        ],
    ),
    "cache_bytes": (
        cache_bytes,
        [
            lambda c, t, s: cache_bytes(c, t, s, "num_attention_heads"),
            lambda c, t, s: 23_040 * t,
            lambda c, t, s: cache_bytes(c, t, 4),
        ],
    ),
    "nearest": (
        cosine_nearest,
        [
            lambda table, t: (table @ table[t]).argmax().item(),
            lambda table, t: (table / table.norm(dim=-1, keepdim=True) @ table[t]).argmax().item(),
            lambda table, t: cosine_nearest(table, t, sign=-1.0),
            lambda table, t: second_nearest(table, t, dim=None),
            euclid_nearest,
            nearest_in_place,
        ],
    ),
    "layer_norm": (
        lambda x, w: F.layer_norm(x, x.shape[-1:], w),
        [
            lambda x, w: F.rms_norm(x, x.shape[-1:], w),
            lambda x, w: (x - x.mean(-1, True)) * w,
            len,
        ],
    ),
    "rope_complex": (
        rope,
        [
            lambda x, p, t: rope(x, p, t, -1.0),
            lambda x, p, t: rope(x, p - 100, t),
            lambda x, p, t: torch.complex(x, x),
        ],
    ),
    "sliding_mask": (
        window,
        [lambda T, n: window(T, n, 1), lambda T, n: window(T, n).float()],
    ),
    "to_interleaved": (
        interleave,
        [lambda w, h: w, lambda w, h: interleave(w, 1)],
    ),
    "cross_entropy": (
        loss,
        [
            exp_loss,
            log_p_loss,
            largest_of_all_off,
            largest_off_in_the_sum_only,
            lambda z, i: F.cross_entropy(z[:, :-1].flatten(0, 1), i[:, 1:].flatten()),
            *(
                wrong
                for some in LOSS_MISTAKES.values()
                for wrong in (some if isinstance(some, tuple) else (some,))
            ),
        ],
    ),
    "naive_merges": (naive_merges, [*TRAINING_SLIPS.values(), without_an_end, in_ids]),
    "encode_word": (
        encode_word,
        [
            lambda s, r: encode_word(s, r, max),
            lambda s, r: encode_word(s, r, lambda p, key: p[0]),
            *ENCODING_SLIPS.values(),
        ],
    ),
    "whole_characters": (whole_characters, [*CHARACTER_SLIPS.values(), too_long_by_one]),
    "bits_per_byte": (
        lambda loss, tokens, size: loss * tokens / size / math.log(2),
        [
            lambda loss, tokens, size: loss * tokens / size,
            lambda loss, tokens, size: loss / size / math.log(2),
        ],
    ),
    "safe_turn": (
        safe_turn,
        [
            lambda t, text: safe_turn(t, text, special=True),
            in_parts,
            lambda t, text: safe_turn(t, text.strip()),
            lambda t, text: t.encode(f"<|im_start|>user\n{text}<|im_end|>\n", special=False),
        ],
    ),
    "is_causal": (
        unmoved,
        [
            lambda m, i: True,
            lambda m, i: False,
            lambda m, i: unmoved(m, i, 0),
            lambda m, i: unmoved(m, i, wrap=False),
            lambda m, i: unmoved(m, i, clone=False),
            lambda m, i: unmoved(m, i, rows=slice(None)),
            *(puts(token) for token in (0, 1, 2, 5, 17, 42, 100, 200, 255)),
            puts(None, lambda a, b: torch.equal(a.argmax(-1), b.argmax(-1))),
            puts(None, lambda a, b: torch.allclose(a, b, atol=1e-4)),
            puts(None, lambda a, b: torch.equal(a[0], b[0])),
            puts(None, rows=slice(-2, -1)),
            puts(None, texts=slice(0, 1)),
        ],
    ),
    "unpack_q4_1": (
        unpack_q4_1,
        [
            lambda b: unpack_q4_1(b, neighbours=True),
            lambda b: unpack_q4_1(b, swapped=True),
            lambda b: unpack_q4_1(b, fp16=">ee"),
            lambda b: unpack_q4_1(b, minimum=False),
            lambda b: unpack_q4_1(b, minimum=-1),
            lambda b: unpack_q4_1(b[:4] + bytes(16 * (x & 15) + x // 16 for x in b[4:])),
            lambda b: torch.tensor(unpack_q4_1(b)).half(),
            lambda b: unpack_q4_1(b)[:16],
            high_half_first,
            in_another_style,
            lambda b: unpack_q4_1(b, shift=0),
            lambda b: unpack_q4_1(b, skip=0),
            lambda b: by_formula(b, low=lambda byte: byte % 15),
            lambda b: by_formula(b, weight=lambda d, q, m: d * (q - 8)),
            numbers_alone,
        ],
    ),
}


# They compute for a while, and the sentence on each wrong answer is read below or in
# test_generate_lesson.py.
LONG = ("keep_top_p", "sample", "write_cached", "layer_flops", "peak_bytes", "training_loop")


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name, capsys):
    check, (right, wrong) = CHECKS[name], EXERCISES[name]
    state = torch.get_rng_state()
    check(lambda *_: ...)
    assert capsys.readouterr().out == "not attempted yet\n"
    check(right)
    assert capsys.readouterr().out.startswith(("correct", "exact"))
    for answer in wrong[:1] if name in LONG else wrong:
        check(answer)
        assert capsys.readouterr().out.startswith("not yet: ")
    assert torch.equal(torch.get_rng_state(), state)


class Hostile:
    """What is done with it raises."""

    def _raises(self, *_):
        raise ValueError("do not touch")

    __repr__ = __format__ = __eq__ = __bool__ = __len__ = __iter__ = __float__ = _raises
    __hash__ = object.__hash__


def raises_late():
    yield from ()
    raise KeyError("late")


# Nothing that an exercise asks for. Functions make them, for a generator can be used once.
STRANGE = {
    "none": lambda: None,
    "str": lambda: "134515008",
    "empty str": lambda: "",
    "bytes": lambda: b"\xff",
    "list": lambda: [1, "b", None],
    "empty list": list,
    "deep list": lambda: [[1, [2.5, (3,)]], {4: 5}],
    "dict": lambda: {"a": 1},
    "dict of hostile ones": lambda: {(1, 2): Hostile(), Hostile(): 3},
    "set": lambda: {1, 2},
    "tensor of another shape": lambda: torch.zeros(3, 2, 5),
    "complex tensor": lambda: torch.zeros(2, dtype=torch.complex64),
    "array": lambda: np.arange(6.0).reshape(2, 3),
    "array without axes": lambda: np.array("x"),
    "true": lambda: True,
    "nan": lambda: math.nan,
    "infinite": lambda: -math.inf,
    "complex": lambda: 1j,
    "too long to print": lambda: 10**5000,
    "list of what is too long": lambda: [10**5000],
    "generator": lambda: (i for i in range(3)),
    "generator without end": itertools.count,
    "function": lambda: len,
    "class": lambda: Hostile,
    "hostile": Hostile,
    "list of hostile ones": lambda: [Hostile(), Hostile(), Hostile()],
    "pair of hostile ones": lambda: (Hostile(), Hostile()),
    "dots within": lambda: (..., ...),
    "nones within": lambda: (None, None, None),
    "lines": lambda: "one\ntwo\n" * 1000,
}
OF_THE_CHECK = re.compile("cannot work|unsupported format|Cannot specify|has no len")


def verdict_on(check: Callable, *answer) -> str:
    """The one line that a check prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        check(*answer)
    (line,) = out.getvalue().splitlines()
    return line


@pytest.mark.parametrize("name", EXERCISES)
def test_no_answer_of_another_kind_breaks_a_check(name):
    for what, make in STRANGE.items():
        line = verdict_on(CHECKS[name], lambda *_, make=make: make())
        assert line.startswith("not yet: ") and not OF_THE_CHECK.search(line), (what, line)
        assert len(line) < 700
        if what == "none":
            assert line == "not yet: your function returns None: is a return missing?"
        if "it raised" in line:  # only where its own code had to be called
            assert (what, line) == ("hostile", "not yet: it raised ValueError: do not touch")


@pytest.mark.parametrize("name", ["diagnosis", "own_mutant"])
def test_no_value_of_another_kind_breaks_a_check(name):
    for what, make in STRANGE.items():
        line = verdict_on(CHECKS[name], make(), 5 if name == "diagnosis" else dict)
        assert line.startswith("not yet: ") and not OF_THE_CHECK.search(line), (what, line)


def test_errors_of_the_reader_are_told_as_such():
    def lines(*_):
        raise RuntimeError("first\nsecond")

    assert verdict_on(CHECKS["count"], lines) == "not yet: it raised RuntimeError: first second"
    for name in ("until", "encode_word", "clip"):
        said = verdict_on(CHECKS[name], lambda *_: raises_late())
        assert said == "not yet: it raised KeyError: 'late'"
    assert verdict_on(CHECKS["count"], 5) == "not yet: your answer is 5, a function is wanted"
    assert verdict_on(CHECKS["count"], ...) == "not attempted yet"


def test_an_answer_of_another_kind_is_named():
    for name, answer, said in (
        ("count", "134515008", "your answer is a str, a number is wanted"),
        ("count", [1], "your answer is a list, a number is wanted"),
        ("count", True, "your answer is True, a number is wanted"),
        ("is_causal", torch.zeros(2, 3), "your answer is a tensor of shape [2, 3], True or False"),
        ("until", "text", "your answer is a str, a list is wanted"),
        ("until", [5], "a piece of your answer is 5, a str is wanted"),
        ("until", itertools.repeat(""), "your answer does not end: 10,000 items so far"),
        ("speculate", (7, True), "the token is 7, not one of 0 to 3"),
        ("layer_norm", np.ones(3), "your answer is an array of shape [3], not a tensor"),
        ("adamw", (None, None, None), "w, m or v is None, not a tensor"),
    ):
        verdict = verdict_on(CHECKS[name], lambda *_, a=answer: a)
        assert verdict.startswith(f"not yet: {said}"), verdict


def test_a_check_that_fails_itself_says_so():
    said = verdict_on(exercise(lambda _: 1 / 0), len)
    assert said == "not yet: the check cannot work with this answer (ZeroDivisionError)"


def test_code_that_never_ends_is_interrupted_and_said_so(monkeypatch):
    monkeypatch.setattr("smol.lesson.exercise.MINUTES", 0.005)

    def trainer(pieces, vocab_size):
        tokens = list(range(256))
        while len(tokens) < vocab_size:
            pass  # tokens.append is forgotten

    said = verdict_on(CHECKS["naive_merges"], trainer)
    assert said.startswith("not yet: after 0.3 seconds your code still runs"), said
    with pytest.raises(KeyboardInterrupt):  # the reader's own Ctrl-C is not taken away
        verdict_on(CHECKS["naive_merges"], lambda *_: _thread.interrupt_main() or time.sleep(1))


NUMBERS = [
    *("count", "cache_bytes", "nearest", "cross_entropy", "is_causal", "bits_per_byte"),
    *("next_token_loss", "whole_mean", "layer_flops", "peak_bytes", "decode_seconds"),
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_right_number_is_right_whatever_holds_it(name):
    right = EXERCISES[name][0]
    for hold in (torch.tensor, np.asarray, lambda x: np.asarray(x)[()], lambda x: np.array([x])):
        for number in (float, lambda x: torch.as_tensor(x).item()):
            said = verdict_on(CHECKS[name], lambda *a: hold(number(right(*a))))  # noqa: B023
            assert said.startswith(("correct", "exact")), said


def test_a_right_list_is_right_whatever_holds_it():
    def drawn(*args):
        token, kept = speculate(*args)
        return [torch.tensor([token]), np.bool_(kept)]

    for name, answer in (
        ("adamw", lambda *a: list(adamw(*a))),
        ("speculate", drawn),
        ("clip", lambda *a: tuple(clip(*a))),
        ("beam", lambda *a: torch.tensor(beam_search(*a))),
        ("go_on", lambda *a: tuple(go_on(*a))),
        ("go_on", lambda *a: torch.tensor(go_on(*a))),
        ("go_on", lambda m, i, n: go_on(lambda t: m([torch.tensor(x) for x in t]), i, n)),
        ("encode_word", lambda *a: (np.int64(i) for i in encode_word(*a))),
        ("whole_characters", lambda *a: tuple(whole_characters(*a))),
        ("naive_merges", lambda *a: (list(pair) for pair in naive_merges(*a))),
        ("safe_turn", lambda *a: np.array(safe_turn(*a))),
        ("unpack_q4_1", lambda *a: torch.tensor(unpack_q4_1(*a))),
        ("unpack_q4_1", lambda *a: map(np.float32, unpack_q4_1(*a))),
    ):
        assert verdict_on(CHECKS[name], answer) == "correct", name


def test_every_check_is_tested():
    assert len(CHECKS) == sum(len(checks_of(module)) for module in MODULES)
    parts = {name for name, check in CHECKS.items() if "reference" in signature(check).parameters}
    # The parts in test_build.py; LoRA's, of a class as well, in test_finetune_lesson.py.
    assert set(CHECKS) - set(EXERCISES) == {"diagnosis", "own_mutant", "lora", *parts}


@pytest.mark.parametrize(
    ("name", "slips"),
    [("next_token_loss", LOSS), ("adamw", ADAMW), ("wsd", WSD), ("clip", CLIP)],
)
def test_each_slip_of_the_trainers_parts_is_named(name, slips):
    assert len(slips) >= 3
    for says, wrong in slips.items():
        for one in wrong if isinstance(wrong, tuple) else (wrong,):
            line = verdict_on(CHECKS[name], one)
            assert line.startswith("not yet: ") and line.endswith(f": {says}"), (says, line)


@pytest.mark.parametrize("broken", LOOP)
def test_each_broken_loop_is_named(broken):
    assert (
        verdict_on(CHECKS["training_loop"], broken_loop(broken)) == f"not yet: {LOOP[broken][0]}"
    )


def test_the_loop_is_exact_whoever_wrote_it_and_goes_on():
    said = "exact: the command's losses and weights, to the bit"
    assert verdict_on(CHECKS["training_loop"], training_loop) == said
    assert verdict_on(CHECKS["training_loop"], in_another_style) == said
    assert CHECKS["training_loop"](in_another_style) is in_another_style
    assert CHECKS["training_loop"](broken_loop("no clip")) is training_loop
    assert CHECKS["wsd"](lambda *_: ...) is wsd


def test_a_loop_that_only_rounds_otherwise_is_nearly_right_and_one_that_keeps_graphs_is_not():
    def rounded(*args):
        return [loss * (1 + 1e-7) for loss in training_loop(*args)]

    line = verdict_on(CHECKS["training_loop"], rounded)
    assert line.startswith("nearly: right, but rounded otherwise, by 1e-07"), line
    graphs = lambda *a: [torch.tensor(x, requires_grad=True) for x in training_loop(*a)]  # noqa: E731
    assert "the losses keep their graphs" in verdict_on(CHECKS["training_loop"], graphs)
    assert "8 steps: the number of losses" in verdict_on(
        CHECKS["training_loop"], lambda *a: training_loop(*a)[1:]
    )


MORE = {"train": ("learn", "loop"), "fast": ("fixed",), "finetune": ("lora", "preference")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_has_its_checks_from_the_file_of_its_name(file):
    cells = nbformat.read(file, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    own = [file.stem[3:], *MORE.get(file.stem[3:], ())]
    modules = [importlib.import_module(f"smol.lesson.checks.{name}") for name in own]
    calls = re.findall(r"^(?:(\w+) = )?check_(\w+)\((\w+)", code, re.MULTILINE)
    used = {name for kept, name, answer in calls if kept in ("", answer)}
    assert used == {name for module in modules for name in checks_of(module)} != set()


TRAINING = {
    "bits_per_byte": slips_train.BITS_PER_BYTE,
    "whole_mean": slips_train.WHOLE_MEAN,
    "verdict": slips_train.VERDICT,
}


@pytest.mark.parametrize("name", TRAINING)
def test_the_slips_of_notebook_5_are_named(name):
    assert len(TRAINING[name]) >= 3
    for said, slips in TRAINING[name].items():
        for slip in slips_train.all_of(slips):
            line = verdict_on(CHECKS[name], slip)
            assert line.startswith("not yet: ") and line.endswith(f": {said}"), line


@pytest.mark.parametrize("name", RAISING)
def test_the_errors_that_slips_of_notebook_5_raise_have_a_cause(name):
    for slip, said in RAISING[name].items():
        line = verdict_on(CHECKS[name], slip)
        assert line.startswith("not yet: it raised ") and line.endswith(f": {said}"), line


def test_a_loop_without_an_end_and_a_step_that_returns_one_tensor_are_named():
    said = "not yet: more batches than config.steps were drawn: one next(windows) in each step"
    assert verdict_on(CHECKS["training_loop"], over_all_windows) == said
    one_more = functools.partial(in_another_style, first=False)  # zip draws one, then it ends
    assert verdict_on(CHECKS["training_loop"], one_more).startswith("exact")
    said = "not yet: a tensor came back: return w, m, v"
    assert verdict_on(CHECKS["adamw"], lambda *a: adamw(*a)[0]) == said
    assert verdict_on(CHECKS["adamw"], lambda *a: torch.stack(adamw(*a))) == "correct"


def test_the_mistakes_with_counting_are_named():
    for mistake, said in (
        ({"tied": 0}, "tied: 98,640, PyTorch has 86,352: the output head is the embedding, count"),
        ({"tied": 1}, "untied: 86,352, PyTorch has 98,640: an untied output head is a matrix of"),
        ({"norms": 0, "last": 0}, "norms have weights too"),
        ({"norms": 0}, "each block has two norms of D weights"),
        ({"norms": 1}, "each block has two norms, not one"),
        ({"last": 0}, "there is one more norm after the last block"),
        ({"kv": 48}, "k_proj and v_proj make key/value heads only, and those are fewer"),
        ({"layers": 1}, "that is one block, the model has num_hidden_layers of them"),
        ({"square": 1}, "q_proj and o_proj have D × D weights each"),
        ({"mlp": 2}, "the MLP has three matrices, not two"),
        ({"tied": 2}, "tied: 74,064, PyTorch has 86,352: the embedding is a matrix too, V × D"),
        ({"kv": 2 * 64}, "a head is config.head_dim wide: 64 is SmolLM2's"),
        ({"kv": 2 * 64, "square": 2 * 64 / 48 * 6}, "config.head_dim wide: 64 is SmolLM2's"),
        ({"biases": "q kv o gu d"}, "there are no biases in this model"),
        ({"biases": "q kv o"}, "there are no biases in this model"),
        ({"biases": "q kv"}, "there are no biases in this model"),
        ({"biases": "gu d"}, "there are no biases in this model"),
    ):
        line = verdict_on(CHECKS["count"], lambda c, m=mistake: parameters(c, **m))
        assert line.startswith("not yet: D = 48, ") and said in line, line
    for fixed in (134_515_008, 162_826_560):  # SmolLM2's own, counted once and twice
        line = verdict_on(CHECKS["count"], lambda c, n=fixed: n)
        assert line.endswith("that is SmolLM2's number: work it out from the config"), line
    line = verdict_on(CHECKS["count"], lambda c: parameters(c) + 1)
    assert line == "not yet: D = 48, tied: 86,353, PyTorch has 86,352"


def test_the_mistakes_with_the_greedy_loop_are_named():
    for answer, said in (
        (lambda *a: go_on(*a, row=0), "that is the prediction at the first place"),
        (lambda m, i, n: go_on(m, i, n)[len(i) :], "the ids at the start belong to the answer"),
        (lambda m, i, n: go_on(m, i, n + 1), "one token too many"),
        (lambda m, i, n: go_on(m, i, max(0, n - 1)), "one token too few"),
        (lambda *a: go_on(*a, seen=-1), "only the last token was asked about: give the model"),
        (go_on_asking_the_same, "the same text was asked again: put each new token behind"),
        (lambda m, i, n: [*i, *m(i)[-1].topk(n).indices], "asked once, and took the best few"),
        (lambda *a: go_on(*a, row=(0, -1)), "the scores have two axes, places and tokens"),
        (lambda m, i, n: go_on(lambda t: m([t]), i, n), "ids, it was given a list of lists"),
        (go_on_by_place, "that is the place with the largest score, not the token"),
        (lambda *a: go_on(*a, choose=torch.Tensor.argmin), "that is the unlikeliest token each"),
        (go_on_in_place, "your function changes the list that it was given: work on a copy"),
        (go_on_that_returns_at_once, "[3, 1, 4, 8, 6, 2, 4]: too few: is return inside the loop?"),
        (go_on_with_what_append_returns, "was given None: list.append changes the list and"),
        (go_on_with_what_append_returns_apart, "'append': list.append changes the list and"),
        (lambda *a: go_on(*a, choose=torch.Tensor.max), "an id is a whole number, not 9.5: is"),
        (go_on_over_the_table, "the model's ids are 0 to 9, it was given 28: argmax over the"),
        (lambda m, i, n: go_on(lambda t: m(torch.tensor(t)), i, n), "the model takes a list of"),
    ):
        line = verdict_on(CHECKS["go_on"], answer)
        assert line.startswith("not yet: ") and said in line, line
    line = verdict_on(CHECKS["go_on"], lambda *a: [0] * 7)
    assert line.endswith("[0, 0, 0, 0, 0, 0, 0], should be [3, 1, 4, 8, 6, 2, 4]")


def test_the_greedy_loop_goes_on_with_the_readers_own_if_it_is_right():
    assert CHECKS["go_on"](go_on) is go_on
    ours = CHECKS["go_on"](go_on_by_place)
    assert ours is not go_on_by_place and CHECKS["go_on"](ours) is ours


def test_the_mistakes_with_nearness_are_named():
    for answer, said in (
        (
            lambda table, t: (table @ table[t]).argmax(),
            "the token nearest to 7 is 7 itself: leave",
        ),
        (lambda table, t: cosine_nearest(table, t, sign=-1.0), "row 20 is the opposite of row 7"),
        (lambda table, t: 5, "nearest to 7 is 31, not 5"),
        (lambda table, t: cosine_nearest(table, t, None), "nearest to 7 is 31, not 12: length"),
        (lambda table, t: second_nearest(table, t, None), "nearest to 7 is 31, not 7: length"),
        (lambda table, t: cosine_nearest(table, t, 0), "nearest to 7 is 31, not 12: length"),
        (lambda table, t: second_nearest(table, t, 0), "nearest to 7 is 31, not 7: length"),
        (lambda table, t: 31, "nearest to 31 is 7, not 31: compare directions: the largest"),
        (euclid_nearest, "nearest to 7 is 31, not 3: compare directions, not distances"),
        (nearest_in_place, "your function changes `table`: work on a copy"),
        (nearest_with_its_row_zeroed, "your function changes `table`: work on a copy"),
        (
            nearest_with_its_row_cut_out,
            "nearest to 7 is 31, not 30: is its row left out? Then the",
        ),
        (largest_cosine, "your answer is 0.875: that is a cosine, not an id"),
        (
            lambda table, t: cosine_nearest(torch.tensor(table.numpy()), t),
            "it raised RuntimeError",
        ),
    ):
        assert verdict_on(CHECKS["nearest"], answer).startswith(f"not yet: {said}")
    assert verdict_on(CHECKS["nearest"], second_nearest) == "correct"


def test_the_mistakes_with_the_cache_are_named():
    for answer, said in (
        (lambda c, t, s: cache_bytes(c, t, s) // 2, "keys and values are both kept"),
        (lambda c, t, s: cache_bytes(c, t, s, "num_attention_heads"), "only key/value heads are"),
        (lambda c, t, s: cache_bytes(c, t, s) / c.num_hidden_layers, "each layer keeps its own"),
        (
            lambda c, t, s: cache_bytes(c, t, s) / c.num_key_value_heads,
            "each key/value head keeps",
        ),
        (lambda c, t, s: cache_bytes(c, t, s) / c.head_dim, "a key is head_dim numbers"),
        (lambda c, t, s: cache_bytes(c, t, 1), "each number has `size` bytes"),
        (lambda c, t, s: cache_bytes(c, t, 2), "a number takes `size` bytes, not always two"),
        (lambda c, t, s: cache_bytes(c, 1, s), "each token has its own"),
    ):
        line = verdict_on(CHECKS["cache_bytes"], answer)
        assert line.startswith("not yet: 7 tokens of 4-byte numbers, D = 576: ")
        assert f", not 322,560: {said}" in line, line
    line = verdict_on(CHECKS["cache_bytes"], lambda c, t, s: cache_bytes(c, t, 4))
    assert line.endswith("a number takes `size` bytes, not always four"), line
    line = verdict_on(CHECKS["cache_bytes"], lambda c, t, s: cache_bytes(c, t, s) + 1)
    assert line == "not yet: 7 tokens of 4-byte numbers, D = 576: 322,561, not 322,560"


@pytest.mark.parametrize("name", COUNTED)
def test_the_mistakes_with_counting_costs_are_named(name):
    """Each by its own sentence: the table is read from the check. Where two are made, by both."""
    for sentence, switches in COUNTING_SLIPS[name].items():
        line = verdict_on(CHECKS[name], functools.partial(COUNTED[name], **switches))
        assert line.startswith("not yet: ") and line.endswith(f": {sentence}"), (sentence, line)
    line = verdict_on(CHECKS[name], lambda *a: 1.37 * COUNTED[name](*a))
    assert line.startswith("not yet: ") and not line.endswith(tuple(COUNTING_SLIPS[name])), line


@pytest.mark.parametrize("slip", [{"hidden_size": 576}, {"intermediate_size": 1536}])
def test_a_size_of_cell_4_is_named_whichever_it_is(slip):
    def answer(c, T, causal):
        D, F = (slip.get(n, getattr(c, n)) for n in ("hidden_size", "intermediate_size"))
        mlp = 3 * D * F - 3 * c.hidden_size * c.intermediate_size
        return count.layer_flops(c, T, causal) + 2 * T * mlp

    line = verdict_on(CHECKS["layer_flops"], answer)
    assert line.endswith("are D, F, H read from `config`, or from cell 4?"), line


def test_the_peak_of_a_step_may_be_five_per_cent_off():
    for near in (0.96, 1.04):
        line = verdict_on(CHECKS["peak_bytes"], lambda *a, n=near: n * peak_count(*a))
        assert line.startswith("correct: within 4%"), line
    for far in (0.93, 1.07):
        line = verdict_on(CHECKS["peak_bytes"], lambda *a, n=far: n * peak_count(*a))
        assert line.startswith("not yet: "), line


def test_two_mistakes_with_counting_costs_are_both_named():
    line = verdict_on(CHECKS["layer_flops"], functools.partial(layer_count, kv=True, o=0))
    assert line.endswith(
        "k_proj and v_proj make K heads, and those are fewer than H; and o_proj is missing: it is "
        "a matrix like q_proj"
    )
    line = verdict_on(CHECKS["peak_bytes"], functools.partial(peak_count, logits=1, twice=0))
    assert "three tensors of the logits' size" in line and "; and at B the tied" in line


def test_what_the_notebook_goes_on_with_is_the_readers_count_or_ours():
    assert CHECKS["layer_flops"](count.layer_flops) is count.layer_flops
    mine = functools.partial(peak_count)
    assert CHECKS["peak_bytes"](mine) is mine
    ours = CHECKS["peak_bytes"](functools.partial(peak_count, logits=0))
    assert ours(SMALL, 2, 8) == count.training_memory(SMALL, 2, 8)["total"]


def test_the_mistakes_with_four_bits_are_named():
    for answer, said in (
        (lambda b: unpack_q4_1(b, neighbours=True), "a byte's two halves are weights i and i +"),
        (lambda b: unpack_q4_1(b, swapped=True), "d and m are exchanged"),
        (lambda b: unpack_q4_1(b, fp16=">ee"), "fp16 is read with its high byte first"),
        (lambda b: unpack_q4_1(b, minimum=False), "the minimum is missing"),
        (lambda b: unpack_q4_1(b, minimum=-1), "the minimum is added, not subtracted"),
        (lambda b: [float(np.float16(w)) for w in unpack_q4_1(b)], "close, but not to the bit"),
        (high_half_first, "a byte's high half is weight i + 16, its low half weight i: all low"),
        (lambda b: unpack_q4_1(b, shift=0), "& 240 leaves the high half where it is, 16 times"),
        (numbers_alone, "these are the numbers q: a weight is d·q + m"),
        (lambda b: by_formula(b, low=lambda byte: byte % 15), "% 15 makes 0 of 15: the low half"),
        (lambda b: by_formula(b, weight=lambda d, q, m: d * (q - 8)), "that is Q4_0, w = d·(q"),
        (lambda b: unpack_q4_1(b)[:31], "a block has 32 weights, your answer has 31"),
        (
            lambda b: unpack_q4_1(b, skip=0),
            "a block has 32 weights, your answer has 40: the first",
        ),
        (lambda b: ["a"] * 32, "weight 0 is a str, a number is wanted"),
        (lambda b: [0.0] * 32, "weight 0 is 0, should be "),
    ):
        assert verdict_on(CHECKS["unpack_q4_1"], answer).startswith(f"not yet: {said}")


@pytest.mark.parametrize("sentence", LOSS_MISTAKES)
def test_the_mistakes_with_the_loss_are_named(sentence):
    """Each by its own sentence and no other: the table is read from the check."""
    fixed = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 20, generator=fixed)
    ids = torch.randint(20, (2, 7), generator=fixed)
    wrong = LOSS_MISTAKES[sentence]
    for one in wrong if isinstance(wrong, tuple) else (wrong,):
        assert said_of_loss(one(logits, ids).item(), logits, ids) == f": {sentence}"


def test_a_loss_that_overflows_or_comes_ready_made_is_named():
    flat = [lambda z: z[:, :-1].flatten(0, 1), lambda i: i[:, 1:].flatten()]
    for answer, said in (
        (exp_loss, "the loss of logits of size 300 is nan, should be 295.61: exp overflows; take"),
        (log_p_loss, "the loss of logits of size 300 is inf, should be 295.61: a probability has"),
        (
            largest_of_all_off,
            "the loss of logits of size 300 is -inf, should be 295.61: a sum of exps has become "
            "0; take off each row's own largest logit",
        ),
        (
            largest_off_in_the_sum_only,
            "the loss of logits of size 1 is 1.5887, should be 3.4288: you took the largest off "
            "inside the sum, but not off z",
        ),
        (lambda z, i: F.cross_entropy(flat[0](z), flat[1](i)), "cross_entropy is what you are to"),
        (lambda z, i: torch.nn.CrossEntropyLoss()(flat[0](z), flat[1](i)), "cross_entropy is"),
        (
            lambda z, i: F.nll_loss(F.log_softmax(flat[0](z), -1), flat[1](i)),
            "log_softmax, nll_loss is what you are to write: take exp, sum and log",
        ),
        (lambda z, i: torch.special.logsumexp(z, -1).mean(), "logsumexp is what you are to"),
        (lambda z, i: loss(z, i) + 1, "the loss of logits of size 1 is "),
    ):
        assert verdict_on(CHECKS["cross_entropy"], answer).startswith(f"not yet: {said}"), said


def test_the_mistakes_with_causality_are_named():
    sick, well = (
        "the mutant no_mask is not causal, you say True: ",
        "the healthy model is causal, ",
    )
    little, ahead, second = LEAKS
    for answer, said in (
        (
            lambda m, i: unmoved(m, i, wrap=False),
            "the last token is 255, and you put [256] in its place: the vocabulary has 0 to 255",
        ),
        (
            lambda m, i: unmoved(m, i, -1, wrap=False) if i[0, -1] else m(i - 1) is None,
            "the last token is 0, and you put [-1] in its place",
        ),
        (lambda m, i: unmoved(m, i, clone=False), "your function changes `ids` itself"),
        (lambda m, i: unmoved(m, i, 0), f"{sick}both runs read the same tokens"),
        (lambda m, i: True, f"{sick}the model was run 0 times"),
        (lambda m, i: unmoved(m, i, rows=slice(0, 0)), f"{sick}compare all rows before the last"),
        (lambda m, i: unmoved(m, i, rows=slice(None)), f"{well}you say False: the logits at the"),
        (lambda m, i: unmoved(m, i, place=3), f"{well}you say False: change the last token only"),
        (
            lambda m, i: torch.equal(m(i), m(i[:, :-1])),
            f"{well}you say False: both texts must have the length of `ids`",
        ),
        (
            puts(42),
            "the mutant no_mask, where the last token is 42, is not causal, you say True: ",
        ),
        (puts(None, rows=slice(-2, -1)), f"a model {ahead} is not causal, you say True: compare"),
        (
            puts(None, lambda a, b: torch.allclose(a, b, atol=1e-4)),
            f"a model {little} is not causal, you say True: compare all rows before the last one, "
            "of all texts, and all of their logits, to the bit",
        ),
        (
            puts(None, texts=slice(0, 1)),
            f"a model {second} is not causal, you say True: change the last token of every text",
        ),
    ):
        assert verdict_on(CHECKS["is_causal"], answer).startswith(f"not yet: {said}"), said


def test_diagnosis(capsys):
    for answer, said in (
        (..., "not attempted yet"),
        ("rope_on_q_only", "correct"),
        ("nonsense", "not yet: 'nonsense' is none of smol.parity.MUTANTS"),
        *((name, f"not yet: it is not {name}: {why}") for name, why in NOT_THAT_ONE.items()),
    ):
        check_diagnosis(answer, 5)
        assert capsys.readouterr().out == said + "\n"
    check_diagnosis("scale_by_hd", 4)  # scale_by_hidden_size: the tree tells them not apart
    assert capsys.readouterr().out == (
        "not yet: it is not scale_by_hd, though all questions have the same answers with it. "
        "Plant it in a copy and compare the numbers, as with `suspect` above\n"
    )


KIND_OF = {  # where the tree ends, and what may be found there
    "values, o_proj": [
        *("k_and_v_swapped", "kv_heads_tiled", "mask_hides_self", "mask_inverted"),
        "o_proj_skipped",
    ],
    "the mask": ["mask_sees_next", "no_mask"],
    "how the heads are put together": ["heads_not_transposed_back"],
    "the scores": ["heads_split_by_view", "scale_by_hd", "scale_by_hidden_size", "scale_missing"],
    "the rotation itself": ["rope_backwards", "rope_interleaved"],
    "v is rotated too": ["rope_on_v"],
    "the sine is lost": ["rope_sine_lost"],
    "q and k are rotated differently": ["rope_on_q_only"],
    "a rung that goes elsewhere": [],
}


@pytest.mark.parametrize("seed", range(32))
def test_the_tree_of_questions_leads_to_every_planted_bug(seed):
    planted = plant_unknown(SmolLM2(SMALL), seed)
    (kinds,) = [names for end, names in KIND_OF.items() if leaf(planted).startswith(end)]
    assert planted.name in kinds


def test_each_end_of_the_tree_is_that_of_some_bug():
    ends = {place for pair in TREE.values() for place in pair} - set(TREE)
    assert ends == {leaf(mutant) for mutant in MUTANTS.values()} - {None}
    assert leaf(MUTANTS["cache_before_rope"]).startswith("a rung that goes elsewhere")
    assert leaf(MUTANTS["gelu_for_silu"]) is None
    given = sorted({plant_unknown(SmolLM2(SMALL), seed).name for seed in range(32)})
    assert given == sorted(name for names in KIND_OF.values() for name in names)


NOT_THAT_ONE = {
    "no_mask": "without rotation that one would differ, yours agree",
    "k_and_v_swapped": "with one token alone that one would differ, yours agree",
    "rope_backwards": "with all tokens at one position that one would agree, yours differ",
    "rope_on_v": "with one token at position 9 that one would differ, yours agree",
    "rope_sine_lost": "without the sine that one would agree, yours differ",
    "gelu_for_silu": "that one sits in layers.*.mlp, look at the first FAIL",
    "cache_before_rope": "as it is that one would agree, yours differ",
}


def test_own_mutant(capsys):
    def caught_by(mutant):
        model = mutant(SmolLM2(SMALL))
        changed = type(model) is not SmolLM2
        return {"early": "gelu" in mutant.diff(), "ladder": changed and "eps" in mutant.diff()}

    for edit, said in (
        (..., "not attempted yet"),
        (("+ self.eps)", "+ 2 * self.eps)"), "correct"),
        (("x32 = x.float()", "x32 = x"), "not yet: that is norm_in_input_dtype, one of the fifty"),
        (("F.silu(", "2 * F.gelu("), "not yet: it is caught without the ladder, by: early"),
        (("x.float()", "x.double()"), "not yet: the ladder does not see it either"),
        (("not in the file", "x"), "not yet: your old text stands 0 times in smol/model.py: once"),
        (("x32", "x"), "not yet: your old text stands "),
        (("return y", "return ("), "not yet: your old text stands 0 times"),
        (("+ self.eps)", "+ 1e-6)"), "not yet: that is eps_1e-6, one of the fifty"),
        (("+ self.eps)", "+ self.eps)"), "not yet: your old text and your new one are the same"),
        (("+ self.eps)", "+ self.epsilon)"), "not yet: with it the model raises an error: that"),
        (("end] = v.detach()", "end] = v[..., None]"), "not yet: with it the model raises an"),
    ):
        check_own_mutant(edit, caught_by)
        assert capsys.readouterr().out.startswith(said)
