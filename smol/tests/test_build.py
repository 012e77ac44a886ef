"""Notebook 2: the model that its reader writes is the package's, and each slip is named."""

import contextlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from smol import SmolLM2, SmolLM2Config, model
from smol.lesson.checks import build
from smol.lesson.checks.raised import RAISED
from smol.lesson.checks.slips import MISTAKES
from smol.lesson.checks.slips_modules import in_heads, joined
from smol.lesson.code import same_code
from smol.lesson.exercise import SMALL
from smol.parity import compare
from smol.pretrained import from_reference
from smol.tests.answers_build import (
    FIXED,
    IN_PLACE,
    LOOKED_AT,
    OTHER_STYLES,
    ROUNDED_OTHERWISE,
    attention,
    divided,
)
from smol.tests.solutions import Reader
from smol.tests.test_exercises import OF_THE_CHECK, STRANGE

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_build.ipynb"


RIGHT = {
    "rms_norm": model.RMSNorm,
    "apply_rope": model.apply_rope,
    "attention": attention,
    "grouped_attention": model.eager_attention,
    "attention_module": build.EagerAttention,
    "mlp": model.MLP,
    "block": build.EagerBlock,
    "model": build.EagerSmolLM2,
}
PARTS = [name for name in MISTAKES if name in RIGHT]
SIDE_QUESTS = [name for name in MISTAKES if name not in RIGHT]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return small_reference()


def small_reference() -> nn.Module:
    """A small model of Hugging Face's whose norms are not all 1."""
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**SMALL.to_dict())).eval()
    for name, weight in theirs.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return theirs


def verdict(name: str, answer, *args) -> str:
    """The one line that a part's check prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        getattr(build, f"check_{name}")(answer, *args)
    (line,) = out.getvalue().splitlines()
    return line


def as_answer(name: str, function: Callable):
    """The slip as the reader would hand it in: a function, or a class with it for a forward."""
    if not isinstance(RIGHT.get(name), type):
        return function
    return type("Wrong", (RIGHT[name],), {"forward": lambda self, *args: function(self, *args)})


def test_each_part_has_a_right_answer_and_three_slips():
    assert set(PARTS) == set(RIGHT)
    checks = {name for name in vars(build) if name.startswith("check_")}
    assert checks == {f"check_{name}" for name in MISTAKES}
    assert all(len(slips) >= 3 for slips in MISTAKES.values())


@pytest.mark.parametrize("name", PARTS)
def test_the_right_part_is_exact_and_kept(name, small, capsys):
    check = getattr(build, f"check_{name}")
    kept = check(RIGHT[name], small)
    assert capsys.readouterr().out.startswith("exact: Hugging Face's numbers, to the bit")
    stub = as_answer(name, lambda *_: ...)
    instead = check(stub, small)
    assert capsys.readouterr().out == "not attempted yet\n"
    if name != "attention":  # nothing goes on with that one
        assert kept is RIGHT[name] and instead is RIGHT[name]
        other = as_answer(name, lambda *args: RIGHT_CALL[name](*args))
        assert check(other, small) is other  # not the package's, and as good


def _rms(module, x):
    return module.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.eps))


def _attended(a, x, cos, sin):
    q, k, v = in_heads(a, x)
    q, k = model.apply_rope(q, cos, sin), model.apply_rope(k, cos, sin)
    return a.o_proj(joined(model.eager_attention(q, k, v)))


# The same once more, written otherwise: a check must not ask who wrote it.
RIGHT_CALL = {
    "rms_norm": _rms,
    "apply_rope": lambda x, cos, sin: model.apply_rope(x, cos, sin),
    "grouped_attention": lambda q, k, v: model.eager_attention(q, k, v),
    "attention_module": _attended,
    "mlp": lambda m, x: m.down_proj(F.silu(m.gate_proj(x)) * m.up_proj(x)),
    "block": lambda b, x, cos, sin: model.Block.forward(b, x, cos, sin),
    "model": lambda m, ids: SmolLM2.forward(m, ids),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_slip_of_a_part_is_named(name, small):
    for says, wrong in MISTAKES[name].items():
        line = verdict(name, as_answer(name, wrong), small)
        assert line.startswith("not yet: ") and says in line, (says, line)


@pytest.mark.parametrize("name", SIDE_QUESTS)
def test_each_slip_of_the_others_is_named(name):
    for says, wrong in MISTAKES[name].items():
        assert verdict(name, wrong) == f"not yet: {says}"


@pytest.mark.filterwarnings("ignore:The use of")  # k.T
@pytest.mark.parametrize("name", RAISED)
def test_each_slip_that_raises_is_asked_about(name, small):
    for asks, slips in RAISED[name].items():
        for wrong in slips:
            line = verdict(name, as_answer(name, wrong), small)
            assert re.match(r"not yet: it raised \w+Error: .+", line), (asks, line)
            assert line.endswith(f". {asks}"), (asks, line)


def test_an_unknown_error_is_told_as_it_is(small):
    line = verdict("attention", lambda q, k, v: [][0], small)
    assert line == "not yet: it raised IndexError: list index out of range"


@pytest.mark.parametrize(("name", "answer", "hint"), ROUNDED_OTHERWISE)
def test_what_only_rounds_otherwise_is_nearly_right(name, answer, hint, small):
    line = verdict(name, as_answer(name, answer), small)
    much = r"nearly: right, but rounded otherwise \(\de-0[678] of the largest value, layer \d\)\. "
    assert re.match(much, line), line
    assert line.endswith(f"{hint} The package's part goes on in its place."), line


def test_of_one_head_it_says_within_what(small):
    def fused(q, k, v):
        return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]

    assert re.match(r"within \de-0[78] of Hugging Face's", verdict("attention", fused, small))


@torch.no_grad()
def test_what_is_rounded_otherwise_and_fixed_in_size_is_not_right(small):
    def fixed(module, x):
        return divided(module, x.view(1, 16, 48))

    line = verdict("rms_norm", as_answer("rms_norm", fixed), small)
    assert line.startswith("not yet: right for the sizes of SmolLM2 and this text only")


def test_a_little_off_is_a_small_number(small):
    def other_eps(module, x):
        return module.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1.2e-5)

    line = verdict("rms_norm", as_answer("rms_norm", other_eps), small)
    said = "of the largest value: too much for rounding. Is a small number another: eps, θ, the"
    assert line.startswith("not yet: layer 0: off by ") and said in line, line


@pytest.mark.parametrize(("name", "answer"), FIXED)
def test_what_is_right_for_one_size_only_is_told_so(name, answer, small):
    line = verdict(name, as_answer(name, answer), small)
    assert line.startswith("not yet: right for the sizes of SmolLM2 and this text only: "), line
    assert line.endswith(" can be others")


@pytest.mark.parametrize(("name", "answer", "said"), LOOKED_AT)
def test_what_is_off_is_told_where(name, answer, said, small):
    line = verdict(name, as_answer(name, answer), small)
    assert line.startswith("not yet: layer 0") and said in line, line


@pytest.mark.parametrize(("name", "answer"), OTHER_STYLES)
def test_a_right_answer_in_another_style_is_right(name, answer, small):
    line = verdict(name, as_answer(name, answer), small)
    assert line.startswith(("exact", "nearly: right", "within")), line


@pytest.mark.parametrize("name", PARTS)
def test_no_answer_of_another_kind_breaks_a_check(name, small):
    for what, make in STRANGE.items():
        line = verdict(name, as_answer(name, lambda *_, make=make: make()), small)
        assert line.startswith("not yet: ") and not OF_THE_CHECK.search(line), (what, line)
    line = verdict(name, 5, small)
    assert line.startswith("not yet: your answer is 5, a "), line


@pytest.mark.parametrize(("name", "answer", "changed"), IN_PLACE)
def test_an_answer_must_not_change_what_it_was_given(name, answer, changed, small):
    before = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    line = verdict(name, as_answer(name, answer), *[small][: name in RIGHT])
    said = f"not yet: your function changes the {changed} that it was given: work on a copy, "
    assert line.startswith(f"{said}{changed} = {changed} "), line
    assert all(torch.equal(before[key], tensor) for key, tensor in small.state_dict().items())


def test_the_reader_may_add_to_a_stream_of_ones_own(small):
    def added(m, ids):
        x, c = m.embed_tokens(ids), m.config
        tables = model.rope_cos_sin(torch.arange(ids.size(1)), c.head_dim, c.rope_theta)
        for layer in m.layers:
            x += layer.self_attn(layer.input_layernorm(x), *tables)
            x += layer.mlp(layer.post_attention_layernorm(x))
        return m.lm_head(m.norm(x))

    assert verdict("model", as_answer("model", added), small).startswith("exact")


def test_a_check_leaves_the_reference_as_it_was(small):
    before = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    small.set_attn_implementation("sdpa")
    verdict("model", RIGHT["model"], small)
    assert small.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[key], tensor) for key, tensor in small.state_dict().items())


# -- the model that the reader writes, beside the package's ---------------------------------------


@pytest.fixture(scope="module")
def readers():
    """The names of the notebook once all its exercises are solved, and its reference."""
    reader = Reader(nbformat.read(NOTEBOOK, as_version=4))
    for number in (f"2.{k}" for k in range(1, 9)):
        assert reader.run(reader.of[number]).startswith("exact"), number
    return reader.space


def test_the_readers_model_is_the_readers(readers):
    """No part of the package's stands in for one."""
    names = ("RMSNorm", "apply_rope", "attend", "Attention", "MLP", "Block", "SmolLM2")
    assert [readers[name].__module__ for name in names] == ["__main__"] * len(names)


@torch.no_grad()
def test_the_readers_model_and_the_packages_give_the_same_bits(readers):
    """On the weights that are there (`SMOL_WEIGHTS=packaged`: the real ones), and on random ones
    of another shape; with the fused kernel, which adds in another order, within rounding."""
    torch.manual_seed(0)
    for config, ours in (
        (SmolLM2Config(), from_reference(readers["reference"])),
        (SMALL, SmolLM2(SMALL).eval()),
    ):
        theirs = readers["SmolLM2"](config).eval()
        theirs.load_state_dict(ours.state_dict())
        ids = torch.randint(config.vocab_size, (2, 40))
        fused = ours(ids)
        ours.set_attn_implementation("eager")
        assert compare(theirs(ids), ours(ids)).exact
        assert compare(theirs(ids), fused).relative < 1e-5


def test_the_teaching_classes_have_no_checks_and_no_switches(readers):
    """One way through, from ids to logits: no `if`, no `raise`, no argument with a default."""
    for name in ("RMSNorm", "Attention", "MLP", "Block", "SmolLM2"):
        parameters = inspect.signature(readers[name].forward).parameters.values()
        assert all(p.default is p.empty for p in parameters), name
        code = inspect.getsource(readers[name].forward)
        assert " if " not in code and "raise" not in code, name


def test_two_parts_are_the_packages_line_for_line(readers, capsys):
    same_code(readers["apply_rope"], readers["MLP"])
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{name}: same code as smol.model" for name in ("apply_rope", "MLP")]
