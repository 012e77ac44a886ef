"""A model's weights, loaded strictly and saved whole: a folder with config.json and safetensors,
or a .gguf."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from smol.checks import path, shown
from smol.config import SmolLM2Config
from smol.files import check_hash, writable, written_beside
from smol.gguf.read import config_of, read_header, read_tensors, shapes_of
from smol.model import SmolLM2
from smol.pretrained.hub import PUBLISHED, Published, fetch
from smol.terminal import reason

FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them
SHIPPED = Path(__file__).parents[2] / "assets" / "smol-stories"  # trained here, on the stories


def load_pretrained(
    where: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SmolLM2:
    """The SmolLM2 in a folder, a hub repository or a .gguf file, in eval mode, on `device`.

    Reads one model.safetensors, or the shards that model.safetensors.index.json lists. Quantised
    weights of a .gguf become floats of `dtype`. Raises
    FileNotFoundError for a missing file and ValueError for a config that is no SmolLM2, a
    damaged file, of what came from the hub a hash other than the published one, any key or shape
    that does not fit, a `dtype` that cannot be computed in, and a `device` that is not here.
    """
    check_dtype(dtype)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # the second: no CUDA in PyTorch
        raise ValueError(f"device {device!r} is not to be had here: take 'cpu'") from error
    if path("the model", where).suffix == ".gguf":
        config, tensors = read_checked(where, dtype, device)
        return _fill(skeleton(config, where), tensors, where).eval()
    directory = fetch(where)
    config = SmolLM2Config.from_dict(_read_json(directory / "config.json"))
    files = _weight_files(directory)
    known = _published(where)
    if known and known.sha256:
        for file in files:
            check_hash(file, known.sha256)
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        shard = _read_tensors(file, dtype, device)
        if twice := shard.keys() & tensors.keys():
            raise ValueError(f"{file} holds what another shard holds too: {_some(twice)}")
        tensors.update(shard)
    _check_layers(config, tensors, directory)
    return _fill(skeleton(config, directory), tensors, directory).eval()


def read_checked(
    file: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[SmolLM2Config, dict[str, torch.Tensor]]:
    """The config and the weights in a .gguf, whose names and shapes were looked at before any
    weight was made into floats. ValueError where they do not fit the config."""
    header = read_header(file)
    config, shapes = config_of(header), shapes_of(header)
    _check_layers(config, shapes, file)
    _check_fit(skeleton(config, file), shapes, file)
    return config, read_tensors(header, config, dtype, device)


def _check_layers(config: SmolLM2Config, tensors: dict, source) -> None:
    """ValueError for more layers than tensors, before a million blocks are made for nothing."""
    if config.num_hidden_layers > len(tensors):
        raise ValueError(
            f"{source} does not fit its config: {config.num_hidden_layers} layers, and "
            f"{len(tensors)} tensors in all"
        )


class _NoInit(TorchFunctionMode):
    """Leaves torch.nn.init out. On the meta device its normal_ writes nothing, and yet imports the
    whole compiler first: two seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def skeleton(config: SmolLM2Config, source="the config") -> SmolLM2:
    """The model on the meta device: every shape, no memory, and no random number drawn.

    ValueError for a config so large that its shapes cannot be counted.
    """
    try:
        with torch.device("meta"), _NoInit():
            return SmolLM2(config)
    except RuntimeError as error:  # 2³¹ rows of 2³¹ numbers
        raise ValueError(f"{source}: no model is as large as it says: {reason(error)}") from error


def save_pretrained(model: SmolLM2, directory: str | Path) -> None:
    """Writes config.json and model.safetensors as Hugging Face does, in the model's own dtype.

    `AutoModelForCausalLM.from_pretrained(directory)` loads it. A tied head is left out, as in
    the published file. Both files are written beside their places and renamed when both are
    whole and on the disk, so that a full one (OSError) leaves what stood there before. The model
    may be within torch.compile's, DataParallel's or DDP's wrapper. Raises ValueError, before
    anything is written, for what `load_pretrained` would refuse: no SmolLM2, one that is not what
    its config says, one without numbers or in shards.
    """
    while hasattr(model, "_orig_mod") or hasattr(model, "module"):
        model = getattr(model, "_orig_mod", None) or model.module
    if not isinstance(model, SmolLM2):
        raise ValueError(f"save_pretrained takes a SmolLM2, got {shown(model)}")
    _check_savable(model)
    directory, tied = path("directory", directory), model.config.tie_word_embeddings
    writable(directory)
    tensors = {
        _file_key(key): tensor.detach().cpu().contiguous()
        for key, tensor in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    if not tied and model.lm_head.weight is model.embed_tokens.weight:  # a file has each by itself
        tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    config = json.dumps({**model.config.to_dict(), "dtype": dtype}, indent=2) + "\n"
    with written_beside(directory, "model.safetensors", "config.json") as (weights, text):
        save_file(tensors, weights, metadata={"format": "pt"})
        text.write_text(config, encoding="utf-8")


def from_reference(reference: torch.nn.Module) -> SmolLM2:
    """A SmolLM2 with a copy of a Hugging Face model's config and weights, in its dtype."""
    if not hasattr(reference, "config") or not hasattr(reference, "state_dict"):
        raise ValueError(f"the reference must be a model of transformers, got {shown(reference)}")
    config = SmolLM2Config.from_dict(reference.config.to_dict())
    tensors = {key: tensor.clone() for key, tensor in reference.state_dict().items()}
    return _fill(skeleton(config), tensors, "the reference").eval()


def _published(name: str | Path) -> Published | None:
    """What is known of a model of the hub; of a folder here, whatever its name, nothing is."""
    return None if path("the model", name).is_dir() else PUBLISHED.get(str(name))


def _check_savable(model: SmolLM2) -> None:
    """ValueError where `load_pretrained` would refuse what is saved."""
    state, wanted = model.state_dict(), skeleton(model.config).state_dict()
    shapes, fit = ({k: getattr(t, "shape", None) for k, t in s.items()} for s in (state, wanted))
    if shapes != fit:
        wrong = {k for k in shapes.keys() | fit.keys() if shapes.get(k) != fit.get(k)}
        raise ValueError(f"the model is not what its config says: {_some(wrong)}")
    if any(t.is_meta or hasattr(t, "full_tensor") for t in state.values()):
        raise ValueError("the model has shapes only, or is in shards: gather its weights first")
    for tensor in state.values():
        check_dtype(tensor.dtype)
    head, table = state["lm_head.weight"], state["embed_tokens.weight"]
    if model.config.tie_word_embeddings and not _same(head, table):
        raise ValueError("the head differs from the embedding, but tie_word_embeddings is true")


def check_dtype(dtype: torch.dtype) -> None:
    """ValueError for what weights are not kept in here."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):  # float8: no
        raise ValueError(f"dtype must be a float of torch such as torch.bfloat16, got {dtype!r}")


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether they are one, or hold the same: NaN is not equal to itself, and yet the same."""
    if a is b or torch.equal(a, b):
        return True
    alike = a.shape == b.shape and a.dtype == b.dtype
    return (
        alike and torch.equal(a.isnan(), b.isnan()) and torch.equal(*map(torch.nan_to_num, (a, b)))
    )


def _file_key(key: str) -> str:
    return key if key.startswith("lm_head.") else f"model.{key}"


def _fill(model: SmolLM2, tensors: dict[str, torch.Tensor], source) -> SmolLM2:
    """Moves tensors with Hugging Face's keys into a model on the meta device, strictly."""
    _check_fit(model, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, source)
    tied = model.config.tie_word_embeddings
    head, table = tensors.get("lm_head.weight"), tensors["model.embed_tokens.weight"]
    if tied and head is not None and not _same(head, table):
        raise ValueError(
            f"{source} has a head that differs from the embedding, but its config ties them "
            "(tie_word_embeddings): one of the two is wrong"
        )
    tensors = {**tensors, "lm_head.weight": table} if tied else tensors
    state = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    return model


def _check_fit(model: SmolLM2, shapes: dict[str, tuple[int, ...]], source) -> None:
    """ValueError unless each key of the model has one tensor, of its shape, and none is left."""
    expected = {_file_key(key): tensor.shape for key, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings and "lm_head.weight" not in shapes:
        del expected["lm_head.weight"]
    missing, unexpected = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    if missing or unexpected:
        raise ValueError(
            f"{source} does not fit its config: {_some(missing)} missing, "
            f"{_some(unexpected)} with no place in the model"
        )
    for key, shape in expected.items():
        if shapes[key] != tuple(shape):
            raise ValueError(f"{source}: {key} is {shapes[key]}, the config wants {tuple(shape)}")


def _some(keys: set[str]) -> str:
    few = sorted(keys)[:3]
    return (
        f"{len(keys)} keys ({', '.join(few)}{', …' if len(keys) > 3 else ''})" if few else "none"
    )


def _read_json(file: Path) -> dict:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: a checkpoint folder needs it")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))  # Notepad marks its files
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not an object: fetch it again")
    return content


def _weight_files(directory: Path) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        shards = sorted(directory.glob("model-*-of-*.safetensors"))
        if shards:
            return _all_shards(shards)
        pickles = sorted(f.name for f in directory.glob("*.bin"))
        why = f" ({pickles[0]} is a pickle and is not opened: convert it)" if pickles else ""
        raise FileNotFoundError(f"{single} is missing{why}")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map: fetch it again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if name != Path(name).name:
            raise ValueError(f"{index} names {name!r}, which is not a file of its own folder")
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name} is missing: {index.name} lists it")
    return [directory / name for name in names]


def _all_shards(files: list[Path]) -> list[Path]:
    """Shards whose index is missing say by their names how many there are: all of them, or
    FileNotFoundError."""
    count = files[0].stem.rpartition("-of-")[2]
    names = [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    if [file.name for file in files] != names:
        raise FileNotFoundError(
            f"{files[0].parent} holds {len(files)} shards of {count} and no "
            "model.safetensors.index.json: fetch the rest"
        )
    return files


def _read_tensors(file: Path, dtype: torch.dtype, device) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as f:
            kinds = {k: f.get_slice(k).get_dtype() for k in f.keys()}  # noqa: SIM118
            if other := {k: kind for k, kind in kinds.items() if kind not in FLOATS}:
                key, kind = min(other.items())
                raise ValueError(
                    f"{file} holds {key} as {kind}: quantised weights mean nothing without their "
                    "scales, fetch them in one of " + ", ".join(FLOATS)
                )
            # copy: the file's own pages must not stay mapped under a model that may be saved there
            return {k: f.get_tensor(k).to(device, dtype, copy=True) for k in kinds}
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a whole safetensors file ({error}): delete it and fetch it again"
        ) from error
