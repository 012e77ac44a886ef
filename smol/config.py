"""What a SmolLM2 looks like: the numbers in config.json, checked."""

import warnings
from dataclasses import asdict, dataclass, fields

from smol.checks import flag, number, shown, whole

# Transformers' defaults for what a checkpoint's numbers do not depend on.
STAND_INS = {"initializer_range": 0.02, "max_position_embeddings": 2048}


@dataclass(frozen=True)
class SmolLM2Config:
    """The shape of a model. Field names are config.json's keys; defaults are SmolLM2-135M.

    Raises ValueError, naming the field, where the numbers fit no model.
    """

    vocab_size: int = 49152
    hidden_size: int = 576
    intermediate_size: int = 1536
    num_hidden_layers: int = 30
    num_attention_heads: int = 9
    num_key_value_heads: int = 3
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    rope_theta: float = 100_000.0
    initializer_range: float = 1 / 24
    tie_word_embeddings: bool = True
    # Generation ends at eos_token_id. The other two are carried for transformers: nothing here
    # begins or pads a text by itself.
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = None

    def __post_init__(self):
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is int:
                value = whole(name, value)
            elif field.type is float:
                value = number(name, value, "above 0 and below 1e30", lambda x: 0 < x < 1e30)
            elif field.type is bool:
                value = flag(name, value)
            elif name == "eos_token_id" and isinstance(value, list | tuple):
                value = [whole(f"each {name}", token, least=-1) for token in value]
            elif value is not None:
                value = whole(name, value, least=-1)  # -1: none, in old files
            object.__setattr__(self, name, value)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into num_attention_heads "
                f"{self.num_attention_heads} heads of an even size (RoPE rotates pairs)"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: each kv head serves a group"
            )

    @property
    def head_dim(self) -> int:
        """The width of one head of attention, hd: even, as RoPE rotates pairs."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, d: dict) -> "SmolLM2Config":
        """The config in a Hugging Face config.json of either generation.

        transformers 4 wrote `rope_theta`; transformers 5 writes `rope_parameters`. Neither has a
        default here: a theta that is silently 10,000 loads, runs and talks nonsense. Raises
        ValueError, naming the key, for a missing key that decides the numbers, for one that is
        there twice with two values, and for anything that this model is not.

        What decides no number may be missing and is then transformers' default: a warning says so
        of the context. Keys that LlamaForCausalLM does not look at either are left out.
        """
        if not isinstance(d, dict):
            raise ValueError(f"a config is what a config.json holds, a dict, got {shown(d)}")
        d = _standing_in(d)
        ropes = {key: d.get(key) or {} for key in ("rope_parameters", "rope_scaling")}
        for key, rope in ropes.items():
            if not isinstance(rope, dict):
                raise ValueError(f"{key} must be an object with rope_theta, got {shown(rope)}")
        types = [r.get("rope_type", r.get("type", "default")) for r in ropes.values()]
        expected = {
            "model_type": ("llama", d.get("model_type")),
            "hidden_act": ("silu", d.get("hidden_act", "silu")),
            "attention_bias": (False, d.get("attention_bias", False)),
            "mlp_bias": (False, d.get("mlp_bias", False)),
            "attention_dropout": (0, d.get("attention_dropout", 0) or 0),
            "rope_interleaved": (False, d.get("rope_interleaved", False)),
            "rope_type": ("default", next((t for t in types if t != "default"), "default")),
            "quantization_config": (None, d.get("quantization_config")),
        }
        for key, (want, got) in expected.items():
            if got != want:
                raise ValueError(
                    f"not a SmolLM2: {key} is {got!r}, this model has {want!r} only: load it with "
                    "transformers"
                )
        thetas = [r.get("rope_theta") for r in (*ropes.values(), d)]
        thetas = [theta for theta in thetas if theta is not None]
        if any(theta != thetas[0] for theta in thetas):
            raise ValueError(f"rope_theta is {' and '.join(map(shown, thetas))}: which one is it?")
        d["rope_theta"] = thetas[0] if thetas else None
        special = ("bos_token_id", "eos_token_id", "pad_token_id")
        for field in fields(cls):
            if field.name not in special and d.get(field.name) is None:
                raise ValueError(
                    f"config.json has no {field.name}: add what the weights were trained with"
                )
        config = cls(**{f.name: d.get(f.name) for f in fields(cls)})
        if d.get("head_dim") not in (None, config.head_dim):
            raise ValueError(
                f"not a SmolLM2: head_dim is {d['head_dim']}, this model has hidden_size / "
                f"num_attention_heads = {config.head_dim} only: load it with transformers"
            )
        return config

    def to_dict(self) -> dict:
        """A config.json that transformers 4 and 5 both read as a LlamaForCausalLM."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "head_dim": self.head_dim,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            **asdict(self),
        }


def _standing_in(d: dict) -> dict:
    """A config.json with transformers' defaults for what is missing and decides no number."""
    missing = {key: value for key, value in STAND_INS.items() if d.get(key) is None}
    if "max_position_embeddings" in missing:
        warnings.warn(
            "config.json has no max_position_embeddings: longer texts than "
            f"{STAND_INS['max_position_embeddings']} tokens will be refused",
            stacklevel=4,
        )
    return {**d, **missing}
