"""The checks of notebook 9's exercises 4 and 5: LoRA, and what it is merged into.

The package's `LoRALinear` is the judge. Each table has classic wrong answers with the sentence
that names each; the tests hand all of them in.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.finetune import LoRALinear
from smol.lesson import kind
from smol.lesson.checks.slips_train import ask_and_explain, named
from smol.lesson.exercise import NotAttempted, exercise, expect, expect_close, expect_like
from smol.lesson.kind import Raised, described, readers_code

# -- 9.4: LoRA ------------------------------------------------------------------------------------


def _changed(scale: Callable) -> Callable:
    """y + scale(r, α) · B A x."""
    return lambda m, x: m.base_layer(x) + scale(m.r, m.alpha) * m.lora_B(m.lora_A(x))


def _over_the_base(m: LoRALinear, x: Tensor) -> Tensor:
    y = m.base_layer(x)  # which A can read where it is as wide as x
    fits = y.size(-1) == m.lora_A.in_features
    return y + m.alpha / m.r * m.lora_B(m.lora_A(y)) if fits else y.new_zeros(0)


FORWARD: dict[str, Callable | tuple] = {
    "the scale is α alone: it is α/r": _changed(lambda r, alpha: alpha),
    "the scale is upside down: α/r": _changed(lambda r, alpha: r / alpha),
    "the scale is α // r, without what is left over: α / r": _changed(lambda r, alpha: alpha // r),
    "the scale α/r is missing": _changed(lambda r, alpha: 1),
    "the scale is 1/r: α is missing": _changed(lambda r, alpha: 1 / r),
    "the scale is α · r: it is α/r": _changed(lambda r, alpha: alpha * r),
    "the scale is α/√r: that is another method's, rsLoRA. Here it is α/r": (
        _changed(lambda r, alpha: alpha * r**-0.5)
    ),
    "the change is taken off: it is added": _changed(lambda r, alpha: -alpha / r),
    "the scale multiplies what the base gives, too: only the change": (
        lambda m, x: m.alpha / m.r * (m.base_layer(x) + m.lora_B(m.lora_A(x)))
    ),
    "the change came back alone: it is added to what the base gives": (
        lambda m, x: m.alpha / m.r * m.lora_B(m.lora_A(x)),
        lambda m, x: m.lora_B(m.lora_A(x)),
    ),
    "A and B are not used: that is what the base gives": lambda m, x: m.base_layer(x),
    "A reads what the base gives: it reads x, beside the base": _over_the_base,
    "the base's bias is lost: let the base itself work on x": (
        lambda m, x: F.linear(x, m.base_layer.weight) + m.alpha / m.r * m.lora_B(m.lora_A(x))
    ),
}


R, ALPHA = 4, 10  # neither α, nor r/α, nor α // r, nor 1 is α/r
RAISED_BY_LORA = {
    "shapes cannot be multiplied": "A reads x, as the base does, and B what A gives",
    "have the same dtype": "the base may be in bfloat16: make A and B with its weight's dtype",
    "takes 1 positional argument": "a Linear is called with what it works on: lora_B(lora_A(x))",
    "unsupported operand type(s) for @": "lora_A is a Linear: call it, or take its weight",
}


@exercise
def check_lora(made):
    if made is ...:
        raise NotAttempted
    is_module = isinstance(made, type) and issubclass(made, nn.Module)
    expect(is_module, f"your answer is {described(made)}, a class of nn.Module is wanted")
    for wide, out, bias, dtype in (
        (8, 8, False, torch.float32),  # in which more mistakes go through than in others
        (6, 10, True, torch.float32),
        (6, 10, True, torch.bfloat16),
    ):
        base = nn.Linear(wide, out, bias, dtype=dtype)
        x = torch.randn(2, 3, wide, dtype=dtype)
        right = LoRALinear(copy.deepcopy(base).requires_grad_(False), R, ALPHA)
        what = f"{wide} → {out}, {str(dtype)[6:]}"
        with readers_code():
            mine = made(base, R, ALPHA)
        try:
            began = ask_and_explain(RAISED_BY_LORA, mine, x.clone(), kind=kind.tensor)
        except Raised:
            _hear_the_layers(mine, wide, out)  # which say more than the error
            raise
        _hear_the_layers(mine, wide, out)
        _hear_the_output(began, right, x, f"{what}, as long as B is 0")
        with torch.no_grad():
            for name in ("lora_A", "lora_B"):
                weight = getattr(right, name).weight
                getattr(mine, name).weight.copy_(weight.normal_(std=0.3))
        _hear_the_gradients(mine, right, x, what)
    return "correct: nothing at the start, then α/r B A x"


def _hear_the_layers(mine: nn.Module, wide: int, out: int) -> None:
    """NotYet where names, sizes, what is drawn or what is trained is otherwise."""
    names = {"base_layer": (out, wide), "lora_A": (R, wide), "lora_B": (out, R)}
    for name in names:
        layer = getattr(mine, name, None)
        there = "missing" if layer is None else described(layer)
        said = f"`{name}` is {there}: a Linear of this name is wanted, as peft's files have it"
        expect(isinstance(layer, nn.Linear), said)
    A, B = mine.lora_A, mine.lora_B
    shapes = [
        (name, list(getattr(mine, name).weight.shape), [*size]) for name, size in names.items()
    ]
    crossed = [shape for _, shape, _ in shapes[1:]] == [size for *_, size in shapes[:0:-1]]
    expect(not crossed, "A and B are exchanged: x meets A first, which leads down to r")
    for name, shape, size in shapes:
        way = f"`{name}` leads from {shape[1]} to {shape[0]}, it should lead from {size[1]} to "
        expect(shape == size, f"{way}{size[0]}")
    biased = A.bias is not None or B.bias is not None
    expect(not biased, "lora_A or lora_B has a bias: the change is a product of two matrices only")
    zero = [not layer.weight.any() for layer in (A, B)]
    stuck = "A and B are both 0, so that neither ever gets a gradient: draw A, leave B 0"
    expect(not all(zero), stuck)
    expect(not zero[0], "A is 0 and B is drawn: it is A that is drawn, and B that is 0")
    expect(zero[1], "B is drawn, too, so that the model begins with a change nobody asked for: 0")
    alike = torch.equal(A.weight, A.weight[:1].expand_as(A.weight))
    expect(not alike, "all rows of A are alike, which is rank 1, and stays so: draw them")
    for name, parameter in mine.named_parameters():
        if name.startswith("base_layer."):
            said = f"{name} is still trained: all of the base is frozen, requires_grad_(False)"
            expect(not parameter.requires_grad, said)
        elif name in ("lora_A.weight", "lora_B.weight"):
            expect(parameter.requires_grad, f"{name} is frozen: only the base is")
        else:
            expect(not parameter.requires_grad, f"{name} is trained, too: A and B alone are")


def _hear_the_output(got: Tensor, right: LoRALinear, x: Tensor, what: str) -> None:
    """NotYet where that is not what the package's layer makes of x."""
    want = right(x).detach()
    if not _near(got, want):
        slip = named(FORWARD, got, right, x, same=_near)
        expect(slip is None, f"{what}: {slip}")
        expect_like(got, want, f"{what}: the output")
        expect(right.lora_B.weight.any(), f"{what}: the output is not the base's")
        change = want - right.base_layer(x)
        times = (((got - want + change) * change).sum() / change.square().sum()).item()
        whole = f"{what}: the change is {times:.3g} times what it should be"
        expect(not _near(got - want, (times - 1) * change), whole)
        expect_close(got, want, f"{what}: the output")


def _hear_the_gradients(mine: nn.Module, right: LoRALinear, x: Tensor, what: str) -> None:
    """NotYet where, with A and B like the package's, the output or a gradient is another."""
    heard = [x.clone().requires_grad_() for _ in range(2)]
    with readers_code():
        got = mine(heard[0])
    _hear_the_output(got.detach(), right, x, what)
    want = right(heard[1])
    slope = torch.randn_like(want)
    (want * slope).sum().backward()
    expect(got.requires_grad, "the output has no gradient: is no_grad around it, or detach?")
    with readers_code():
        (got * slope).sum().backward()
    for name in ("lora_A", "lora_B"):
        lost = f"no gradient comes to {name}: is no_grad around it, or detach?"
        expect(getattr(mine, name).weight.grad is not None, lost)
    lost = "the gradient of x does not go through the base: frozen are its weights, while layers "
    lost += "below learn through it. No no_grad, no detach"
    expect(heard[0].grad is not None and _near(heard[0].grad, heard[1].grad), lost)


def _near(got: Tensor, want: Tensor) -> bool:
    """As near as the dtype lets two orders of rounding come."""
    low = want.dtype == torch.bfloat16
    same = got.dtype == want.dtype and got.shape == want.shape
    return same and torch.allclose(
        got, want, rtol=0.03 if low else 1e-4, atol=0.1 if low else 1e-5
    )


# -- 9.5: merged ----------------------------------------------------------------------------------


def _weight(scale: Callable = lambda r, alpha: alpha / r, how: Callable = Tensor.add) -> Callable:
    def slip(W: Tensor, A: Tensor, B: Tensor, r: int, alpha: float) -> Tensor:
        return how(W, scale(r, alpha) * B @ A)

    return slip


def _turned(W: Tensor, change: Tensor) -> Tensor:
    return W + change.T if W.size(0) == W.size(1) else W.new_zeros(0)


def _crossed(W: Tensor, A: Tensor, B: Tensor, r: int, alpha: float) -> Tensor:
    return W + alpha / r * A @ B if A.shape == B.shape else W.new_zeros(0)


MERGED: dict[str, Callable | tuple] = {
    "the scale α/r is missing": _weight(lambda r, alpha: 1),
    "the scale is α alone: it is α/r": _weight(lambda r, alpha: alpha),
    "the scale is upside down: α/r": _weight(lambda r, alpha: r / alpha),
    "the change was taken off: it is added": _weight(how=Tensor.sub),
    "the change went in twice: a layer is merged once": (
        _weight(how=lambda W, change: W + 2 * change)
    ),
    "that is the change alone: W is missing": _weight(how=lambda W, change: change),
    "that is the base as it was: the change is missing": _weight(how=lambda W, change: W),
    "the scale multiplies W, too: only the change": (
        lambda W, A, B, r, alpha: alpha / r * (W + B @ A)
    ),
    "the change is turned over: in this square layer (B A)ᵀ fits as well, but x meets A first": (
        _weight(how=_turned)
    ),
    "A B in place of B A: with r as large as the layer that fits as well, but x meets A first": (
        _crossed
    ),
}


RAISED_BY_MERGED = {
    "shapes cannot be multiplied": "A is (r, in) and B (out, r), and W is (out, in): which "
    "product is?",
    "must match the size": "A is (r, in) and B (out, r), and W is (out, in): which product is?",
    "must be Tensor, not Linear": "a layer's matrix is its weight",
    "cannot assign": "a Linear's weight is an nn.Parameter: wrap it in one",
    "non-leaf": "make the weight under torch.no_grad(): it need not remember how it was made",
    "leaf Variable": "a weight is changed under torch.no_grad(), or made anew: nn.Parameter(…)",
    "unsupported operand type(s) for": "a layer's matrix is its weight",
}


@exercise
def check_merged(answer):
    for wide, out, r, bias, dtype in (
        (5, 5, 5, True, torch.float32),  # in which more mistakes go through than in others
        (8, 8, 3, False, torch.float32),
        (6, 10, 4, True, torch.float32),
        (6, 10, 4, True, torch.bfloat16),
    ):
        base = nn.Linear(wide, out, bias, dtype=dtype).requires_grad_(False)
        layer = LoRALinear(base, r, ALPHA)
        nn.init.normal_(layer.lora_B.weight, std=0.3)
        before = copy.deepcopy(layer)
        got = ask_and_explain(RAISED_BY_MERGED, answer, layer, kind=_linear)
        what = f"{wide} → {out}, r = {r}, {str(dtype)[6:]}"
        want = copy.deepcopy(before).merged()
        for name in ("weight", "bias"):
            _hear_the_merged(name, getattr(got, name), getattr(want, name), before, what)
        sizes = f"{got.in_features} → {got.out_features}"
        expect(sizes == f"{wide} → {out}", f"{what}: the Linear says that it is {sizes}")
        bound = "the weight carries the graph of A and B: make it under torch.no_grad()"
        expect(got.weight.is_leaf, bound)
    return "correct: one Linear that does what the two paths did, up to rounding"


def _linear(answer) -> nn.Linear:
    unmerged = "that is a layer with A and B still beside it: a plain nn.Linear is wanted"
    expect(not isinstance(answer, LoRALinear), unmerged)
    alone = "that is the weight: put it in an nn.Linear, which has the base's bias as well"
    expect(not isinstance(answer, Tensor), alone)
    expect(
        isinstance(answer, nn.Linear),
        f"your answer is {described(answer)}, an nn.Linear is wanted",
    )
    return answer


def _hear_the_merged(
    name: str, got: Tensor | None, want: Tensor | None, before: LoRALinear, what: str
) -> None:
    if got is None or want is None:
        expect(got is want, f"{what}: the bias is lost" if got is None else f"{what}: a bias came")
        return
    if _near(got, want):
        return
    if name == "weight":
        weights = before.base_layer.weight, before.lora_A.weight, before.lora_B.weight
        parts = (*(w.detach() for w in weights), before.r, before.alpha)
        slip = named(MERGED, got.detach(), *parts, same=_near)
        expect(slip is None, f"{what}: {slip}")
    expect_close(got, want, f"{what}: the {name}")
