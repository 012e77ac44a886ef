"""What the usual checks see of fifty planted bugs, beside the ladder: `parity`.

The bugs go into several small trained models (`patient.py`), where each also gets a ladder, and
into the real one, where only the checks that cost a forward pass are tried. A check that asks a
model one question depends on the question: so the figures are ranges.
"""

import copy
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smol.bench.patient import CUT, doctor_of, loss_of, trained_patient
from smol.model import SmolLM2
from smol.parity import MUTANTS, Mutant, ladder
from smol.pretrained import from_reference, load_reference
from smol.tokenizer import BPETokenizer

SEEDS = range(5)
LAYER = 15  # of the real model's 30, from 0: where a layer's bug is planted
# For each of these the healthy model is sure of one answer. Two more are 16 and 160 random tokens
# said twice, cut off before the last.
PROMPTS = (
    "The capital of France is",
    "The opposite of hot is",
    "Water freezes at 0 degrees",
    "To be, or not to",
    "The sun rises in the east and sets in the",
    "def add(a, b):\n    return a +",
    "Once upon a time there was a little girl who lived in a small village",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe "
    "capital of France is",
)


class Look(NamedTuple):
    """What four usual checks look at."""

    shapes: dict[str, tuple[int, ...]]  # of every weight and of the logits
    count: int  # of parameters
    answers: list[int]  # the likeliest token after each prompt
    losses: list[float]  # of each text


def look(model: SmolLM2, prompts: list[Tensor], texts: list[Tensor] | None = None) -> Look:
    """Each prompt is a tensor (B, T) of B prompts; without `texts` they are the texts too."""
    with torch.no_grad():
        logits = [model(ids) for ids in prompts]
        of_texts = logits if texts is None else [model(ids) for ids in texts]
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes |= {f"logits {i}": tuple(one.shape) for i, one in enumerate(logits)}
    return Look(
        shapes,
        sum(p.numel() for p in model.parameters()),
        [token for one in logits for token in one[:, -1].argmax(-1).tolist()],
        [
            loss_of(lambda _, said=said: said, ids).item()
            for said, ids in zip(of_texts, texts or prompts, strict=True)
        ],
    )


def alarms(sick: Look, healthy: Look) -> dict:
    """Which checks see that `sick` is not `healthy`: for the answers and losses one each."""
    pairs = zip(sick.losses, healthy.losses, strict=True)
    return {
        "shapes": sick.shapes != healthy.shapes,
        "count": sick.count != healthy.count,
        "argmax": [a != b for a, b in zip(sick.answers, healthy.answers, strict=True)],
        "loss": [not abs(a / b - 1) < 0.01 for a, b in pairs],  # so that NaN is seen
    }


def planted(model: SmolLM2, mutant: Mutant, layer: int | None) -> SmolLM2:
    """The model with a bug, without a copy of its weights: a bug exchanges them, if at all."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # one of the bugs draws a new head
        return mutant(copy.deepcopy(model, tensors), layer)


def examine(patient: SmolLM2, doctor: nn.Module, held_out: Tensor, layer: int = 1) -> dict:
    """bug -> `alarms`, with what the ladder says: whether it sees it, and names the place.

    AssertionError where a check cries at the healthy patient: then it says nothing of a sick one.
    """

    def checked(model: SmolLM2, place: str | None) -> dict:
        report = ladder(model, doctor, held_out[:2, :48])
        seen = alarms(look(model, [held_out[:, :CUT]], [held_out]), healthy)
        right = report.first is not None and f"{report.first}.".startswith(f"{place}.")
        return {**seen, "ladder": not report.ok, "places": right}

    healthy = look(patient, [held_out[:, :CUT]], [held_out])
    _expect_quiet(checked(patient, None))
    rows = {
        name: checked(planted(patient, mutant, layer), mutant.place(layer))
        for name, mutant in MUTANTS.items()
    }
    _expect_quiet(checked(patient, None))  # no bug has stayed behind
    return rows


def _expect_quiet(seen: dict) -> None:
    for check, cries in seen.items():
        if any(cries) if isinstance(cries, list) else cries:
            raise AssertionError(f"the check {check!r} cries where there is no bug")


def by_prompt(rows: dict, check: str) -> list[int]:
    """How many of the bugs each prompt sees (or each text, for the loss)."""
    return [sum(column) for column in zip(*(row[check] for row in rows.values()), strict=True)]


def summary(rows: dict) -> dict:
    """How many of the bugs each check catches; one answer, by the prompt that it answers."""
    argmax = sorted(by_prompt(rows, "argmax"))
    return {
        "argmax": {
            "least": argmax[0],
            "median": statistics.median_low(argmax),
            "most": argmax[-1],
            "all": sum(any(row["argmax"]) for row in rows.values()),
        },
        "loss": by_prompt(rows, "loss")[0],
        **{c: sum(r[c] for r in rows.values()) for c in ("ladder", "places", "shapes", "count")},
    }


def patients(seeds=SEEDS, steps: int = 301) -> tuple[list[dict], dict]:
    """The `summary` of each small model; and for each bug how many of all their prompts, of their
    losses and of their ladders see it."""
    found, by_bug = [], {name: {"argmax": 0, "loss": 0, "ladder": 0} for name in MUTANTS}
    for seed in seeds:
        patient, held_out = trained_patient(seed, steps)
        answers = look(patient, [held_out[:, :CUT]]).answers
        right = sum(a == b for a, b in zip(answers, held_out[:, CUT].tolist(), strict=True))
        rows = examine(patient, doctor_of(patient), held_out)
        one = summary(rows)
        found.append({"seed": seed, "prompts": len(answers), "healthy_right": right, **one})
        for name, row in rows.items():
            by_bug[name]["argmax"] += sum(row["argmax"])
            by_bug[name]["loss"] += row["loss"][0]
            by_bug[name]["ladder"] += row["ladder"]
        argmax = one["argmax"]
        print(
            f"small model {seed}, {right} of {len(answers)} answers right: one answer sees "
            f"{argmax['least']} to {argmax['most']} bugs (median {argmax['median']}), all of them "
            f"{argmax['all']}, the loss {one['loss']}, the ladder {one['ladder']} "
            f"(place: {one['places']}), the count {one['count']}, shapes {one['shapes']}"
        )
    return found, by_bug


def real_prompts(tokenizer: BPETokenizer) -> dict[str, Tensor]:
    """What each prompt is -> its ids (1, T): `PROMPTS`, and random tokens said twice."""
    found = {text: torch.tensor([tokenizer.encode(text)]) for text in PROMPTS}
    for count in (16, 160):
        ids = torch.randint(1000, 20_000, (count,), generator=torch.Generator().manual_seed(1))
        found[f"{count} random tokens said twice"] = torch.cat((ids, ids[:-1]))[None]
    return found


def real(model: SmolLM2, prompts: dict[str, Tensor], layer: int | None = LAYER) -> dict:
    """The checks that cost one forward pass, for each bug in one layer (None: in all of them)."""
    healthy, ids = look(model, list(prompts.values())), list(prompts.values())
    rows = {
        name: alarms(look(planted(model, mutant, layer), ids), healthy)
        for name, mutant in MUTANTS.items()
    }
    _expect_quiet(alarms(look(model, ids), healthy))  # no bug has stayed behind
    argmax, loss = by_prompt(rows, "argmax"), by_prompt(rows, "loss")
    for text, one, two in zip(prompts, argmax, loss, strict=True):
        print(f"  {text[-40:]!r:44} its answer sees {one:2}, its loss {two:2}")
    unseen = [name for name, row in rows.items() if not any(row["argmax"] + row["loss"])]
    print(f"  seen by none of these answers or losses: {len(unseen)}")
    return {
        "layer": layer,
        "argmax": argmax,
        "argmax_all": sum(any(row["argmax"]) for row in rows.values()),
        "loss": loss,
        "loss_all": sum(any(row["loss"]) for row in rows.values()),
        **{check: sum(row[check] for row in rows.values()) for check in ("shapes", "count")},
        "unseen": unseen,
    }


def real_patient(reference: nn.Module) -> dict:
    """`real` in layer `LAYER` and in all layers; without weights that say something, why not."""
    about = {"weights": reference.weights}
    if reference.weights == "random":
        why = "the weights are random: such a model gives no answers to be wrong"
        print(f"the real model: skipped, {why}")
        return {**about, "skipped": why}
    model, tokenizer = from_reference(reference), BPETokenizer.load(reference.place)
    prompts = real_prompts(tokenizer)
    answers = [tokenizer.decode([token]) for token in look(model, list(prompts.values())).answers]
    about |= {"prompts": list(prompts), "tokens": [ids.size(1) for ids in prompts.values()]}
    print(f"the real model, {reference.weights} weights, a bug in layer {LAYER}:")
    about |= {"answers": answers, **real(model, prompts)}
    print("the same, a layer's bug in all layers:")
    return {**about, "everywhere": real(model, prompts, None)}


def parity() -> dict:
    """Parity of SmolLM2-135M, and what of 50 planted bugs each kind of check sees."""
    start, reference = time.perf_counter(), load_reference()
    seeded = torch.Generator().manual_seed(0)
    ids = torch.randint(reference.config.vocab_size, (1, 16), generator=seeded)
    report = ladder(from_reference(reference), reference, ids)
    print(report)
    if not report.ok:
        raise AssertionError(f"not the same model: {report.first}")
    figures = {
        "weights": reference.weights,
        "rungs": {rung.name: rung.seen for rung in report.rungs},
        "bugs": len(MUTANTS),
        "real": real_patient(reference),
    }
    del reference
    small, by_bug = patients()
    print(f"{len(MUTANTS)} bugs, in {time.perf_counter() - start:.0f} s")
    return {**figures, "patients": small, "by_bug": by_bug}
