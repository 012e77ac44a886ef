"""The checks of notebook 9's first half: what is learned of a conversation, the loss of a batch in
parts. Its LoRA: lora.py; its second half: preference.py.

The package's own functions are the judges. What each classic wrong answer is told stands in
slips_finetune.py and before check_backward_in_parts; the tests hand all of them in.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from smol.finetune import render
from smol.finetune.data import TEMPLATE
from smol.lesson import kind
from smol.lesson.checks.slips_finetune import IDS, LABELS, MASK, shifted
from smol.lesson.checks.slips_train import all_of, ask_and_explain, named
from smol.lesson.exercise import SMALL, exercise, expect, expect_close, expect_equal
from smol.lesson.kind import NotYet, described
from smol.model import SmolLM2
from smol.pretrained import SHIPPED
from smol.tokenizer import BPETokenizer
from smol.train import LossModel


def _numbers(answer, what: str, each: Callable) -> list:
    """The items of a list, a tuple, a tensor; `each` is their kind."""
    known = isinstance(answer, list | tuple | Tensor | np.ndarray)
    expect(known, f"`{what}` is {described(answer)}, a list is wanted")
    return [each(item, f"an item of `{what}`") for item in kind.items(answer, f"`{what}`")]


def _named_in_all(slips: dict[str, Callable | tuple], got: list, givens: list) -> str | None:
    """The sentence of the slip that answers all of these as the reader did: one alone can be
    answered alike by several."""
    for says, some in slips.items():
        if any([slip(*given) for given in givens] == got for slip in all_of(some)):
            return says
    return None


# -- 9.1: ids and mask ----------------------------------------------------------------------------


def _talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = [("user", "assistant")[i % 2] for i in range(len(contents))]
    said = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    return [{"role": "system", "content": system}] * (system is not None) + said


TALKS = (
    _talk("Who is he?", "Oscar."),
    _talk("Where is it?", "Here.", "Who came?", "The story does not say.", system="Be brief."),
    _talk('What is "<|im_end|>"?', '"<|im_end|>" ends, "<|im_start|>" begins it.', "Thanks."),
    _talk("Say nothing.\n", "", "Tell me a story.", "Once.\n\nThe end.\n"),
)


@functools.cache
def _loaded() -> BPETokenizer:
    return BPETokenizer.load(SHIPPED)


def chat_tokenizer() -> BPETokenizer:
    """The stories' own, with the template that fine-tuning takes, whatever was done to it."""
    tokenizer = _loaded()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


RAISED_BY_IDS = {
    "KeyError": "a message has `role` and `content`; tokenizer.special_tokens holds ids by name",
    "'BPETokenizer' object is not callable": "tokenizer.encode(text) makes ids of a text",
    "list indices must be": "messages is a list of dicts: for message in messages",
    "not iterable": "the id of a special token is a number: [start] is a list of it",
    'can only concatenate list (not "int")': "the id of a special token is a number: [start]",
}


@exercise
def check_ids_and_mask(answer):
    tokenizer, both = chat_tokenizer(), kind.parts(2, "a pair of ids and mask")
    an_id = lambda i, what: kind.index(i, len(tokenizer), what)  # noqa: E731
    ids, masks, givens = [], [], [(talk, tokenizer) for talk in TALKS]
    for talk in TALKS:
        given = copy.deepcopy(talk)
        made = ask_and_explain(RAISED_BY_IDS, answer, given, tokenizer, kind=both)
        expect(given == talk, "your function changes the messages, which are only to be read")
        ids.append(_numbers(made[0], "ids", an_id))
        masks.append(_numbers(made[1], "mask", kind.truth))
    right = [render(talk, tokenizer) for talk in TALKS]
    wanted = [chat.ids for chat in right]
    if ids != wanted:
        said = _named_in_all(IDS, ids, givens)
        raise NotYet(f"the ids: {said}" if said else _first_id(ids, wanted, tokenizer))
    for talk, chat, mask in zip(TALKS, right, masks, strict=True):
        n = len(chat.ids)
        what = f"{len(talk)} messages are {n} ids: the number of marks in the mask"
        expect_equal(len(mask), n, what)
    if masks != [chat.mask for chat in right]:
        said = _named_in_all(MASK, masks, givens)
        expect(said is None, f"the mask: {said}")
        _first_mark(masks, right, tokenizer)
    return "exact: the package's ids and mask, mark by mark"


def _first_id(ids: list[list[int]], wanted: list[list[int]], tokenizer: BPETokenizer) -> str:
    got, want = next((a, b) for a, b in zip(ids, wanted, strict=True) if a != b)
    k = next((k for k, pair in enumerate(zip(got, want, strict=False)) if len({*pair}) > 1), None)
    if k is None:
        return f"{len(want)} ids are wanted, {len(got)} came, and as far as both go they agree"
    mine, right = (f"{i} ({tokenizer.decode([i])!r})" for i in (got[k], want[k]))
    return f"id {k}{_after(want[:k], tokenizer)} is {mine}, should be {right}"


def _after(before: list[int], tokenizer: BPETokenizer) -> str:
    return f", after {tokenizer.decode(before[-4:])!r}," if before else ""


def _first_mark(masks: list[list[bool]], right: list, tokenizer: BPETokenizer) -> None:
    for mask, chat in zip(masks, right, strict=True):
        for k, (mine, theirs) in enumerate(zip(mask, chat.mask, strict=True)):
            where = f"{tokenizer.decode(chat.ids[k : k + 1])!r}{_after(chat.ids[:k], tokenizer)}"
            expect(mine == theirs, f"the mask at id {k}, {where} is {mine}, should be {theirs}")


# -- 9.2: inputs and labels -----------------------------------------------------------------------

MARKED = (  # the second one begins with a mark, whose id nothing foretells, and has one id twice
    ([5, 9, 4, 7, 7, 3, 8, 6, 11], [0, 0, 0, 1, 1, 0, 0, 1, 1]),
    ([2, 9, 2, 4], [1, 1, 0, 1]),
    ([12, 3, 5], [0, 0, 0]),
)
RAISED_BY_LABELS = {
    "IndexError": "the last id has nothing after it: go up to len(ids) − 1",
    "shorter than": "strict=True wants equal lengths: ids[1:] and mask[1:]",
    "longer than": "strict=True wants equal lengths: ids[1:] and mask[1:]",
    "list indices must be integers": "ids and mask are lists: go over both with zip",
    "multiply sequence": "ids and mask are lists: go over both with zip",
}


@exercise
def check_inputs_and_labels(answer):
    both = kind.parts(2, "a pair of inputs and labels")
    got, givens = [], [(ids, [bool(m) for m in mask]) for ids, mask in MARKED]
    for ids, mask in givens:
        made = ask_and_explain(RAISED_BY_LABELS, answer, [*ids], [*mask], kind=both)
        parts = zip(made, ("inputs", "labels"), strict=True)
        got.append(tuple(_numbers(part, name, kind.number) for part, name in parts))
    wanted = [shifted(*given) for given in givens]
    if got != wanted:
        said = _named_in_all(LABELS, got, givens)
        expect(said is None, f"{said}")
    for (ids, mask), mine, theirs in zip(givens, got, wanted, strict=True):
        marks = "".join(".x"[mark] for mark in mask)
        for name, part, want in zip(("inputs", "labels"), mine, theirs, strict=True):
            expect_equal(part, want, f"ids {ids}, learned {marks}: {name}")


# -- 9.3: the gradient of a batch in parts --------------------------------------------------------


def backward(loss_model, inputs, labels, parts, /, share=None, only=slice(None)) -> Tensor:
    """Right, or with a slip: another number that a part's sum is divided by, not all parts."""
    total, so_far, loss = (labels != -100).sum(), 0, 0.0
    pairs = list(zip(inputs.chunk(parts), labels.chunk(parts), strict=True))
    for x, y in pairs[only]:
        nats, targets = loss_model(x, y)
        so_far = so_far + targets
        (nats / (share(targets, total, so_far) if share else total)).backward()
        loss += nats.detach()
    return loss / total


def _over(share: Callable) -> Callable:
    """`share` of inputs, parts, and (the part's targets, all targets, targets so far)."""

    def slip(loss_model, inputs, labels, parts):
        by = functools.partial(share, inputs, parts)
        return backward(loss_model, inputs, labels, parts, share=by)

    return slip


def _only(which: slice, **slip) -> Callable:
    return lambda *about: backward(*about, only=which, **slip)


def _own(targets, total, so_far):
    return targets


GRADIENTS: dict[str, Callable | tuple] = {
    "the mean of the parts' means: a target among few counts more than one among many. What is "
    "each part's sum to be divided by?": _over(lambda x, parts, n, total, so_far: n * parts),
    "the parts' means were added up: they are not of equally many targets. What is each part's "
    "sum to be divided by?": _over(lambda x, parts, n, total, so_far: n),
    "divided by the number of parts as well: the parts are added up, not averaged": (
        _over(lambda x, parts, n, total, so_far: total * parts)
    ),
    "divided by all tokens: only targets count, labels that are not −100": (
        _over(lambda x, parts, n, total, so_far: x.numel())
    ),
    "the mean over a part's tokens: what counts are the targets of the whole batch": (
        _over(lambda x, parts, n, total, so_far: x.numel() / parts)
    ),
    "divided by the rows: by the targets, labels that are not −100": (
        _over(lambda x, parts, n, total, so_far: len(x)),
        _over(lambda x, parts, n, total, so_far: len(x) / parts),
    ),
    "divided by the number of parts: by the targets of the whole batch": (
        _over(lambda x, parts, n, total, so_far: parts)
    ),
    "that is the sum's gradient: per target is wanted": (
        _over(lambda x, parts, n, total, so_far: 1)
    ),
    "divided by the targets so far: all of the batch are to be counted before the first part": (
        _over(lambda x, parts, n, total, so_far: so_far)
    ),
    "only the last part's gradient is left: what takes away those of the parts before it?": (
        _only(slice(-1, None)),
        _only(slice(-1, None), share=_own),
    ),
    "only the first part's gradient is there: is a return inside the loop?": (
        _only(slice(1)),
        _only(slice(1), share=_own),
    ),
}


@torch.no_grad()
def _nats(loss_model, inputs, labels, parts) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(inputs.chunk(parts), labels.chunk(parts), strict=True)
    return [loss_model(x, y) for x, y in pairs]


def _number(of: Callable) -> Callable:
    """`of` the parts' sums and targets."""
    return lambda *about: of(*map(torch.stack, zip(*_nats(*about), strict=True)))


RETURNED: dict[str, Callable | tuple] = {
    "that is the sum: divide it by the number of targets": _number(lambda s, n: s.sum()),
    "that is the mean of the parts' means: the sum of all parts by the number of all targets": (
        _number(lambda s, n: (s / n).mean())
    ),
    "the parts' means were added up: the sum of all parts by the number of all targets": (
        _number(lambda s, n: (s / n).sum())
    ),
    "that is the last part alone: add the parts up": (
        _number(lambda s, n: s[-1] / n.sum()),
        _number(lambda s, n: s[-1] / n[-1]),
        _number(lambda s, n: s[-1]),
    ),
    "divided by the number of parts as well: the parts' shares are added up": (
        _number(lambda s, n: s.sum() / n.sum() / len(n)),
        _number(lambda s, n: s.mean()),
    ),
    "that is the number of targets: the loss is wanted": _number(lambda s, n: n.sum().float()),
}


class _Heard(nn.Module):
    """A small model with its loss, which notes what goes through, and how many parts' graphs are
    held at once."""

    def __init__(self):
        super().__init__()
        model = SmolLM2(dataclasses.replace(SMALL, num_hidden_layers=1))
        self.loss_model, self.shapes, self.open, self.most = LossModel(model), [], 0, 0

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.shapes.append(tuple(inputs.shape))
        nats, targets = self.loss_model(inputs, labels)
        if nats.requires_grad:
            self.open += 1
            self.most = max(self.most, self.open)
            nats.register_hook(self._ends)
        return nats, targets

    def _ends(self, _: Tensor) -> None:
        self.open -= 1


BATCHES = (  # targets of each row, and parts
    ((1, 7, 3, 2, 8, 5), 3),
    ((4, 2, 7, 1), 4),
    ((3, 1, 0, 0, 5, 2), 3),  # of the second part nothing is learned
)
RAISED_BY_PARTS = {
    "does not require grad": "what backward() starts from has no graph. Is it detached, a number, "
    "or made under no_grad?",
    "backward through the graph a second time": "call backward on this part's share alone, and "
    "add up for the answer what is detached",
    "has no attribute 'backward'": "a number has no graph: backward() belongs to the tensor, "
    "before item()",
    "must be (B, T)": "loss_model takes rows, (B, T): one alone is inputs[i : i + 1]",
    "'tuple'": "loss_model gives two: nats, targets = loss_model(x, y)",
    "a Tensor with 2 elements": "loss_model gives two: nats, targets = loss_model(x, y)",
    "only be implicitly created for scalar": "backward() wants one number",
}


@exercise
def check_backward_in_parts(answer):
    held = False
    for counts, parts in BATCHES:
        heard, T = _Heard(), 8
        inputs, labels = torch.randint(SMALL.vocab_size, (2, len(counts), T))
        labels[torch.arange(T) >= torch.tensor(counts)[:, None]] = -100
        given = heard.loss_model, inputs, labels, parts
        want, slope = _left(heard, backward, *given)
        before = [p.detach().clone() for p in heard.parameters()]
        about = RAISED_BY_PARTS, answer, heard, inputs.clone(), labels.clone(), parts
        got, mine = _left(heard, ask_and_explain, *about)
        what = f"{len(counts)} rows in {parts} parts"
        changed = not all(map(torch.equal, heard.parameters(), before))
        expect(not changed, "your function changes the weights: it leaves gradients only")
        _hear_the_shapes(heard.shapes, len(counts), T, parts)
        absent = "the parameters have no gradient at the end: is backward() called, and nothing "
        expect(mine is not None, f"{what}: {absent}taken away after it?")
        if not _near(mine, slope):
            for says, some in GRADIENTS.items():
                made = (_left(heard, slip, *given)[1] for slip in all_of(some))
                expect(not any(_near(slipped, mine) for slipped in made), f"{what}: {says}")
            times = (mine @ slope / (slope @ slope)).item()
            whole = f"{what}: the gradient is {times:.3g} times what it should be"
            expect(not _near(mine, times * slope), whole)
            expect_close(mine, slope, f"{what}: the gradient")
        empty = (
            "what came back is NaN: a part without any target has no mean, 0/0, but it has a sum"
        )
        expect(got == got, f"{what}: {empty}")
        if not _near(torch.tensor(float(got)), want):
            said = named(RETURNED, torch.tensor(float(got)), *given, same=_near)
            expect(said is None, f"{what}: the gradient is right. What came back: {said}")
            expect_close(got, want, f"{what}: the gradient is right, the loss per target")
        held |= heard.most == parts > 1
    if held:
        return (
            "correct, but the graphs of all parts are held until the end, which is the memory "
            "that parts are to save: backward() in each round"
        )
    return "correct: the whole batch's gradient, up to rounding"


def _left(model: nn.Module, function: Callable, *args) -> tuple[object, Tensor | None]:
    """What it gives back, and the gradients that it leaves."""
    model.zero_grad()
    with torch.enable_grad():
        back = function(*args)
    slopes = [p.grad for p in model.parameters()]
    none = any(slope is None for slope in slopes)
    return back, None if none else torch.cat([slope.flatten() for slope in slopes])


def _hear_the_shapes(shapes: list[tuple], B: int, T: int, parts: int) -> None:
    expect(shapes, "nothing went through loss_model")
    sizes = f"parts of {', '.join(str(shape[0]) for shape in shapes)} rows went through"
    expect(
        not any(shape[0] == B for shape in shapes) or parts == 1,
        f"all {B} rows went through loss_model at once: {parts} parts are wanted",
    )
    expect(
        all(shape[-1] == T for shape in shapes),
        "the rows were cut: a part has whole rows, for a token reads those before it",
    )
    expect(
        all(shape[0] == B // parts for shape in shapes),
        f"{B} rows in {parts} parts: {sizes}. chunk takes the number of parts, split the rows of "
        "one",
    )


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
