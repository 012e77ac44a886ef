"""Notebook 9's checks: right answers are right, in whatever style; each slip has its sentence."""

import copy
import itertools
import json
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smol import BPETokenizer, load_pretrained
from smol.finetune import (
    LoRALinear,
    add_lora,
    dpo,
    log_probs,
    lora_parameters,
    merge_lora,
    pad,
    render,
)
from smol.finetune.data import TEMPLATE
from smol.lesson.checks import finetune, lora, preference, slips_preference
from smol.lesson.checks.slips_finetune import IDS, LABELS, MASK, rendered, shifted
from smol.lesson.checks.slips_train import all_of
from smol.pretrained import SHIPPED
from smol.tests.test_exercises import verdict_on

NOTEBOOK = Path(__file__).parents[2] / "notebooks/09_finetune.ipynb"


def said(check, answer) -> str:
    return verdict_on(check, answer)


def right(check, answer) -> None:
    line = said(check, answer)
    assert line.startswith(("correct", "exact")) and "but" not in line, line


def parts_of(slip):
    """The mask of another, the ids right."""
    return lambda m, t: (rendered(m, t)[0], slip(m, t))


def ids_of(slip):
    def answer(m, t):
        ids = slip(m, t)
        return ids, [False] * len(ids)

    return answer


def returned(slip):
    def answer(loss_model, inputs, labels, parts):
        finetune.backward(loss_model, inputs, labels, parts)
        return slip(loss_model, inputs, labels, parts)

    return answer


def of_logits(slip):
    return lambda model, inputs, labels: slip(model(inputs), labels)


class Own(LoRALinear):
    """Right: the package's layer, its base frozen."""

    def __init__(self, base, r, alpha):
        super().__init__(base.requires_grad_(False), r, alpha)


def forward(slip):
    return type("Slip", (Own,), {"forward": lambda self, x: slip(self, x)})


def in_a_linear(weight, bias):
    made = nn.Linear(weight.size(1), weight.size(0), bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def merged_by(slip):
    def answer(layer):
        weights = (m.weight.detach() for m in (layer.base_layer, layer.lora_A, layer.lora_B))
        return in_a_linear(slip(*weights, layer.r, layer.alpha), layer.base_layer.bias)

    return answer


SLIPS = {
    "ids": (finetune.check_ids_and_mask, IDS, ids_of),
    "mask": (finetune.check_ids_and_mask, MASK, parts_of),
    "labels": (finetune.check_inputs_and_labels, LABELS, lambda slip: slip),
    "gradients": (finetune.check_backward_in_parts, finetune.GRADIENTS, lambda slip: slip),
    "returned": (finetune.check_backward_in_parts, finetune.RETURNED, returned),
    "forward": (lora.check_lora, lora.FORWARD, forward),
    "merged": (lora.check_merged, lora.MERGED, merged_by),
    "log_probs": (preference.check_log_probs, slips_preference.SUMS, of_logits),
    "dpo": (preference.check_dpo_loss, slips_preference.LOSSES, lambda slip: slip),
    "best_policy": (preference.check_best_policy, slips_preference.POLICIES, lambda slip: slip),
    "policy_loss": (preference.check_policy_loss, slips_preference.POLICY, lambda slip: slip),
}
EACH = [
    (name, says, slip)
    for name, (_, slips, _) in SLIPS.items()
    for says, some in slips.items()
    for slip in all_of(some)
]


@pytest.mark.parametrize(("name", "says", "slip"), EACH, ids=lambda x: x if type(x) is str else "")
def test_each_slip_is_named(name, says, slip):
    check, _, as_answer = SLIPS[name]
    line = said(check, as_answer(slip))
    assert line.startswith("not yet: ") and line.endswith(says), line


# -- right answers in other styles ----------------------------------------------------------------


def through_beginnings(messages, tokenizer):
    """What each message adds to the conversation; ints for marks."""
    end = tokenizer.encode("<|im_end|>")
    ids, mask = [], []
    for m in messages:
        head = tokenizer.encode(f"<|im_start|>{m['role']}\n")
        body = tokenizer.encode(m["content"], special=False) + end
        tail = tokenizer.encode("\n")
        ids += head + body + tail
        mask += [0] * len(head) + [int(m["role"] == "assistant")] * len(body) + [0] * len(tail)
    return ids, mask


def in_one_piece(messages, tokenizer):
    """Role and content as one text, tensors back."""
    start, end = (tokenizer.added_id(f"<|im_{name}|>") for name in ("start", "end"))
    ids, mask = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.bool)
    for m in messages:
        head = len(tokenizer.encode(m["role"] + "\n"))
        text = tokenizer.encode(f"{m['role']}\n{m['content']}", special=False)
        some = torch.tensor([start, *text, end, *tokenizer.encode("\n")])
        marks = torch.zeros(len(some), dtype=torch.bool)
        marks[1 + head : -1] = m["role"] == "assistant"
        ids, mask = torch.cat((ids, some)), torch.cat((mask, marks))
    return ids, mask


def with_where(ids, mask):
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    return ids[:-1], torch.where(mask, ids, -100)[1:]


def label_by_label(ids, mask):
    labels = [-100] * (len(ids) - 1)
    for t, (token, learned) in enumerate(zip(ids[1:], mask[1:], strict=True)):
        if learned:
            labels[t] = token
    return np.array(ids[:-1]), tuple(labels)


def divided_at_the_end(loss_model, inputs, labels, parts):
    nats, targets = 0.0, 0
    for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
        loss, n = loss_model(x, y)
        loss.backward()
        nats, targets = nats + loss.item(), targets + n
    for p in loss_model.parameters():
        p.grad /= targets
    return nats / targets


def counted_by_the_model(loss_model, inputs, labels, parts):
    """Rows by slices; its loss keeps a graph; gradients cleared before."""
    rows = len(inputs) // parts
    loss_model.zero_grad()
    cut = [slice(at, at + rows) for at in range(0, len(inputs), rows)]
    with torch.no_grad():
        total = sum(loss_model(inputs[part], labels[part])[1] for part in cut)
    shares = []
    for part in cut:
        shares.append(loss_model(inputs[part], labels[part])[0] / total)
        shares[-1].backward()
    return sum(shares)


def by_hand(loss_model, inputs, labels, parts):
    weights, sums = [*loss_model.parameters()], None
    total, loss = (labels != -100).sum().item(), 0.0
    for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
        nats, _ = loss_model(x, y)
        found = torch.autograd.grad(nats / total, weights)
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        loss += nats.item() / total
    for weight, slope in zip(weights, sums, strict=True):
        weight.grad = slope
    return torch.tensor([loss])


def without_the_empty(loss_model, inputs, labels, parts):
    total, loss = (labels != -100).sum(), 0.0
    for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
        nats, n = loss_model(x, y)
        if n > 0:
            share = nats / n * (n / total)
            share.backward()
            loss += share.detach()
    return loss


class InOneMatrix(nn.Module):
    """Right: the change goes into the weight before it meets x."""

    def __init__(self, base, r, alpha):
        super().__init__()
        like = {"bias": False, "dtype": base.weight.dtype}
        self.base_layer = base
        for p in base.parameters():
            p.requires_grad = False
        self.lora_A = nn.Linear(base.in_features, r, **like)
        self.lora_B = nn.Linear(r, base.out_features, **like)
        self.lora_B.weight = nn.Parameter(torch.zeros_like(self.lora_B.weight))
        self.scale = alpha / r

    def forward(self, x):
        weight = self.base_layer.weight + self.scale * self.lora_B.weight @ self.lora_A.weight
        return F.linear(x, weight, self.base_layer.bias)


class InFull(nn.Module):
    """Right: a copy of the base, A and B in fp32 beside it, x scaled first."""

    def __init__(self, base, r, alpha):
        super().__init__()
        self.base_layer = copy.deepcopy(base).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(base.in_features, r, False), nn.Linear(1, 1, False)
        self.lora_B = nn.Linear(r, base.out_features, False)
        nn.init.normal_(self.lora_A.weight)
        nn.init.zeros_(self.lora_B.weight)
        self.register_buffer("scale", torch.tensor(alpha / r))

    def forward(self, x):
        change = self.lora_B(self.lora_A(x.float() * self.scale))
        return self.base_layer(x) + change.to(x.dtype)


def change_of(layer):
    return layer.alpha / layer.r * layer.lora_B.weight @ layer.lora_A.weight


@torch.no_grad()
def into_the_base(layer):
    layer.base_layer.weight += change_of(layer)
    return layer.base_layer


def by_data(layer):
    layer.base_layer.weight.data.add_(change_of(layer).detach())
    return layer.base_layer


def a_new_weight(layer):
    made = copy.deepcopy(layer.base_layer)
    made.weight = nn.Parameter(layer.base_layer.weight + change_of(layer).detach())
    return made


@torch.no_grad()
def through_the_unit_matrix(layer):
    base, unit = layer.base_layer, torch.eye(layer.base_layer.in_features).to(layer.lora_A.weight)
    change = layer.lora_B(layer.lora_A(unit)).T * layer.alpha / layer.r
    return in_a_linear(base.weight + change, base.bias)


def by_cross_entropy(model, inputs, labels):
    logits = model(inputs)
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return -nats.view(labels.shape).sum(1)


def row_by_row(model, inputs, labels):
    rows = []
    for x, y in zip(inputs, labels, strict=True):
        log_p, kept = model(x[None])[0].log_softmax(-1), y != -100
        rows.append(log_p[kept, y[kept]].sum())
    return torch.stack(rows)


def by_softplus(c, r, rc, rr, beta):
    return F.softplus(-beta * ((c - r) - (rc - rr))).sum() / len(c)


def as_a_classifier(c, r, rc, rr, beta):
    margins = beta * (c - rc) - beta * (r - rr)
    return F.binary_cross_entropy_with_logits(margins, torch.ones_like(margins))


def largest_off(p, reward, beta):
    weights = p * ((reward - reward.max(-1, keepdim=True).values) / beta).exp()
    return weights / weights.sum(-1, keepdim=True)


def by_log_softmax(p, reward, beta):
    return torch.log_softmax(p.log() + reward / beta, dim=-1).exp()


RIGHT = {
    finetune.check_ids_and_mask: (rendered, through_beginnings, in_one_piece, finetune.render),
    finetune.check_inputs_and_labels: (shifted, with_where, label_by_label),
    finetune.check_backward_in_parts: (
        finetune.backward,
        divided_at_the_end,
        counted_by_the_model,
        by_hand,
        without_the_empty,
    ),
    lora.check_lora: (Own, InOneMatrix, InFull),
    lora.check_merged: (
        LoRALinear.merged,
        into_the_base,
        by_data,
        a_new_weight,
        through_the_unit_matrix,
    ),
    preference.check_log_probs: (log_probs, by_cross_entropy, row_by_row),
    preference.check_dpo_loss: (
        lambda *about: dpo(*about).loss.mean(),
        by_softplus,
        as_a_classifier,
    ),
    preference.check_best_policy: (preference.best_policy, largest_off, by_log_softmax),
    preference.check_policy_loss: (
        preference.policy_loss,
        lambda log_p, r: ((r.detach().mean() - r.detach()) * log_p).sum() / len(r),
        # The other of the two may be centred as well: the sums are the same.
        lambda log_p, r: -((log_p - log_p.mean()) * r.detach()).mean()[None],
    ),
}


@pytest.mark.parametrize(
    ("check", "answer"), [(check, answer) for check, some in RIGHT.items() for answer in some]
)
def test_a_right_answer_in_another_style_is_right(check, answer):
    right(check, answer)


def test_all_checks_take_seconds():
    begun = time.process_time()
    for check, (answer, *_) in RIGHT.items():
        right(check, answer)
    assert time.process_time() - begun < 10


# -- what no table holds --------------------------------------------------------------------------


def hears(check, answer, *parts: str) -> None:
    line = said(check, answer)
    assert line.startswith("not yet: ") and all(part in line for part in parts), line


def of_rendered(change):
    return lambda messages, tokenizer: change(*rendered(messages, tokenizer))


def test_other_mistakes_with_ids_and_mask():
    check = finetune.check_ids_and_mask

    def writes(messages, tokenizer):
        messages[0]["content"] += "!"
        return rendered(messages, tokenizer)

    hears(check, writes, "changes the messages")
    hears(
        check, of_rendered(lambda i, m: (i, m[1:])), "number of marks in the mask: 20, should be"
    )
    hears(check, of_rendered(lambda i, m: (i, i)), "an item of `mask` is", "True or False")
    hears(check, of_rendered(lambda i, m: i), "has 21 parts, a pair of ids and mask is wanted")
    hears(check, of_rendered(lambda i, m: ([*i[:3], 7, *i[4:]], m)), "id 3, after '<|im_start|>us")
    hears(check, of_rendered(lambda i, m: (i[:-2], m)), "21 ids are wanted, 19 came")
    flipped = of_rendered(lambda i, m: (i, [*m[:-3], not m[-3], *m[-2:]]))
    hears(check, flipped, "the mask at id 18, '.', after 't\\nOscar', is False, should be True")
    hears(check, lambda m, t: ([] + 1, []), "a number: [start]")
    hears(check, lambda m, t: [].extend(t.special_tokens["<|im_end|>"]), "[start] is a list of it")
    hears(check, lambda m, t: t(m), "tokenizer.encode(text) makes ids of a text")
    hears(check, of_rendered(lambda i, m: (i[1:], m[1:])), "id 0 is 344 ('us'), should be 1 ('<|")
    hears(check, lambda m, t: m["role"], "it raised TypeError", "for message in messages")
    hears(check, lambda m, t: m[0]["text"], "it raised KeyError: 'text'", "`role` and `content`")
    every = of_rendered(lambda i, m: ([10**9 for _ in i], m))
    hears(check, every, "an item of `ids` is 1000000000, not one of 0 to 2047")


def test_other_mistakes_with_labels():
    check = finetune.check_inputs_and_labels
    hears(check, lambda i, m: (i[:-1], [i[t + 1] for t in range(len(i))]), "go up to len(ids) − 1")
    hears(check, lambda i, m: [*zip(i[1:], m, strict=True)], "strict=True wants equal lengths")
    hears(check, lambda i, m: (i[:-1], i[1:] * m[1:]), "go over both with zip")
    hears(check, lambda i, m: (i[:-1], [None] * 8), "an item of `labels` is None, a number")
    hears(check, lambda i, m: (i[:-1], [7] * len(i[1:])), "learned ...xx..xx: labels: [7, 7, 7")
    hears(check, lambda i, m: {}, "a pair of inputs and labels is wanted")
    looked_up = lambda i, m: (i[:-1], [a if m[i.index(a)] else -100 for a in i[1:]])  # noqa: E731
    hears(check, looked_up, "ids [2, 9, 2, 4], learned xx.x: labels: [9, 2, 4], should be [9, -1")
    from_the_first = lambda i, m: (m.index(True), *shifted(i, m))[1:]  # noqa: E731
    hears(check, from_the_first, "it raised ValueError: True is not in list")
    late = lambda i, m: (i[:-1], (label for label in shifted(i, m)[1]))  # noqa: E731
    hears(check, late, "`labels` is a generator, a list is wanted")


def in_parts(step=None, cut=None, back=None, after=None, each=lambda nats, n: nats):
    """Right, or another mistake with the batch in parts."""

    def answer(loss_model, inputs, labels, parts):
        total, loss = (labels != -100).sum(), 0.0
        pairs = cut(inputs, labels, parts) if cut else [t.chunk(parts) for t in (inputs, labels)]
        for x, y in zip(*pairs, strict=True):
            nats, n = loss_model(x, y)
            (step or (lambda nats, n, total: (nats / total).backward()))(nats, n, total)
            loss += each(nats.detach(), n) / total
        if after:
            after(loss_model)
        return back(loss) if back else loss

    return answer


def add_to_weights(loss_model):
    with torch.no_grad():
        next(loss_model.parameters()).add_(1)


def as_a_number(nats, n, total):
    (nats / total).item().backward()


def test_other_mistakes_with_a_batch_in_parts():
    check = finetune.check_backward_in_parts
    right(check, in_parts())
    whole = in_parts(cut=lambda x, y, parts: ([x], [y]))
    hears(check, whole, "all 6 rows went through loss_model at once: 3 parts are wanted")
    columns = in_parts(cut=lambda x, y, parts: (x.chunk(4, 1), y.chunk(4, 1)))
    hears(check, lambda m, x, y, n: columns(m, x[:2], y[:2], n), "the rows were cut")
    split = in_parts(cut=lambda x, y, parts: (x.split(parts), y.split(parts)))
    hears(check, split, "parts of 3, 3 rows went through", "chunk takes the number of parts")
    by_two = in_parts(cut=lambda x, y, parts: (x.split(2), y.split(2)))
    hears(check, by_two, "4 rows in 4 parts: parts of 2, 2 rows went through")
    hears(check, lambda *_: 1.0, "nothing went through loss_model")
    hears(check, in_parts(step=lambda *_: None), "no gradient at the end: is backward() called")
    hears(check, in_parts(after=nn.Module.zero_grad), "nothing taken away after it")
    hears(check, in_parts(after=add_to_weights), "your function changes the weights")
    weighed = in_parts(each=lambda nats, n: nats / n * n)
    hears(check, weighed, "what came back is NaN", "no mean, 0/0")
    lost = in_parts(step=lambda nats, n, total: (nats.detach() / total).backward())
    hears(check, lost, "it raised RuntimeError", "has no graph. Is it detached")
    hears(check, in_parts(step=as_a_number), "backward() belongs to the tensor, before item()")
    hears(check, lambda m, x, y, n: m(x[:2], y[:2]).sum(), "loss_model gives two")
    hears(check, lambda m, x, y, n: m(x[:2], y[:2]) / 2, "loss_model gives two")
    shares = []

    def again(nats, n, total):
        shares.append(nats / total)
        sum(shares).backward()

    hears(check, in_parts(step=again), "call backward on this part's share alone")
    hears(
        check, in_parts(back=lambda loss: loss + 1), "the gradient is right, the loss per target"
    )
    half = in_parts(step=lambda nats, n, total: (nats / total / 5).backward())
    hears(check, half, "6 rows in 3 parts: the gradient is 0.2 times what it should")
    crossed = lambda m, x, y, n: finetune.backward(m, y.clamp(min=0), x, n)  # noqa: E731
    hears(check, crossed, "6 rows in 3 parts: the gradient is off")
    hears(check, lambda m, x, y, n: m(x[0], y[0])[0], "one alone is inputs[i : i + 1]")


def test_one_backward_at_the_end_is_right_and_told_what_it_costs():
    def at_the_end(loss_model, inputs, labels, parts):
        pairs = zip(inputs.chunk(parts), labels.chunk(parts), strict=True)
        sums, targets = zip(*itertools.starmap(loss_model, pairs), strict=True)
        loss = sum(sums) / sum(targets)
        loss.backward()
        return loss

    line = said(finetune.check_backward_in_parts, at_the_end)
    assert line.startswith("correct, but the graphs of all parts are held until the end"), line


class Plain(nn.Module):
    """LoRA with switches for mistakes that forward does not show."""

    def __init__(self, base, r, alpha, change=None, like=None, frozen=None):
        super().__init__()
        self.base_layer, self.scale = base, alpha / r
        like = {"bias": False, "dtype": base.weight.dtype} if like is None else like
        self.lora_A = nn.Linear(base.in_features, r, **like)
        self.lora_B = nn.Linear(r, base.out_features, **like)
        nn.init.zeros_(self.lora_B.weight)
        (frozen or nn.Module.requires_grad_)(base, False)
        if change:
            with torch.no_grad():
                change(self)

    def forward(self, x):
        return self.base_layer(x) + self.scale * self.lora_B(self.lora_A(x))


def plain(forward=None, **slip):
    body = {"__init__": lambda self, *about: Plain.__init__(self, *about, **slip)}
    return type("Slip", (Plain,), body | ({"forward": forward} if forward else {}))


def exchanged(m):
    m.lora_A, m.lora_B = m.lora_B, m.lora_A


def turned(m):
    m.lora_A = nn.Linear(*m.lora_A.weight.shape, bias=False)


def as_parameters(m):
    A = m.lora_A.weight
    del m.lora_A
    m.lora_A = nn.Parameter(A)


def without_a_name(m):
    m.A = m.lora_A
    del m.lora_A


def with_a_scale(m):
    m.factor = nn.Parameter(torch.ones(1))


def first_weight_only(base, _):
    base.weight.requires_grad_(False)


LAYERS = {  # what is changed, and what is heard of it
    "`lora_A` is missing: a Linear of this name": without_a_name,
    "`lora_A` is a tensor of shape [4, 8]: a Linear of this name": as_parameters,
    "`lora_A` leads from 4 to 8, it should lead from 8 to 4": turned,
    "A and B are exchanged: x meets A first": exchanged,
    "A and B are both 0": lambda m: m.lora_A.weight.zero_(),
    "A is 0 and B is drawn": lambda m: (m.lora_A.weight.zero_(), m.lora_B.weight.normal_()),
    "B is drawn, too": lambda m: m.lora_B.weight.normal_(),
    "all rows of A are alike": lambda m: m.lora_A.weight.fill_(0.1),
    "lora_B.weight is frozen: only the base is": lambda m: m.lora_B.requires_grad_(False),
    "factor is trained, too": with_a_scale,
    "base_layer.weight is still trained": lambda m: m.base_layer.requires_grad_(),
}


@pytest.mark.parametrize("part", LAYERS)
def test_each_mistake_with_the_layers_of_lora_is_named(part):
    hears(lora.check_lora, plain(change=LAYERS[part]), part)


@torch.no_grad()
def never_learned(m, x):
    return Plain.forward(m, x)


def base_without_a_graph(m, x):
    with torch.no_grad():
        y = m.base_layer(x)
    return y + m.scale * m.lora_B(m.lora_A(x))


def change_without_a_graph(m, x):
    return m.base_layer(x) + m.scale * m.lora_B(m.lora_A(x).detach())


def test_other_mistakes_with_lora():
    check = lora.check_lora
    right(check, plain())
    assert said(check, ...) == "not attempted yet"
    stub = type(
        "Stub",
        (nn.Module,),
        {"forward": lambda m, x: ..., "__init__": lambda m, *_: nn.Module.__init__(m)},
    )
    assert said(check, stub) == "not attempted yet"
    hears(check, 5, "your answer is 5, a class of nn.Module is wanted")
    hears(check, lambda *_: 5, "your answer is a function, a class of nn.Module is wanted")
    hears(check, plain(frozen=first_weight_only), "base_layer.bias is still trained")
    hears(check, plain(like={}), "has a bias")
    hears(check, plain(like={"bias": False}), "it raised", "make A and B with its weight's dtype")
    hears(check, plain(never_learned), "the output has no gradient")
    hears(check, plain(base_without_a_graph), "the gradient of x does not go through the base")
    hears(check, plain(change_without_a_graph), "no gradient comes to lora_A")
    hears(check, plain(lambda m, x: None), "your function returns None")
    hears(check, plain(lambda m, x: m.lora_A @ x), "lora_A is a Linear: call it")
    hears(
        check, plain(lambda m, x: m.lora_B(x)), "A reads x, as the base does, and B what A gives"
    )
    hears(check, plain(lambda m, x: m.nothing), "it raised AttributeError")
    half = lambda m, x: (Plain.forward(m, x) + m.base_layer(x)) / 2  # noqa: E731
    hears(check, plain(half), "float32: the change is 0.5 times what it should be")
    bent = lambda m, x: m.base_layer(x) + m.scale * m.lora_B(m.lora_A(x).tanh())  # noqa: E731
    hears(check, plain(bent), "float32: the output is off")
    more = plain(lambda m, x: Plain.forward(m, x) * 1.5)
    hears(check, more, "as long as B is 0: the output is not the base's")
    hears(check, plain(lambda m, x: Plain.forward(m, x).float()), "torch.float32, not torch.bfl")
    without_super = type(
        "Slip",
        (nn.Module,),
        {"__init__": lambda m, base, r, alpha: setattr(m, "base_layer", base)},
    )
    hears(check, without_super, "it raised AttributeError", "__init__() call")


def test_other_mistakes_with_merging():
    check = lora.check_merged
    hears(check, change_of, "that is the weight: put it in an nn.Linear")
    hears(check, lambda layer: layer, "with A and B still beside it")
    hears(check, lambda layer: 5, "your answer is 5, an nn.Linear is wanted")
    hears(check, lambda layer: layer.lora_B(layer.lora_A), "a layer's matrix is its weight")

    def no_parameter(layer):
        layer.base_layer.weight = change_of(layer)

    hears(check, no_parameter, "is an nn.Parameter: wrap it in one")
    hears(check, lambda layer: layer.lora_A @ layer.lora_B, "a layer's matrix is its weight")

    def other_way(layer):
        W, A, B = (m.weight for m in (layer.base_layer, layer.lora_A, layer.lora_B))
        return in_a_linear(W + A @ B if W.shape == (5, 5) else A @ B, None)

    hears(check, other_way, "5 → 5, r = 5, float32: the weight is off")

    def graph(layer):
        layer.base_layer.weight.add_(change_of(layer))
        return layer.base_layer

    hears(check, graph, "the weight carries the graph of A and B")

    def of_a_trained_base(layer):
        layer.base_layer.requires_grad_()
        layer.base_layer.weight += change_of(layer)
        return layer.base_layer

    hears(check, of_a_trained_base, "a weight is changed under torch.no_grad()")
    hears(check, lambda layer: in_a_linear(a_new_weight(layer).weight, None), "the bias is lost")
    zero = lambda b: None if b is None else torch.zeros_like(b)  # noqa: E731
    hears(
        check,
        lambda layer: in_a_linear(a_new_weight(layer).weight, zero(layer.base_layer.bias)),
        "the bias is off",
    )

    def of_other_sizes(layer):
        made = nn.Linear(2, 3)
        made.weight, made.bias = a_new_weight(layer).weight, layer.base_layer.bias
        return made

    hears(check, of_other_sizes, "the Linear says that it is 2 → 3")
    hears(check, lambda layer: a_new_weight(layer).float(), "torch.float32, not torch.bfloat16")
    biased = lambda layer: in_a_linear(a_new_weight(layer).weight, torch.zeros(8))  # noqa: E731
    hears(check, lambda a: (biased if a.r == 3 else into_the_base)(a), "a bias came")


def test_other_mistakes_with_log_probs():
    check = preference.check_log_probs
    gathered = lambda m, x, y: m(x).log_softmax(-1).gather(-1, y[..., None]).sum(1)  # noqa: E731
    hears(check, gathered, "it raised", "−100 is no token: put one in its place")
    picked = lambda m, x, y: m(x).log_softmax(-1)[0, torch.arange(30), y[1] * 9]  # noqa: E731
    hears(check, picked, "it raised IndexError", "−100 is no token")
    hears(check, lambda m, x, y: m(x).gather(-1, y), "labels[..., None]")
    hears(check, lambda m, x, y: F.cross_entropy(m(x), y), "flatten(0, 1)")
    for one in (torch.sum, torch.mean):
        hears(
            check, lambda *about, one=one: one(log_probs(*about)), "for the whole batch came back"
        )
    unsqueezed = lambda m, x, y: m(x).gather(-1, x[..., None]) * (y != -100)  # noqa: E731
    hears(check, unsqueezed, "[..., 0] takes it away")
    hears(check, lambda m, x, y: m(x).logits, "this model gives the logits themselves")
    hears(check, torch.no_grad()(log_probs), preference.LOST)
    hears(check, lambda *about: log_probs(*about).detach(), preference.LOST)
    hears(check, lambda *about: log_probs(*about).tolist(), "your answer is a list, not a tensor")
    hears(check, lambda *about: log_probs(*about)[:, None], "your answer is [4, 1], not [4]")
    hears(check, lambda *about: log_probs(*about) * 2, "4 rows: your answer is")

    def nothing_through_nothing(m, x, y):
        n = (y != -100).sum(1)
        return log_probs(m, x, y) / n * n

    hears(check, nothing_through_nothing, "NaN, from a mean of nothing")

    def one_for_nothing(m, x, y):
        return log_probs(m, x, y) + (y == -100).all(1)

    hears(check, one_for_nothing, "a row without a target: your answer is [1.0], should be [0.0]")

    def fills(m, x, y):
        kept = y != -100
        y[y == -100] = 0
        return (m(x).log_softmax(-1).gather(-1, y[..., None])[..., 0] * kept).sum(1)

    hears(check, fills, "changes inputs or labels")


def test_other_mistakes_with_dpo():
    check = preference.check_dpo_loss
    margin = lambda c, r, rc, rr, beta: beta * ((c - rc) - (r - rr))  # noqa: E731
    for unsafe in (
        lambda *about: -margin(*about).sigmoid().log().mean(),
        lambda *about: (1 + (-margin(*about)).exp()).log().mean(),
    ):
        hears(check, unsafe, "answers far apart: NaN or ∞", "makes ln σ at once")
    right_one = lambda *about: dpo(*about).loss.mean()  # noqa: E731
    hears(check, lambda *about: right_one(*about).item(), preference.LOST)
    hears(
        check, lambda c, *others: right_one(c.detach(), *others), "no gradient goes through chosen"
    )
    hears(check, dpo, "your answer is a Preference, a number is wanted")
    hears(check, lambda *about: right_one(*about) + 1, "5 pairs: the loss is")


def test_other_mistakes_with_the_best_policy():
    check = preference.check_best_policy

    def unsafe(p, reward, beta):
        weights = p * (reward / beta).exp()
        return weights / weights.sum(-1, keepdim=True)

    hears(check, unsafe, "β = 0.001: NaN or ∞: exp(r/β) is more")

    zero_at_most = lambda p, r, beta: unsafe(p, r - r.max().clamp(min=0), beta)  # noqa: E731
    hears(check, zero_at_most, "β = 0.001, rewards below 0: NaN or ∞")
    never = lambda p, r, beta: (p.log().clamp(min=-3) + r / beta).softmax(-1)  # noqa: E731
    hears(check, never, "an outcome of probability 0: your answer is")

    def writes(p, reward, beta):
        reward /= beta
        return (p.log() + reward).softmax(-1)

    hears(check, writes, "changes p or reward")
    hears(check, lambda *about: preference.best_policy(*about).flip(0), "β = 0.5: your answer is")
    hears(check, lambda *about: preference.best_policy(*about).tolist(), "is a list, not a tensor")
    alone = lambda p, reward, beta: (p.log() + reward / beta).softmax(0)  # noqa: E731
    assert said(check, alone).startswith("correct for one p; of several, (…, N)")


def test_other_mistakes_with_the_loss_of_a_policy():
    check, loss = preference.check_policy_loss, preference.policy_loss

    def writes(log_p, reward):
        reward -= reward.mean()
        return -(reward.detach() * log_p).mean()

    hears(check, writes, "changes what it was given")
    through = lambda log_p, r: -((r - r.mean()) * log_p).mean()  # noqa: E731
    hears(check, through, "a gradient goes through the rewards as well")
    hears(check, lambda log_p, r: loss(log_p.detach(), r), preference.LOST)
    hears(check, lambda log_p, r: through(log_p.detach(), r), "no gradient goes through ln p")
    hears(check, lambda *about: loss(*about).item(), preference.LOST)
    hears(check, lambda *about: loss(*about) + 1, "6 answers: the loss is")
    double = lambda p, r: loss(p, r) + (p - p.detach()).sum()  # noqa: E731
    hears(check, double, "the loss is right, its gradient in ln p")

    def like_grpo_later(log_p, reward):
        a = reward.detach() - reward.detach().mean()
        return loss(log_p, reward) if a.any() else -(a / a.std() * log_p).mean()

    hears(check, like_grpo_later, "all rewards alike: NaN or ∞: what is divided by")


# -- section 9.8 on a GPU -------------------------------------------------------------------------


def cell_with(text: str) -> str:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    sources = ("".join(cell["source"]) for cell in notebook["cells"])
    [found] = [source for source in sources if source.startswith(text)]
    return found


@pytest.mark.parametrize("kind, taught, steps", [("cpu", 8, 8), ("cuda", 56, 100)])
def test_with_a_gpu_the_same_cells_teach_by_more_questions(kind, taught, steps, monkeypatch):
    """With the storyteller in the place of the real one, and on the CPU whatever the device says:
    each question is asked once, and each answer is met as often as any other, give or take one."""
    asked, met = [], Counter()
    real, tokenizer = load_pretrained(SHIPPED), BPETokenizer.load(SHIPPED)
    tokenizer.chat_template = TEMPLATE

    def padded(chats, pad_id):
        assert pad_id not in (chats[0].ids[-2], None) and len(chats) == 8
        met.update(str(chat.ids) for chat in chats)
        return pad(chats, pad_id)

    class Quick(nn.Module):
        """A loss that LoRA's weights know of, in no time."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, inputs, labels):
            assert inputs.shape == labels.shape and (labels != -100).any()
            return sum(p.square().sum() for p in lora_parameters(self.model)), torch.tensor(1)

    names = {
        "torch": torch, "copy": copy, "real": real, "its_tokenizer": tokenizer, "render": render,
        "pad": padded, "add_lora": add_lora, "merge_lora": merge_lora, "LossModel": Quick,
        "lora_parameters": lora_parameters,
        "chat": lambda model, tokenizer, said, tokens: asked.append(said) or ["It is ", "so. And"],
        "device": types.SimpleNamespace(type=kind),
    }  # fmt: skip
    exec(cell_with("eight = ("), names)
    exec(cell_with("longer = "), names)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_: tensor)
    exec(cell_with("tuned_real = add_lora("), names)
    questions = [said[0]["content"] for said in asked]
    assert len(set(questions)) == len(questions) == taught
    assert len(met) == taught and sum(met.values()) == 8 * steps
    assert max(met.values()) - min(met.values()) <= 1
    assert tokenizer.decode(names["chats"][0].ids).count("It is so. Over.<|im_end|>") == 1
    assert not lora_parameters_left(names["tuned_real"])


def lora_parameters_left(model: nn.Module) -> bool:
    return any(isinstance(part, LoRALinear) for part in model.modules())
