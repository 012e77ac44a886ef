"""LoRA: in place of every weight of a block, two thin matrices beside it are trained.

What fine-tuning changes in a matrix has, to a good approximation, few independent directions. So
W (O, I) stays as it is, and what is added to it is (α / r) B A, with A (r, I) and B (O, r): of
1,536 × 576 weights, r = 8 leaves 2 % to train. (Hu et al. 2021, section 4.1.)
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smol.checks import number, path, shown, whole
from smol.files import writable, written_beside
from smol.model import SmolLM2

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
PREFIX = "base_model.model.model."  # peft's wrapper, transformers' head, transformers' model


class LoRALinear(nn.Module):
    """A Linear that stays as it is, and a change of rank `r` beside it, `alpha` / r times.

    A is drawn as a Linear's weight is (uniform, Kaiming's bound); B is 0, and so is the change:
    with both 0 neither would get a gradient. The scale keeps the change's size when r is changed.
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float):
        super().__init__()
        like = {"bias": False, "device": base.weight.device, "dtype": base.weight.dtype}
        self.base_layer, self.r, self.alpha, self.on = base, r, alpha, True
        self.lora_A = nn.Linear(base.in_features, r, **like)
        self.lora_B = nn.Linear(r, base.out_features, **like)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))  # ± 1 / √in
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + self.lora_B(self.lora_A(x)) * (self.alpha / self.r) if self.on else y

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The Linear with the change in its weight, W + (α / r) B A, rounded once."""
        W, A, B = (w.weight for w in (self.base_layer, self.lora_A, self.lora_B))
        wide = torch.promote_types(W.dtype, torch.float32)
        W.copy_(W.to(wide) + B.to(wide) @ A.to(wide) * (self.alpha / self.r))
        return self.base_layer


def add_lora(model: SmolLM2, r: int = 8, alpha: float = 16.0) -> SmolLM2:
    """The same model, in place, with a `LoRALinear` for each Linear of its blocks, and only those
    to train: the tied head is also the embedding, and stays.

    Until the first step it gives what it gave, to the bit. A is drawn from PyTorch's own random
    numbers. ValueError for a model that has them, for `r` below 1 and `alpha` not above 0.
    """
    if not isinstance(model, SmolLM2):
        raise ValueError(f"add_lora takes a SmolLM2, got {shown(model)}")
    if _adapters(model):
        raise ValueError("the model has LoRA already: merge it first (merge_lora)")
    r = whole("r", r)
    alpha = number("alpha", alpha, "above 0 and finite", lambda x: 0 < x < math.inf)
    model.requires_grad_(False)  # and what is new needs one
    linears = [name for name, m in model.layers.named_modules() if isinstance(m, nn.Linear)]
    for name in linears:
        model.layers.set_submodule(name, LoRALinear(model.layers.get_submodule(name), r, alpha))
    return model


def lora_parameters(model: SmolLM2) -> list[nn.Parameter]:
    """A and B of each adapter, in the order of the layers. ValueError for a model without."""
    return [p for _, m in _some(model) for p in (m.lora_A.weight, m.lora_B.weight)]


def merge_lora(model: SmolLM2) -> SmolLM2:
    """The same model, in place, as it was built, with what was learned in its weights, and all of
    them to train. ValueError for a model without LoRA.

    In fp32 its outputs are those of before within 1e-5; in bf16 a weight is rounded to 8 bits
    again, and a small change may be lost.
    """
    for name, module in _some(model):
        model.set_submodule(name, module.merged())
    return model.requires_grad_(True)


@contextmanager
def without_lora(model: SmolLM2) -> Iterator[SmolLM2]:
    """Within, the model gives what it gave before LoRA was added: the reference of `dpo`."""
    adapters = [module for _, module in _some(model)]
    for module in adapters:
        module.on = False
    try:
        yield model
    finally:
        for module in adapters:
            module.on = True


def save_lora(model: SmolLM2, directory: str | Path, base: str | None = None) -> None:
    """Writes what was added, and nothing else, in peft's form: adapter_config.json and
    adapter_model.safetensors. `base` is the model it belongs to, a folder or a hub repository.

    `peft.PeftModel.from_pretrained` loads it. Files are whole or not there, as in
    `save_pretrained`, which is for the merged model. ValueError for a model without LoRA.
    """
    adapters = _some(model)
    _, first = adapters[0]
    directory = path("directory", directory)
    writable(directory)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": first.r,
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name, _ in adapters}),
        "inference_mode": True,
    }
    with written_beside(directory, WEIGHTS, CONFIG) as (weights, text):
        save_file(_tensors(model), weights, metadata={"format": "pt"})
        text.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_lora(model: SmolLM2, directory: str | Path) -> SmolLM2:
    """The same model, in place, with the adapter that `save_lora` wrote, or peft for the same
    layers, to go on training or to merge.

    Raises FileNotFoundError where there is none, and ValueError for another kind of adapter and
    for one that was made for other layers or another size.
    """
    directory = path("directory", directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name} is missing: an adapter's folder needs it")
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS)
        kind, r, alpha = (config[key] for key in ("peft_type", "r", "lora_alpha"))
    except (ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{directory} holds no whole adapter: save or fetch it again") from error
    others = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")
    if kind != "LORA" or (found := [key for key in others if config.get(key)]):
        what = kind if kind != "LORA" else found[0]
        raise ValueError(f"{directory} is an adapter of another kind ({what}): peft loads it")
    add_lora(model, r, alpha)
    own = _tensors(model)
    if {k: t.shape for k, t in own.items()} != {k: t.shape for k, t in tensors.items()}:
        for name, module in _some(model):
            model.set_submodule(name, module.base_layer)
        model.requires_grad_(True)
        raise ValueError(
            f"the adapter in {directory} is not for every Linear of this model's "
            "blocks: take the model that it was made for, or load it with peft"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(tensors[key])
    return model


def _adapters(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear)]


def _some(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    if not (found := _adapters(model)):
        raise ValueError("the model has no LoRA: add it first (add_lora)")
    return found


def _tensors(model: SmolLM2) -> dict[str, Tensor]:
    """A and B of each adapter by peft's keys."""
    return {
        f"{PREFIX}{name}.{part}.weight": getattr(module, part).weight.detach().contiguous()
        for name, module in _some(model)
        for part in ("lora_A", "lora_B")
    }
