"""Checks of notebook 8's first half: what work waits for, and the loss with its own gradient."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smol.lesson import kind
from smol.lesson.checks.slips_train import ask_and_explain
from smol.lesson.exercise import ask, exercise, expect, expect_close, expect_equal, expect_like
from smol.train.loss import loss_and_slope

# -- 8.1: what work waits for ---------------------------------------------------------------------


def times_of(launches: float, moved: float, flops: float, machine: dict) -> dict[str, float]:
    """Seconds of each of the three, by name."""
    return {
        "launches": launches * machine["launch"],
        "memory": moved / machine["bandwidth"],
        "arithmetic": flops / machine["peak"],
    }


def waits_for(launches: float, moved: float, flops: float, machine: dict) -> tuple[str, float]:
    """What the work waits for, and its seconds at the least."""
    times = times_of(launches, moved, flops, machine)
    name = max(times, key=times.get)
    return name, times[name]


def _smallest(*work) -> tuple[str, float]:
    times = times_of(*work)
    return min(times, key=times.get), min(times.values())


def _misreckoned(launch=None, bandwidth=None, peak=None) -> Callable:
    def wrong(launches, moved, flops, machine):
        times = times_of(launches, moved, flops, machine)
        for name, slip, amount, rate in (
            ("launches", launch, launches, machine["launch"]),
            ("memory", bandwidth, moved, machine["bandwidth"]),
            ("arithmetic", peak, flops, machine["peak"]),
        ):
            times[name] = slip(amount, rate) if slip else times[name]
        name = max(times, key=times.get)
        return name, times[name]

    return wrong


WAITS = {
    "that is the smallest of the three: the largest one is waited for": _smallest,
    "the three were added up: they go on at the same time, so the largest counts": (
        lambda *work: (waits_for(*work)[0], sum(times_of(*work).values()))
    ),
    "the launches were divided by the seconds of one: multiply": (
        _misreckoned(launch=lambda n, seconds: n / seconds)
    ),
    "the bytes were multiplied by bytes per second: divide": (
        _misreckoned(bandwidth=lambda n, rate: n * rate)
    ),
    "the FLOPs were multiplied by FLOPs per second: divide": (
        _misreckoned(peak=lambda n, rate: n * rate)
    ),
    "milliseconds, 1,000 times too much: seconds are wanted": (
        lambda *work: (waits_for(*work)[0], 1000 * waits_for(*work)[1])
    ),
    "max of pairs goes by the name first: max(times, key=times.get)": (
        lambda *work: max(times_of(*work).items())
    ),
    "the seconds are right, the name is not that of the largest": (
        lambda *work: (_smallest(*work)[0], waits_for(*work)[1])
    ),
}
WORKS = ((1000, 1e9, 1e9), (10, 5e11, 1e9), (10, 1e9, 7e14), (3, 0, 0))
MACHINES = (
    {"launch": 1e-5, "bandwidth": 1e12, "peak": 1e14},
    {"launch": 0.5, "bandwidth": 2e10, "peak": 2e11},
)
NAMES = ("launches", "memory", "arithmetic")


@exercise(instead=waits_for)
def check_waits_for(answer):
    wanted = kind.parts(2, "a name and seconds")
    for machine in MACHINES:
        for work in WORKS:
            name, seconds = ask(wanted, answer, *work, dict(machine))
            want, least = waits_for(*work, machine)
            said = "{} launches, {:.0e} bytes, {:.0e} FLOPs".format(*work)
            known = kind.text(name, "the name") in NAMES
            expect(known, f"the name is {name!r}, not one of {', '.join(NAMES)}")
            seconds = kind.number(seconds, "the second part")
            if name == want and math.isclose(seconds, least, rel_tol=1e-6):
                continue
            for says, wrong in WAITS.items():
                other, slipped = wrong(*work, machine)
                same = name == other and math.isclose(seconds, slipped, rel_tol=1e-6)
                expect(not same, f"{said}: {says}")
            expect_equal(name, want, f"{said}: it waits for")
            expect_close(seconds, least, f"{said}: the seconds")


# -- 8.2: the loss and its slope ------------------------------------------------------------------


def _loss(logits, targets, /, kept=None, p=None, onehot=1.0, loss=None, slope=None, low=False):
    """The loss and its slope, or either with one slip."""
    keeps = targets != -100
    at = targets.where(keeps, 0)
    log_p = logits.log_softmax(-1) if low else logits.float().log_softmax(-1)
    nats = -log_p.gather(1, at[:, None])[:, 0]
    kept = {"loss": keeps, "slope": keeps, **(kept or {})}
    total = (nats * kept["loss"]).sum()
    made = (p or torch.exp)(log_p) - onehot * F.one_hot(at, logits.size(1))
    made = made * (kept["slope"][:, None] if torch.is_tensor(kept["slope"]) else 1)
    if loss:
        total = loss(total, keeps)
    return total, slope(made, keeps) if slope else made


def _slip(**slip) -> Callable:
    return functools.partial(_loss, **slip)


def _only_p_is_kept(logits, targets):
    """In a row without a target nothing is taken off, and p stays."""
    loss, slope = _loss(logits, targets)
    return loss, slope + logits.float().softmax(-1) * (targets == -100)[:, None]


def _all_with_all(logits, targets):
    """The losses as a column, times `kept` as a row."""
    keeps = targets != -100
    log_p = logits.float().log_softmax(-1)
    column = log_p.gather(1, targets.where(keeps, 0)[:, None])
    return -(column * keeps).sum(), _loss(logits, targets)[1]


def _taken_off_log_p(logits, targets):
    keeps = targets != -100
    onehot = F.one_hot(targets.where(keeps, 0), logits.size(1))
    slope = (logits.float().log_softmax(-1) - onehot).exp() * keeps[:, None]
    return _loss(logits, targets)[0], slope


def _taken_off_whole_columns(logits, targets):
    keeps = targets != -100
    slope = logits.float().softmax(-1)
    slope[:, targets.where(keeps, 0)] -= 1
    return _loss(logits, targets)[0], slope * keeps[:, None]


def _every_target(logits, targets):
    keeps = targets != -100
    log_p = logits.float().log_softmax(-1)
    return -(log_p[:, targets.where(keeps, 0)] * keeps).sum(), _loss(logits, targets)[1]


def _over_rows(logits, targets):
    keeps, at = targets != -100, targets.where(targets != -100, 0)
    log_p, rows = logits.float().log_softmax(0), torch.arange(len(logits))
    slope = (log_p.exp() - F.one_hot(at, logits.size(1))) * keeps[:, None]
    return -(log_p[rows, at] * keeps).sum(), slope


def _without_token_0(logits, targets):
    return _loss(logits, targets.where(targets > 0, -100))


SLOPE = {
    "the onehot is missing: p − onehot": _slip(onehot=0.0),
    "upside down: p − onehot, not onehot − p": _slip(slope=lambda s, kept: -s),
    "rows without a target have the gradient p, it should be 0: multiply by kept": (
        _only_p_is_kept
    ),
    "rows without a target have a gradient, as if their target were 0: multiply by kept": (
        _slip(kept={"slope": 1.0})
    ),
    "rows without a target are in the loss, as if their target were 0: multiply by kept": (
        _slip(kept={"loss": 1.0})
    ),
    "rows without a target are in the loss and in the gradient: multiply both by kept": (
        _slip(kept={"loss": 1.0, "slope": 1.0})
    ),
    "that is the mean, the sum is wanted": (
        _slip(loss=lambda loss, kept: loss / kept.sum(), slope=lambda s, kept: s / kept.sum())
    ),
    "the loss is the mean, the sum is wanted": _slip(loss=lambda loss, kept: loss / kept.sum()),
    "the gradient is the mean's, the sum's is wanted": (
        _slip(slope=lambda s, kept: s / kept.sum())
    ),
    "the loss has the wrong sign: it is −ln p": _slip(loss=lambda loss, kept: -loss),
    "that is ln p − onehot: p is its exp": _slip(p=lambda log_p: log_p),
    "the losses are (N, 1) times (N,), which is (N, N): one number of each row, (N,)": (
        _all_with_all
    ),
    "the onehot was taken off ln p, before the exp: p first, then minus 1": _taken_off_log_p,
    "one is to be taken off at one place of each row: two index tensors, [rows, at]": (
        _taken_off_whole_columns
    ),
    "log_p[:, at] is (N, N), every row with every target: log_p[rows, at]": _every_target,
    "softmax over the rows: over the tokens, log_softmax(-1)": _over_rows,
    "token 0 is a target too: only −100 is none": _without_token_0,
}
RAISED_BY_SLOPE = {
    "out of bounds": "−100 is no index: put a token in its place, and multiply by kept at the end",
    "out of range": "−100 is no index: put a token in its place, and multiply by kept at the end",
    "Class values must be": "one_hot takes no −100: put a token in its place first",
    "same number of dimensions": "gather wants an index of as many dimensions: targets[:, None]",
    "must match the size": "kept is one for each row: kept[:, None] where it meets (N, V)",
}


def _no_kept_target() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 5), torch.tensor([-100, -100])


def _wide() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 6) * 200, torch.tensor([0, 5, 2])


@exercise
def check_loss_and_slope(answer):
    logits, targets = torch.randn(6, 9), torch.tensor([3, 0, -100, 8, -100, 3])
    both = kind.parts(2, "the loss and its gradient")
    for given, labels in (
        (logits, targets),
        (logits[:1], targets[:1]),
        (logits.bfloat16(), targets),
        _wide(),
        _no_kept_target(),
    ):
        what = f"logits {list(given.shape)}, {str(given.dtype)[6:]}"
        copies = given.clone(), labels.clone()
        made = ask_and_explain(RAISED_BY_SLOPE, answer, *copies, kind=both)
        changed = not torch.equal(copies[0], given) or not torch.equal(copies[1], labels)
        expect(not changed, "your function changes what it was given: work on a copy")
        want = loss_and_slope(given, labels)
        loss = torch.as_tensor(kind.number(made[0], "the loss"), dtype=torch.float32)
        slope = expect_like(made[1], want[1], f"{what}: the gradient")
        lost = slope.isnan().any() or loss.isnan() or loss.isinf()
        said = "exp of a large logit is ∞, a small p is 0 and its ln −∞. log_softmax does neither"
        expect(not lost, f"{what}: NaN or ∞: {said}")
        if _alike(loss, want[0]) and _alike(slope, want[1]):
            continue
        for says, wrong in SLOPE.items():
            slipped = wrong(given, labels)
            same = _alike(loss, slipped[0]) and _alike(slope, slipped[1])
            expect(not same, f"{what}: {says}")
        expect_close(loss, want[0], f"{what}: the loss")
        expect_close(slope, want[1], f"{what}: the gradient")


def _alike(a: Tensor, b: Tensor) -> bool:
    same = a.shape == b.shape
    return same and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5, equal_nan=True)


# -- 8.3: chunk by chunk --------------------------------------------------------------------------


def own_gradient(
    h, W, targets, chunk, /, last=True, add=True, whole=False, loss_of=None, d_h=None
):
    """Loss and both gradients, chunk by chunk, or with one slip."""
    loss, d_rows, d_head = 0.0, torch.zeros_like(h), torch.zeros_like(W)
    chunk = len(h) if whole else chunk
    end = len(h) if last else len(h) - chunk + 1
    for at in range(0, end, chunk):
        part = slice(at, at + chunk)
        nats, slope = loss_and_slope(h[part] @ W.T, targets[part])
        loss = loss_of(loss, nats) if loss_of else loss + nats
        d_rows[part] = slope @ W
        d_head = (d_head if add else 0) + slope.T @ h[part]
    return torch.as_tensor(loss), d_h(d_rows, chunk) if d_h else d_rows, d_head


def _first_only(d_rows: Tensor, chunk: int) -> Tensor:
    d_rows[chunk:] = 0
    return d_rows


OWN = {
    "the head's gradient is the last chunk's alone: add them up, +=": (
        functools.partial(own_gradient, add=False)
    ),
    "the last rows, fewer than a chunk, are left out: range(0, len(h), chunk)": (
        functools.partial(own_gradient, last=False)
    ),
    "the loss is the last chunk's alone: add them up": (
        functools.partial(own_gradient, loss_of=lambda loss, nats: nats)
    ),
    "that is the mean over the targets: the sum is wanted, and its gradients": (
        lambda *about: tuple(t / (about[2] != -100).sum() for t in own_gradient(*about))
    ),
    "only the first chunk's rows have a gradient: is a return inside the loop?": (
        functools.partial(own_gradient, d_h=_first_only)
    ),
    "the head's gradient and the loss are the last chunk's alone: add them up": (
        functools.partial(own_gradient, add=False, loss_of=lambda loss, nats: nats)
    ),
}
RAISED_BY_OWN = {
    "Size does not match": "a chunk of rows wants a chunk of targets: targets[part]",
    "index out of": "a chunk of rows wants a chunk of targets: targets[part]",
    "size mismatch": "check the shapes: (N, V)(V, D) for h's gradient, (V, N)(N, D) for W's",
    "shapes cannot be multiplied": "check the shapes: (N, V)(V, D) for h's gradient, (V, N)(N, D) "
    "for W's",
    "must match": "check the shapes: a chunk's gradient belongs to a chunk's rows, d_h[part]",
}


class _Widest(TorchDispatchMode):
    """The most rows of logits that anything made, for a head (columns, width)."""

    def __init__(self, columns: int, width: int):
        super().__init__()
        self.columns, self.width, self.rows = columns, width, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        view = any(result.alias_info for result in func._schema.returns)  # W.T, as a rule
        rows = isinstance(out, Tensor) and not view and out.shape[1:] == (self.columns,)
        if rows and out.size(0) != self.width:  # (D, V) is a head that was turned
            self.rows = max(self.rows, out.size(0))
        return out


@exercise
def check_own_gradient(answer):
    three = kind.parts(3, "the loss, the gradient of h, the gradient of W")
    targets = torch.tensor([3, 0, -100, 16, -100, 3, 5, 1, 16, -100, 2])
    for chunk in (4, 11, 1, 50):
        h, W = torch.randn(11, 6), torch.randn(17, 6)
        with _Widest(columns=17, width=6) as logits:
            made = ask_and_explain(
                RAISED_BY_OWN, answer, h.clone(), W.clone(), targets.clone(), chunk, kind=three
            )
        what, want = f"11 rows in chunks of {chunk}", own_gradient(h, W, targets, chunk)
        loss = torch.as_tensor(kind.number(made[0], "the loss"), dtype=torch.float32)
        d_h = expect_like(made[1], want[1], f"{what}: the gradient of h")
        d_W = expect_like(made[2], want[2], f"{what}: the gradient of W")
        got = loss, d_h, d_W
        if not all(map(_alike, got, want)):
            for says, wrong in OWN.items():
                slipped = wrong(h, W, targets, chunk)
                expect(not all(map(_alike, got, slipped)), f"{what}: {says}")
            expect_close(loss, want[0], f"{what}: the loss")
            expect_close(d_h, want[1], f"{what}: the gradient of h")
            expect_close(d_W, want[2], f"{what}: the gradient of W")
        expect(
            logits.rows <= chunk,
            f"{what}: right, but {logits.rows} rows of logits were there at once",
        )
