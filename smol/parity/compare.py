"""Two tensors beside each other, and every module's tensors while a model runs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Difference:
    """How two tensors differ; printed, it is "exact" or a short sentence."""

    equal: float  # the fraction of elements that are equal (0.0 and -0.0 are)
    largest: float  # the largest absolute difference; inf where one is NaN or the shapes differ
    where: tuple[int, ...] | None  # its index; None where the shapes or dtypes differ
    scale: float  # the largest absolute value in the second tensor

    @property
    def exact(self) -> bool:
        return self.equal == 1.0

    @property
    def relative(self) -> float:
        """The largest difference as a fraction of the largest value; 0 where exact."""
        return 0.0 if self.exact else self.largest / max(self.scale, 1e-30)

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        if self.where is None:
            return "another shape or dtype"
        percent = f"{min(100 * self.equal, 99.9):.1f} % equal"
        return f"{percent}, largest difference {self.largest:.2g} at {list(self.where)}"


def compare(ours: Tensor, theirs: Tensor) -> Difference:
    """How far `ours` is from `theirs`: exact, or how much of it, how large, and where."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Difference(0.0, float("inf"), None, 0.0)
    if torch.equal(ours, theirs):
        return Difference(1.0, 0.0, (0,) * ours.dim(), 0.0)
    ours, theirs = ours.detach(), theirs.detach()
    apart = (ours.float() - theirs.float()).abs_().nan_to_num_(nan=float("inf"))
    apart[ours == theirs] = 0.0  # inf - inf is no difference
    where = tuple(int(i) for i in torch.unravel_index(apart.argmax(), apart.shape))
    scale = theirs.float().nan_to_num(nan=0.0).abs().max().item()
    # Counted, for a mean in fp32 of many millions with one that differs is 1.0.
    equal = (ours == theirs).sum().item() / ours.numel()
    return Difference(equal, apart.max().item(), where, scale)


@dataclass
class Call:
    """One module's call: the first tensor in, the first tensor out, and RoPE's tables."""

    x: Tensor
    out: Tensor
    cos_sin: tuple[Tensor, Tensor] | None = None


def trace(model: nn.Module, run: Callable[[], object]) -> dict[str, Call]:
    """Every module's input and output while `run()` runs the model, in the order they finish.

    Keys are module paths without Hugging Face's "model."; where a module is called several times
    (a cached run), its calls are joined along time.
    """
    calls: dict[str, Call] = {}

    def record(name: str):
        def hook(module, args, kwargs, out):
            x = args[0] if args else kwargs.get("hidden_states")
            cos_sin = kwargs.get("position_embeddings") or tuple(args[1:3])
            out = out[0] if isinstance(out, tuple) else out
            if not isinstance(x, Tensor) or not isinstance(out, Tensor):
                return
            call = Call(x.detach(), out.detach(), cos_sin if len(cos_sin) == 2 else None)
            if name in calls:
                last = calls.pop(name)
                call.x, call.out = (
                    torch.cat((last.x, call.x), 1),
                    torch.cat((last.out, call.out), 1),
                )
                if call.cos_sin is not None:
                    call.cos_sin = tuple(
                        torch.cat(pair, dim=-2)
                        for pair in zip(last.cos_sin, call.cos_sin, strict=True)
                    )
            calls[name] = call

        return hook

    handles = [
        module.register_forward_hook(record(path), with_kwargs=True)
        for name, module in model.named_modules()
        if (path := name.removeprefix("model.")) and not isinstance(module, nn.ModuleList)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls
