"""Notebook 2: the model that its reader writes is the package's, and each slip is named."""

import contextlib
import inspect
import io
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
from smol.lesson.checks.slips import MISTAKES, in_heads, joined, shares
from smol.lesson.code import same_code
from smol.lesson.exercise import SMALL
from smol.parity import compare
from smol.pretrained import from_reference
from smol.tests.solutions import Reader
from smol.tests.test_exercises import OF_THE_CHECK, STRANGE

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_build.ipynb"


def attention(q, k, v):
    return shares(q, k) @ v


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


def test_what_only_rounds_otherwise_is_nearly_right(small):
    def divided(module, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight

    line = verdict("rms_norm", as_answer("rms_norm", divided), small)
    assert line.startswith("nearly: ") and "torch.rsqrt" in line
    far = as_answer("rms_norm", lambda module, x: 1.01 * _rms(module, x))
    assert verdict("rms_norm", far, small).startswith("not yet: layer 0: the output is off")


@pytest.mark.parametrize("name", PARTS)
def test_no_answer_of_another_kind_breaks_a_check(name, small):
    for what, make in STRANGE.items():
        line = verdict(name, as_answer(name, lambda *_, make=make: make()), small)
        assert line.startswith("not yet: ") and not OF_THE_CHECK.search(line), (what, line)
    line = verdict(name, 5, small)
    assert line.startswith("not yet: your answer is 5, a "), line


def test_the_reader_may_write_in_place(small):
    def added(block, x, cos, sin):
        x += block.self_attn(block.input_layernorm(x), cos, sin)
        x += block.mlp(block.post_attention_layernorm(x))
        return x

    assert verdict("block", as_answer("block", added), small).startswith("exact")
    assert verdict("block", RIGHT["block"], small).startswith("exact")


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
