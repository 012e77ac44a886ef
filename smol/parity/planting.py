"""A bug planted into one living model: `Mutant`.

A mutant is an edit of smol/model.py, the few characters that somebody had different. Calling it
compiles the edited source and gives the model's modules the edited classes; weights, shapes and
every other model stay as they are.
"""

import difflib
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

import smol.model
from smol.model import SmolLM2


@dataclass(frozen=True)
class Mutant:
    """One bug. Calling it plants it into a model, in place, and returns the model.

    `where` is the place that a good check should name: a module's path ("*" for the layer's
    number) or, where no module is to blame, a rung of the ladder. `edits` are (old, new) pairs of
    source text; a bug in the weights has an `action` instead. `part` is the part of the model that
    it belongs to, for tables.
    """

    name: str
    where: str
    story: str
    edits: tuple[tuple[str, str], ...] = ()
    action: Callable[[SmolLM2, int], None] | None = None
    part: str = ""

    def __call__(self, model: SmolLM2, layer: int | None = None) -> SmolLM2:
        """Plants the bug: in every layer, or only in `layer` where it is a layer's bug.

        Raises ValueError for a model that is not smol.model's SmolLM2.
        """
        if not _ours(model):
            raise ValueError(f"a bug can be planted into smol.model's SmolLM2, not {type(model)}")
        if self.action is not None:
            self.action(model, layer or 0)
            return model
        mutated = self._compile()
        one_layer = layer is not None and "*" in self.where
        for module in (model.layers[layer] if one_layer else model).modules():
            if _ours(module):
                module.__class__ = getattr(mutated, type(module).__name__)
        return model

    def place(self, layer: int = 0) -> str:
        """`where` with the layer's number in it."""
        return self.where.replace("*", str(layer))

    def diff(self) -> str:
        """The bug as a patch of smol/model.py: the lines that go (-) and come (+)."""
        if self.action is not None:
            return f"(in the weights) {self.story}"
        old, new = inspect.getsource(smol.model), self._source()
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if line[:2] not in ("--", "++", "@@"))

    def _source(self) -> str:
        source = inspect.getsource(smol.model)
        for old, new in self.edits:
            if source.count(old) != 1:
                raise ValueError(f"mutant {self.name}: {old!r} stands {source.count(old)} times")
            source = source.replace(old, new)
        return source

    def _compile(self) -> types.ModuleType:
        module = types.ModuleType(f"smol.model with {self.name}")
        exec(compile(self._source(), module.__name__, "exec"), module.__dict__)
        return module


def _ours(module: nn.Module) -> bool:
    """Whether its class comes from smol.model, as it is or with a bug in it."""
    return type(module).__module__.startswith("smol.model")
