"""Eleven rungs, from the keys of the weights to the cache: where does a model part from theirs?

Each rung says "exact" or how large the largest difference is and where, and a rung that fails
names a place: the first module whose numbers part from the reference.
"""

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smol.model import SmolLM2
from smol.parity.compare import Call, compare, trace


@dataclass
class Rung:
    """One comparison: what it is called, whether it held, what it saw, and where it broke."""

    name: str
    ok: bool
    seen: str
    place: str | None = None


@dataclass
class Report:
    """What the ladder found. `print(report)` is the table."""

    rungs: list[Rung] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(rung.ok for rung in self.rungs)

    @property
    def first(self) -> str | None:
        """None, or the first place that diverges: a module's path, or the name of a rung."""
        return next((rung.place or rung.name for rung in self.rungs if not rung.ok), None)

    def __str__(self) -> str:
        lines = []
        for rung in self.rungs:
            seen = rung.seen if rung.place is None else f"{rung.place}: {rung.seen}"
            lines.append(f"{'ok  ' if rung.ok else 'FAIL'}  {rung.name:<15}  {seen}")
        verdict = "the same model" if self.ok else f"first divergence: {self.first}"
        return "\n".join([*lines, f"=>    {verdict}"])


def ladder(ours: SmolLM2, reference: nn.Module, input_ids: Tensor) -> Report:
    """Climbs all eleven rungs with `input_ids` (B, T), T of at least 8, and reports each.

    `reference` is a LlamaForCausalLM with the same weights, dtype and device. Forward numbers
    must be equal to the bit, the loss within 1e-6; gradients and cached logits, whose sums run in
    another order, within 1e-5 of the largest value in fp32 (2e-2 in half precision), and what is
    inside a cached run within 1e-4. A rung that raises has failed. ValueError for shorter ids.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        climb = _Climb(ours, reference, input_ids)
        report = Report()
        for name, rung in climb.rungs():
            try:
                with torch.enable_grad():  # the caller may have switched gradients off
                    ok, seen, place = rung()
            except Exception as error:  # a model so broken that it does not run has diverged
                message = str(error).splitlines() or [""]
                ok, seen, place = False, f"raised {type(error).__name__}: {message[0]}", None
            report.rungs.append(Rung(name, ok, seen, place))
    return report


class _Climb:
    """The rungs; each returns (ok, what it saw, place or None)."""

    def __init__(self, ours, reference, ids):
        if ids.dim() != 2 or ids.size(1) < 8:
            raise ValueError(
                f"the ladder needs input_ids (B, T) with T ≥ 8, got {tuple(ids.shape)}"
            )
        self.ours, self.reference, self.ids = ours, reference, ids
        fp32 = next(reference.parameters()).dtype == torch.float32
        self.tolerance = 1e-5 if fp32 else 2e-2
        self.theirs = trace(reference, lambda: self._theirs(ids))

    def _theirs(self, ids):
        # Their cache would copy k and v even here, which with odd head sizes changes a last bit.
        return self.reference(ids, use_cache=False).logits

    def rungs(self):
        return [
            ("weights", self.weights),
            ("modules", self.modules),
            ("modules in bf16", self.modules_bf16),
            ("hidden states", self.hidden_states),
            ("logits", self.logits),
            ("long logits", self.long_logits),
            ("greedy", self.greedy),
            ("loss", self.loss),
            ("gradients", self.gradients),
            ("causality", self.causality),
            ("cache", self.cache),
        ]

    def weights(self):
        theirs = {k.removeprefix("model."): t for k, t in self.reference.state_dict().items()}
        ours = self.ours.state_dict()
        for key in [*theirs, *(k for k in ours if k not in theirs)]:
            place = key.rpartition(".")[0]
            if key not in ours or key not in theirs:
                return False, f"{key} is in only one of the two", place
            difference = compare(ours[key], theirs[key])
            if not difference.exact:
                return False, f"{key}: {difference}", place
        tied = self.ours.lm_head.weight is self.ours.embed_tokens.weight
        if tied != (self.reference.lm_head.weight is self.reference.model.embed_tokens.weight):
            return False, f"head and embedding are {'one' if tied else 'two'} here", "lm_head"
        return True, f"{len(ours)} tensors, all exact", None

    def modules(self):
        first = self._rotary(trace(self.ours, lambda: self.ours(self.ids)))
        return first or self._each_module(self.theirs, torch.Tensor.clone)

    def modules_bf16(self):
        # Eight tokens of one row: a CPU without bf16 instructions takes its time.
        calls = {
            name: Call(call.x[:1, :8].bfloat16(), call.out)
            for name, call in self.theirs.items()
            if name.endswith(("norm", "self_attn", "mlp"))
        }
        return self._each_module(calls, torch.Tensor.bfloat16)

    def _each_module(self, calls: dict[str, Call], cast):
        """Each of our modules on the reference's own activations, beside the reference's."""
        cos, sin = (cast(t) for t in next(c.cos_sin for c in self.theirs.values() if c.cos_sin))
        count = 0
        for name, call in calls.items():
            if name == "rotary_emb" or name.endswith("act_fn"):
                continue
            mine = self.ours.get_submodule(name)
            yours = self.reference.get_submodule(self._their_path(name))
            if (dtype := cast(call.out).dtype) != call.out.dtype:
                mine, yours = (copy.deepcopy(module).to(dtype) for module in (mine, yours))
            T, ours_extra, theirs_extra = call.x.size(1), (), {}
            if name.endswith("self_attn") or name.rpartition(".")[0] == "layers":
                ours_extra = (cos[0, :T], sin[0, :T])
                theirs_extra = {"position_embeddings": (cos[:, :T], sin[:, :T])}
            if name.endswith("self_attn"):
                theirs_extra["attention_mask"] = None
            with torch.no_grad():
                out = yours(call.x, **theirs_extra)
                out = out[0] if isinstance(out, tuple) else out
                difference = compare(mine(call.x, *ours_extra), out)
            if not difference.exact:
                return False, str(difference), name
            count += 1
        return True, f"{count} modules on real activations, all exact", None

    def _their_path(self, name: str) -> str:
        return name if name == "lm_head" else f"model.{name}"

    def _rotary(self, mine: dict[str, Call], theirs: dict[str, Call] | None = None):
        """None, or the failed result where RoPE's tables differ from the reference's."""
        ours = next(call.cos_sin for call in mine.values() if call.cos_sin)
        other = next(c.cos_sin for c in (theirs or self.theirs).values() if c.cos_sin)
        for name, table, expected in zip(("cos", "sin"), ours, other, strict=True):
            difference = compare(table, expected[0] if expected.dim() == 3 else expected)
            if not difference.exact:
                return False, f"{name} {difference}", "rotary_emb"
        return None

    def hidden_states(self):
        mine = trace(self.ours, lambda: self.ours(self.ids))
        count = 0
        for name, call in self.theirs.items():
            if name not in ("embed_tokens", "norm") and name.rpartition(".")[0] != "layers":
                continue
            if name not in mine:
                return False, "never called", name
            for what, a, b in (("in", mine[name].x, call.x), ("out", mine[name].out, call.out)):
                difference = compare(a, b)
                if not difference.exact:
                    # What comes in wrong was spoilt between two modules: no module is to blame.
                    place = name if what == "out" else None
                    return False, f"{what} of {name}: {difference}", place
            count += 1
        return True, f"after the embedding, {count - 2} layers and the norm, all exact", None

    def _logits(self, ids):
        with torch.no_grad():
            return self.ours(ids), self._theirs(ids)

    def logits(self):
        difference = compare(*self._logits(self.ids))
        return difference.exact, f"{list(self.ids.shape)} tokens: {difference}", None

    def long_logits(self):
        config = self.ours.config
        T = min(1100, config.max_position_embeddings)
        ids = torch.randint(config.vocab_size, (1, T)).to(self.ids.device)
        logits = {}
        mine = trace(self.ours.layers[0], lambda: logits.update(ours=self.ours(ids)))
        theirs = trace(
            self.reference.model.layers[0], lambda: logits.update(theirs=self._theirs(ids))
        )
        failed = self._rotary(mine, theirs)
        if failed:
            return failed
        difference = compare(logits["ours"], logits["theirs"])
        return difference.exact, f"{T} positions: {difference}", None

    def greedy(self):
        room, texts = self.ours.config.max_position_embeddings, []
        new_tokens = min(8, room - 1)
        with torch.no_grad():
            for logits in (self.ours, self._theirs):
                ids = self.ids[:, : room - new_tokens]
                for _ in range(new_tokens):
                    ids = torch.cat((ids, logits(ids)[:, -1:].argmax(-1)), dim=1)
                texts.append(ids[:, -new_tokens:])
        return torch.equal(*texts), f"{new_tokens} tokens: {compare(*texts)}", None

    def loss(self):
        ours, theirs = self._losses()
        # transformers pads the labels by one that does not count: its mean may round elsewhere.
        difference = compare(ours, theirs)
        seen = "exact" if difference.exact else f"relative difference {difference.relative:.1g}"
        return difference.relative <= 1e-6, f"{ours.item():.4f}, {seen}", None

    def _losses(self):
        ours = self.ours(self.ids).float()[:, :-1].flatten(0, 1)
        targets = self.ids[:, 1:].flatten()
        return F.cross_entropy(ours, targets), self.reference(
            self.ids, labels=self.ids, use_cache=False
        ).loss

    def gradients(self):
        grads = []
        for model, loss in zip((self.ours, self.reference), self._losses(), strict=True):
            named = {k.removeprefix("model."): p for k, p in model.named_parameters()}
            grad = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            grads.append(dict(zip(named, grad, strict=True)))
        mine, theirs = grads
        # Errors of a gradient travel towards the input: look from the output downwards.
        order = {name: i for i, name in enumerate(self.theirs)}
        largest = 0.0
        for key in sorted(theirs, key=lambda k: -order[k.rpartition(".")[0]]):
            place = key.rpartition(".")[0]
            if mine.get(key) is None:
                return False, f"{key} gets no gradient", place
            difference = compare(mine[key], theirs[key])
            largest = max(largest, difference.relative)
            if not difference.relative <= self.tolerance:
                return False, f"{key}: {difference}", place
        seen = "all exact" if largest == 0 else f"largest relative difference {largest:.1g}"
        if extra := sorted(mine.keys() - theirs.keys()):
            return (
                False,
                f"{extra[0]} is no parameter of the reference",
                extra[0].rpartition(".")[0],
            )
        return True, f"{len(theirs)} parameters, {seen}", None

    def causality(self):
        """A token changed at `cut` must leave every earlier number as it was."""
        cut = self.ids.size(1) // 2
        changed = self.ids.clone()
        changed[:, cut] = (changed[:, cut] + 1) % self.ours.config.vocab_size
        before = trace(self.ours, lambda: self.ours(self.ids))
        after = trace(self.ours, lambda: self.ours(changed))
        for name, call in before.items():
            difference = compare(after[name].out[:, :cut], call.out[:, :cut])
            if not difference.exact:
                return False, f"token {cut} reaches back: {difference}", name
        logits = compare(*(self.ours(ids)[:, :cut].detach() for ids in (changed, self.ids)))
        return logits.exact, f"token {cut} changed, the {cut} logits before it: {logits}", None

    def cache(self):
        """The text in pieces (one token, several, then singly) must give what it gives whole."""
        B, T = self.ids.shape
        cache = self.ours.new_cache(B, T)
        sizes = [T // 2, *[1] * 2, T - T // 2 - 4, *[1] * 2]
        texts = [self.ids, self.ids.flip(1)]  # the second one after a reset
        worst = 0.0
        for text, again in zip(texts, ("", " after a reset"), strict=True):
            if cache.length:
                return False, f"{cache.length} tokens left after a reset", None
            pieces = text.split([size for size in sizes if size], dim=1)
            whole = trace(self.ours, lambda text=text: self.ours(text))
            parts = trace(self.ours, lambda pieces=pieces: [self.ours(p, cache) for p in pieces])
            failed = self._rotary(parts, whole)
            if failed:
                return failed
            for name, call in whole.items():
                difference = compare(parts[name].out, call.out)
                worst = max(worst, difference.relative if name == "lm_head" else 0.0)
                allowed = self.tolerance if name == "lm_head" else max(self.tolerance, 1e-4)
                if not difference.relative <= allowed:
                    return False, f"{difference}{again}", name
            cache.reset()
        seen = "exact" if worst == 0 else f"largest relative difference {worst:.1g}"
        lengths = ", ".join(str(size) for size in sizes if size)
        return True, f"pieces of {lengths} tokens, twice: {seen}", None
