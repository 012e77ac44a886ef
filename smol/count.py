"""What a model costs, from its config alone.

Symbols as in smol/model.py. One multiply-add is two FLOPs.
"""

from smol.config import SmolLM2Config


def count_parameters(config: SmolLM2Config) -> dict[str, int]:
    """Parameters by group, and their "total". A tied head is the embedding, and counts 0."""
    D, F, V, L = (
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        config.num_hidden_layers,
    )
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    groups = {
        "embed_tokens": V * D,
        "q_proj": L * D * queries,
        "k_proj": L * D * keys,
        "v_proj": L * D * keys,
        "o_proj": L * queries * D,
        "gate_proj": L * D * F,
        "up_proj": L * D * F,
        "down_proj": L * F * D,
        "norms": (2 * L + 1) * D,
        "lm_head": 0 if config.tie_word_embeddings else V * D,
    }
    return {**groups, "total": sum(groups.values())}


def flops_per_token(
    config: SmolLM2Config, seq_len: int, causal: bool = False, backward: bool = True
) -> int:
    """FLOPs of the matrix products for one token of a sequence of `seq_len`, on average.

    Each weight of a matrix is used once a token (the embedding not at all, the head always), each
    query meets `seq_len` keys, or with `causal` the (T + 1) / 2 that it may see. The backward pass
    takes twice the forward one: a product for the inputs' gradient, one for the weights'.
    """
    parameters = count_parameters(config)
    matrices = parameters["total"] - parameters["embed_tokens"] - parameters["norms"]
    if config.tie_word_embeddings:
        matrices += config.vocab_size * config.hidden_size
    keys = seq_len + 1 if causal else 2 * seq_len  # twice their number, to stay in whole numbers
    width = config.num_attention_heads * config.head_dim
    scores_and_values = 2 * config.num_hidden_layers * width * keys
    return (2 * matrices + scores_and_values) * (3 if backward else 1)
