"""What a SmolLM2 looks like: the numbers in config.json, checked."""

from dataclasses import asdict, dataclass, fields


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
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = None

    def __post_init__(self):
        if type(self.tie_word_embeddings) is not bool:
            raise ValueError(
                f"tie_word_embeddings must be true or false, got {self.tie_word_embeddings!r}"
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            ids = value if type(value) is list and name == "eos_token_id" else [value]
            if not all(token is None or type(token) is int for token in ids):
                raise ValueError(f"{name} must be a token id or null, got {value!r}")
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            if field.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
            if field.type is float and (type(value) not in (int, float) or not 0 < value < 1e30):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
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
        ValueError, naming the key, for a missing key and for anything that this model is not.
        """
        rope = d.get("rope_parameters") or d.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise ValueError(f"rope_parameters must be an object with rope_theta, got {rope!r}")
        d = {**d, "rope_theta": rope.get("rope_theta", d.get("rope_theta"))}
        expected = {
            "model_type": ("llama", d.get("model_type")),
            "hidden_act": ("silu", d.get("hidden_act", "silu")),
            "attention_bias": (False, d.get("attention_bias", False)),
            "mlp_bias": (False, d.get("mlp_bias", False)),
            "attention_dropout": (0, d.get("attention_dropout", 0) or 0),
            "rope_interleaved": (False, d.get("rope_interleaved", False)),
            "rope_type": ("default", rope.get("rope_type", rope.get("type", "default"))),
            "quantization_config": (None, d.get("quantization_config")),
        }
        for key, (want, got) in expected.items():
            if got != want:
                raise ValueError(
                    f"not a SmolLM2: {key} is {got!r}, this model has {want!r} only: load it with "
                    "transformers"
                )
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
