"""How near to the best of all policies the methods come, where that one is known.

Three things are made to be liked, and what becomes of the rest is measured. A story's hero has a
pet, and the fewer legs the better: with 35 animals the best policy is a line of code, and so is
the most reward that any policy can have at its distance from the reference. DPO and the policy
gradient are held beside it; so is DPO on few pairs, again and again. Last, whole stories with the
grammar as their judge: one that it can read is worth 1, another 0.
"""

import copy
import math
from collections import Counter
from itertools import product
from statistics import mean

import torch
from torch import Tensor

from smol.bench.heads import rounded
from smol.bench.timing import Run
from smol.finetune import (
    best_policy,
    best_reward,
    dpo,
    kl,
    log_probs,
    outcomes,
    policy_loss,
)
from smol.generate import generate
from smol.model import SmolLM2
from smol.pretrained import load_pretrained
from smol.stories import corpus, grammar
from smol.stories.pets import LEGS, openings
from smol.tokenizer import BPETokenizer

FOLDER = "assets/smol-stories"
BETAS, SHOWN, SEEDS = (0.2, 0.3, 0.5), 0.3, (0, 1, 2)
TRAIN, HELD_OUT = 256, 64  # beginnings of stories
STEPS, ROWS, DRAWN, RATE = 40, 16, 256, 1e-3  # pairs are drawn for each of 16 beginnings a step
PAIRS, ROUNDS = 32, 40  # few pairs, each met forty times
END, LONGEST = 0, 320  # the token that ends a story, and how many it may have
FEW = {  # pairs: how DPO is done, again and again
    "β 0.1": {"beta": 0.1},
    "β 1": {"beta": 1.0},
    "β 0.1, with SFT": {"beta": 0.1, "sft": 1.0},
}
STORY_RATE, STORY_SEEDS = 7e-4, (0,)


class Pets:
    """Beginnings of stories, which animal the reference would have there, and what it is worth."""

    def __init__(self, train: int = TRAIN, held_out: int = HELD_OUT):
        self.model, self.tokenizer = load_pretrained(FOLDER), BPETokenizer.load(FOLDER)
        prompts = [[END, *self.tokenizer.encode(text)] for text in openings(train + held_out, 1)]
        self.prompts, self.held_out = prompts[:train], prompts[train:]
        self.tokens = [self.tokenizer.encode(f" {animal}")[0] for animal in LEGS]
        self.reward = torch.tensor([1 - legs / 4 for legs in LEGS.values()] + [0.0])
        with torch.no_grad():
            self.reference = outcomes(self.model, self.prompts, self.tokens)  # (train, 36), ln p
            self.unseen = outcomes(self.model, self.held_out, self.tokens).double().exp()

    def worth(self, p: Tensor) -> dict[str, float]:
        """Of p (B, 36) after the held-out beginnings: its distance, its reward, the best reward
        at that distance, and the share that it has of what can be gained there."""
        reward, start = self.reward.double(), self._mean(self.unseen)
        nats, got = kl(p, self.unseen).mean().item(), self._mean(p)
        best = best_reward(self.unseen, reward, max(nats, 0.0))
        gained = (got - start) / (best - start) if best > start + 1e-9 else 0.0
        return {"kl": nats, "reward": got, "best": best, "share": got / best, "gained": gained}

    def _mean(self, p: Tensor) -> float:
        return (p * self.reward.double()).sum(-1).mean().item()

    @torch.no_grad()
    def probabilities(self, model: SmolLM2) -> Tensor:
        """p (held-out, 36) of a model, fp64."""
        return outcomes(model, self.held_out, self.tokens).double().exp()

    def frontier(self) -> list[dict[str, float]]:
        """What the best policies are worth, from far away to the reference."""
        betas = [10 ** (k / 20) for k in range(-28, 21)]
        ways = [best_policy(self.unseen, self.reward.double(), beta) for beta in betas]
        return [
            {"beta": beta, "kl": kl(p, self.unseen).mean().item(), "reward": self._mean(p)}
            for beta, p in zip(betas, ways, strict=True)
        ]


def liked(
    pets: Pets, rows: Tensor, drawn: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`drawn` pairs for each row of the reference: the indices of the outcomes chosen and
    rejected, (B, drawn) each.

    Both are the reference's own samples, and whoever compares them likes a with probability
    σ(reward a - reward b), as Bradley and Terry assume: those assumptions make π* DPO's optimum.
    """
    p, reward = pets.reference[rows].exp(), pets.reward
    drawn = torch.multinomial(p, 2 * drawn, replacement=True, generator=generator)
    a, b = drawn.chunk(2, dim=1)
    wins = torch.rand(a.shape, generator=generator) < torch.sigmoid(reward[a] - reward[b])
    return a.where(wins, b), b.where(wins, a)


def tuned(pets: Pets, beta: float, seed: int, how: str = "dpo", steps: int = STEPS) -> SmolLM2:
    """A model made to like few legs: by DPO from fresh pairs, or ("policy") by the policy
    gradient, whose reward is less β ln π/π_ref, the price of the way."""
    model, generator = copy.deepcopy(pets.model), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        rows = torch.randint(len(pets.prompts), (ROWS,), generator=generator)
        theirs = pets.reference[rows]
        ours = outcomes(model, [pets.prompts[i] for i in rows], pets.tokens)  # (B, 36)
        if how == "dpo":
            pair = liked(pets, rows, DRAWN, generator)
            four = [t.gather(1, i).flatten() for t in (ours, theirs) for i in pair]
            loss = dpo(*four, beta).loss.mean()
        else:
            own = torch.multinomial(ours.detach().exp(), DRAWN, True, generator=generator)
            log_p, before = (t.gather(1, own).flatten() for t in (ours, theirs))
            reward = pets.reward[own].flatten() - beta * (log_p.detach() - before)
            loss = policy_loss(log_p, reward)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def overdone(
    pets: Pets, seed: int, beta: float, sft: float = 0.0, rounds: int = ROUNDS
) -> list[dict[str, float]]:
    """DPO on PAIRS pairs only, round after round, with `sft` times -ln p of the chosen answers
    added. Every few rounds what the training shows, and what is true."""
    model, generator = copy.deepcopy(pets.model), torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(pets.prompts), generator=generator)[:PAIRS]
    pair, theirs = liked(pets, rows, 1, generator), pets.reference[rows]
    prompts, found = [pets.prompts[i] for i in rows], []
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE / 4, weight_decay=0.0)
    for step in range(rounds + 1):
        ours = outcomes(model, prompts, pets.tokens)
        result = dpo(*(t.gather(1, i).flatten() for t in (ours, theirs) for i in pair), beta)
        if step % 5 == 0 or step in (1, 2, 3):
            found.append(
                {
                    "round": step,
                    "margin": result.margin.mean().item(),
                    "right": (result.margin > 0).double().mean().item(),
                    "chosen": result.chosen.mean().item(),
                    "rejected": result.rejected.mean().item(),
                    **pets.worth(p := pets.probabilities(model)),
                    "else": p[:, -1].mean().item(),
                }
            )
        optimizer.zero_grad()
        (result.loss.mean() - sft * ours.gather(1, pair[0]).mean()).backward()
        optimizer.step()
    return found


# -- whole stories --------------------------------------------------------------------------------


def written(model: SmolLM2, count: int, generator: torch.Generator) -> list[list[int]]:
    """`count` stories at temperature 1, from the token before each to the one that ends it."""
    ids = generate(
        model,
        torch.full((count, 1), END),
        LONGEST,
        temperature=1.0,
        stop_ids=END,
        generator=generator,
    )
    return [row[: row.index(END, 1) + 1] if END in row[1:] else row for row in ids.tolist()]


def laid(stories: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Inputs and labels (B, T): every token after the first is a target."""
    T = max(map(len, stories)) - 1
    inputs, labels = torch.full((len(stories), T), END), torch.full((len(stories), T), -100)
    for row, ids in enumerate(stories):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        labels[row, : len(ids) - 1] = torch.tensor(ids[1:])
    return inputs, labels


def plot_of(story: list[int], tokenizer: BPETokenizer) -> str:
    """A story's plot, as its first choice names it: "story 3". "" where the grammar cannot read
    the story."""
    try:
        text = tokenizer.decode(story[1:-1]) if story[-1] == END else ""
        return grammar().choices(text)[0].made
    except ValueError:
        return ""


def spread(names: list[str]) -> float:
    """How many equally frequent ones would be as mixed: exp of the entropy."""
    shares = [n / len(names) for n in Counter(names).values()]
    return math.exp(-sum(share * math.log(share) for share in shares))


def summed_up(plots: list[str]) -> dict[str, float]:
    """Of stories, by their plots: the share that can be read, and how mixed the plots are."""
    read = [plot for plot in plots if plot]
    return {"read": len(read) / len(plots), "plots": spread(read) if read else 0.0}


def story_run(seed: int, steps: int = 36, count: int = 32, looked: int = 200) -> dict:
    """The policy gradient with the grammar as judge: what `looked` stories are like before, and,
    every five steps, those of the last five, with the loss after them."""
    reference, tokenizer = load_pretrained(FOLDER), BPETokenizer.load(FOLDER)
    model, generator = copy.deepcopy(reference), torch.Generator().manual_seed(seed)
    held_out = corpus().strip("\n").split("\n\n")[-240:][:40]
    held_out = laid([[END, *tokenizer.encode(story), END] for story in held_out])

    @torch.no_grad()
    def state(plots: list[str], **more: float) -> dict[str, float]:
        loss = -log_probs(model, *held_out).sum() / (held_out[1] != -100).sum()
        row = {**more, **summed_up(plots), "loss": loss.item()}
        print("stories", row := rounded(row))
        return row

    betas = (0.9, 0.95)
    optimizer = torch.optim.AdamW(model.parameters(), STORY_RATE, betas, weight_decay=0.0)
    first = written(model, looked, torch.Generator().manual_seed(seed + 1))
    before, rows, plots = state([plot_of(story, tokenizer) for story in first]), [], []
    for step in range(1, steps + 1):
        batch = written(model, count, generator)
        now = [plot_of(story, tokenizer) for story in batch]
        log_p = log_probs(model, *laid(batch))
        optimizer.zero_grad()
        policy_loss(log_p, torch.tensor([float(bool(plot)) for plot in now])).backward()
        optimizer.step()
        plots += now
        if step % 5 == 1:
            with torch.no_grad():
                far = (log_p - log_probs(reference, *laid(batch))).mean().item()
            rows.append(state(plots, step=step, kl=far, tokens=mean(map(len, batch))))
            plots = []
    return {"seed": seed, "before": before, "rows": rows}


# -- all of it ------------------------------------------------------------------------------------


def preferences(run: Run | None = None) -> dict:
    """Every run: a quarter of an hour on one core."""
    run, pets = run or Run(), Pets()
    reward = pets.reward.double()
    best = best_policy(pets.unseen, reward, SHOWN).mean(0)
    shown = {"beta": SHOWN, "reference": pets.unseen.mean(0).tolist(), "best": best.tolist()}
    note = lambda **found: run.note(**rounded(found))  # noqa: E731
    note(names=[*LEGS, "something else"], worth=reward.tolist())
    note(start=pets.worth(pets.unseen), frontier=pets.frontier())
    for how in ("dpo", "policy"):
        rows = []
        for beta, seed in product(BETAS, SEEDS):
            p = pets.probabilities(tuned(pets, beta, seed, how))
            rows.append({"beta": beta, "seed": seed, **pets.worth(p)})
            print(how, rounded(rows[-1]))
            if (beta, seed) == (SHOWN, SEEDS[0]):
                shown[how] = p.mean(0).tolist()
        note(**{how: rows}, shown=shown)
    for name, options in FEW.items():
        runs = [{"seed": seed, "rows": overdone(pets, seed, **options)} for seed in SEEDS]
        ends = ", ".join(format(one["rows"][-1]["reward"], ".2f") for one in runs)
        print(f"{PAIRS} pairs, {ROUNDS} rounds, {name}: the reward comes to {ends}")
        note(few={**run.figures.get("few", {}), name: runs})
    for seed in STORY_SEEDS:
        note(stories=[*run.figures.get("stories", []), story_run(seed)])
    return run.figures
