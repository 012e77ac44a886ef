"""Bugs to order: the ways in which real projects got this model wrong.

A check that has never failed has proved nothing. `MUTANTS[name](model)` plants a bug; the parity
ladder has to catch all of them and name the place (smol/tests/test_parity.py, notebook 3).
"""

import dataclasses
import random

import torch
from torch import nn

from smol.model import SmolLM2
from smol.parity.planting import Mutant


def _untie(model: SmolLM2, layer: int) -> None:
    table = model.embed_tokens.weight
    head = torch.empty_like(table).normal_(std=model.config.initializer_range)
    model.lm_head.weight = nn.Parameter(head)


def _exchange_layers(model: SmolLM2, layer: int) -> None:
    layers, other = model.layers, (layer + 1) % len(model.layers)
    layers[layer], layers[other] = layers[other], layers[layer]


def _kv_weights_swapped(model: SmolLM2, layer: int) -> None:
    attention = model.layers[layer].self_attn
    attention.k_proj.weight, attention.v_proj.weight = (
        attention.v_proj.weight,
        attention.k_proj.weight,
    )


ATTENTION, BLOCK, NORM, MLP = (
    "layers.*.self_attn",
    "layers.*",
    "layers.*.input_layernorm",
    "layers.*.mlp",
)
ROPE, KERNEL, SDPA = (
    "x * cos + torch.cat((-b, a), dim=-1) * sin",
    "F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)",
    "    causal = mask is None and q.size(2) > 1\n",
)
# The naive way to a mask inside sdpa_attention, for the bugs that live in the mask itself.
OWN_MASK = (SDPA, "    causal, mask = False, causal_mask(q.size(2), k.size(2), q.device)\n")
TRIL = "dtype=torch.bool, device=device).tril(S - T)"

_NORM = [
    Mutant(
        "norm_in_input_dtype",
        NORM,
        "no fp32 upcast: nothing changes in fp32, and most numbers do in bf16",
        (("x32 = x.float()", "x32 = x"),),
    ),
    Mutant(
        "norm_weight_before_cast",
        NORM,
        "the weight is applied in fp32, before the cast back: another rounding in bf16",
        (("self.weight * x32.to(x.dtype)", "(self.weight * x32).to(x.dtype)"),),
    ),
    Mutant(
        "layer_norm",
        NORM,
        "LayerNorm for RMSNorm: the mean is taken off as well (SmolLMV2-Base)",
        (("x32 = x.float()", "x32 = x.float() - x.float().mean(-1, keepdim=True)"),),
    ),
    Mutant(
        "eps_1e-6",
        NORM,
        "another model's epsilon: a small difference, everywhere",
        (("keepdim=True) + self.eps)", "keepdim=True) + 1e-6)"),),
    ),
    Mutant(
        "eps_missing",
        NORM,
        "no epsilon: right until a vector is small",
        (("keepdim=True) + self.eps)", "keepdim=True))"),),
    ),
    Mutant(
        "norm_weight_ignored",
        NORM,
        "the learned weight is loaded and never used: invisible while all weights are 1",
        (("return self.weight * x32", "return x32"),),
    ),
]
_ROPE = [
    Mutant(
        "theta_10000",
        "rotary_emb",
        "a default of 10,000 for θ, where the config's own was not found",
        (("c.head_dim, c.rope_theta)", "c.head_dim, 10_000.0)"),),
    ),
    Mutant(
        "rope_exponent",
        "rotary_emb",
        "theta^(-i/hd) for theta^(-2i/hd): every pair but the first turns too fast",
        ((".float() / head_dim", ".float() / (2 * head_dim)"),),
    ),
    Mutant(
        "rope_positions_from_1",
        "rotary_emb",
        "positions start at 1: scores depend on distance only, so no logit can tell",
        (("torch.arange(start, start + T,", "torch.arange(start + 1, start + T + 1,"),),
    ),
    Mutant(
        "rope_positions_bf16",
        "rotary_emb",
        "positions held in bf16: 257 becomes 256, and 1,023 becomes 1,024",
        (("positions.float()[..., None]", "positions.bfloat16().float()[..., None]"),),
    ),
    Mutant(
        "rope_interleaved",
        ATTENTION,
        "neighbours paired, as in the paper, on half-split weights",
        (
            (
                "a, b = x.chunk(2, dim=-1)",
                "a, b = x[..., ::2], x[..., 1::2]\n"
                "    cos, sin = (t.chunk(2, -1)[0].repeat_interleave(2, -1) for t in (cos, sin))",
            ),
            (ROPE, "x * cos + torch.stack((-b, a), dim=-1).flatten(-2) * sin"),
        ),
    ),
    Mutant(
        "rope_sine_lost",
        ATTENTION,
        "complex rotation cast back to real: the sine is gone",
        ((ROPE, "x * cos"),),
    ),
    Mutant(
        "rope_backwards",
        ATTENTION,
        "the rotation turns the other way",
        ((ROPE, ROPE.replace("(-b, a)", "(b, -a)")),),
    ),
    Mutant(
        "rope_on_v",
        ATTENTION,
        "the values are rotated too",
        (
            (
                "q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)",
                "q, k, v = (apply_rope(t, cos, sin) for t in (q, k, v))",
            ),
        ),
    ),
    Mutant(
        "rope_on_q_only",
        ATTENTION,
        "the keys are not rotated: scores depend on where the query is, not on the distance",
        (("apply_rope(q, cos, sin), apply_rope(k, cos, sin)", "apply_rope(q, cos, sin), k"),),
    ),
    Mutant(
        "rope_after_final_norm",
        "logits",
        "the hidden states are rotated once more before the head (SmolLMV2-Base)",
        (
            ("        if cache is not None:\n            cache.length += T\n", ""),
            (
                "return self.lm_head(self.norm(x)) if head else self.norm(x)",
                "heads = self.norm(x).view(*input_ids.shape, -1, self.config.head_dim)\n"
                "        return self.lm_head(apply_rope(heads.transpose(1, 2), cos, sin)"
                ".transpose(1, 2).flatten(2))",
            ),
        ),
    ),
]
_ATTENTION = [
    Mutant(
        "no_mask",
        ATTENTION,
        "every token sees the whole text, its own label included (SmolLM2_GroundUp)",
        ((KERNEL, KERNEL.replace("=causal", "=False")),),
    ),
    Mutant(
        "mask_sees_next",
        ATTENTION,
        "the mask is one column too wide: each token sees its own label",
        (OWN_MASK, (TRIL, TRIL.replace("S - T", "S - T + 1"))),
    ),
    Mutant(
        "mask_hides_self",
        ATTENTION,
        "the mask is one column too narrow: no token sees itself",
        (OWN_MASK, (TRIL, TRIL.replace("S - T", "S - T - 1"))),
    ),
    Mutant(
        "mask_inverted",
        ATTENTION,
        "True meant 'hide' where the mask was made, 'attend' where it is used",
        (OWN_MASK, (TRIL, TRIL + ".logical_not()")),
    ),
    Mutant(
        "scale_missing",
        ATTENTION,
        "scores are not divided by √hd",
        ((KERNEL, KERNEL.replace("mask,", "mask, scale=1.0,")),),
    ),
    Mutant(
        "scale_by_hd",
        ATTENTION,
        "scores are divided by hd, not √hd",
        ((KERNEL, KERNEL.replace("mask,", "mask, scale=1 / q.size(-1),")),),
    ),
    Mutant(
        "scale_by_hidden_size",
        ATTENTION,
        "scores are divided by √D, the size before it was split into heads",
        ((KERNEL, KERNEL.replace("mask,", "mask, scale=(q.size(1) * q.size(-1)) ** -0.5,")),),
    ),
    Mutant(
        "kv_heads_tiled",
        ATTENTION,
        "repeat for repeat_interleave: query head h reads kv head h mod K, not h // group",
        (
            (
                KERNEL,
                "F.scaled_dot_product_attention(q, *(t.repeat(1, q.size(1) // k.size(1), 1, 1) "
                "for t in (k, v)), mask, is_causal=causal)",
            ),
        ),
    ),
    Mutant(
        "k_and_v_swapped",
        ATTENTION,
        "keys passed as values and values as keys",
        (("self.attend(q, k, v, mask)", "self.attend(q, v, k, mask)"),),
    ),
    Mutant(
        "kv_weights_swapped",
        "layers.*.self_attn",
        "k_proj and v_proj have one shape, so a mix-up on loading raises nothing",
        action=_kv_weights_swapped,
    ),
    Mutant(
        "heads_not_transposed_back",
        ATTENTION,
        "(B, H, T, hd) reshaped to (B, T, D) as it is: the heads of one token end up in others",
        (("y.transpose(1, 2).reshape(B, T, -1)", "y.reshape(B, T, -1)"),),
    ),
    Mutant(
        "heads_split_by_view",
        ATTENTION,
        "q viewed as (B, H, T, hd) at once: the right shape, the wrong numbers",
        (
            (
                "q = self.q_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)",
                "q = self.q_proj(x).view(B, -1, T, self.head_dim)",
            ),
        ),
    ),
    Mutant(
        "o_proj_skipped",
        ATTENTION,
        "o_proj is loaded and never called (SmolLMV2-Base)",
        (("self.o_proj(y.transpose(1, 2).reshape(B, T, -1))", "y.transpose(1, 2).flatten(2)"),),
    ),
    Mutant(
        "gradient_cut",
        "layers.*.self_attn.k_proj",
        "every forward number is right, and k_proj never learns",
        (("apply_rope(k, cos, sin)\n", "apply_rope(k.detach(), cos, sin)\n"),),
    ),
]
_MLP = [
    Mutant(
        "gate_and_up_swapped",
        MLP,
        "the activation is on the other branch: the shapes are the same",
        (
            (
                "F.silu(self.gate_proj(x)) * self.up_proj(x)",
                "F.silu(self.up_proj(x)) * self.gate_proj(x)",
            ),
        ),
    ),
    Mutant(
        "gelu_for_silu",
        MLP,
        "GPT-2's activation: close enough to learn with, not to load into",
        (("F.silu(self.gate_proj(x))", "F.gelu(self.gate_proj(x))"),),
    ),
    Mutant(
        "silu_of_product",
        MLP,
        "silu(gate · up) for silu(gate) · up",
        (
            (
                "F.silu(self.gate_proj(x)) * self.up_proj(x)",
                "F.silu(self.gate_proj(x) * self.up_proj(x))",
            ),
        ),
    ),
]
_MODEL = [
    Mutant(
        "post_norm",
        BLOCK,
        "the 2017 order: normalise after the addition, not before the sub-layer",
        (
            (
                "x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)",
                "x = self.input_layernorm(x + self.self_attn(x, cos, sin, mask, cache))",
            ),
            (
                "return x + self.mlp(self.post_attention_layernorm(x))",
                "return self.post_attention_layernorm(x + self.mlp(x))",
            ),
        ),
    ),
    Mutant(
        "norms_exchanged",
        BLOCK,
        "each sub-layer reads through the other's norm",
        (
            ("self.self_attn(self.input_layernorm(x)", "self.self_attn(self.post_X(x)"),
            ("self.mlp(self.post_attention_layernorm(x))", "self.mlp(self.input_layernorm(x))"),
            ("self.post_X(x)", "self.post_attention_layernorm(x)"),
        ),
    ),
    Mutant(
        "parallel_block",
        BLOCK,
        "GPT-J's block: the MLP reads what came in, not what attention made of it",
        (
            (
                "x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)",
                "a = self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)",
            ),
            (
                "return x + self.mlp(self.post_attention_layernorm(x))",
                "return x + a + self.mlp(self.post_attention_layernorm(x))",
            ),
        ),
    ),
    Mutant(
        "residual_dropped",
        BLOCK,
        "the MLP's output replaces the stream instead of being added to it",
        (("return x + self.mlp(", "return self.mlp("),),
    ),
    Mutant(
        "layer_skipped",
        "layers.1",
        "an off-by-one in the loop: layer 1 is never called",
        (
            (
                "for i, layer in enumerate(self.layers):",
                "for i, layer in [p for p in enumerate(self.layers) if p[0] != 1]:",
            ),
        ),
    ),
    Mutant(
        "layers_exchanged",
        BLOCK,
        "two layers in each other's place, as after sorting keys as text: 1, 10, 11, 2",
        action=_exchange_layers,
    ),
    Mutant(
        "embedding_scaled",
        "hidden states",
        "embeddings times √D, as in the 2017 paper and in Gemma",
        (("x = self.embed_tokens(input_ids)", "x = self.embed_tokens(input_ids) * 24.0"),),
    ),
    Mutant(
        "final_norm_missing",
        "norm",
        "the head reads the raw stream",
        (("self.lm_head(self.norm(x))", "self.lm_head(x)"),),
    ),
    Mutant(
        "head_untied",
        "lm_head",
        "the head is a matrix of its own, left at its random start",
        action=_untie,
    ),
    Mutant(
        "softmax_in_the_model",
        "logits",
        "probabilities returned as logits: every argmax is right, every loss is wrong",
        (("self.lm_head(self.norm(x))", "self.lm_head(self.norm(x)).softmax(-1)"),),
    ),
]
_CACHE = [
    Mutant(
        "cache_position_off_by_one",
        "rotary_emb",
        "with a cache, every later token is placed one position early",
        (("start + T, device=device)", "start + T, device=device) - int(start > 0)"),),
    ),
    Mutant(
        "cache_position_restarts",
        "rotary_emb",
        "with a cache, every call counts its positions from 0 again",
        (("torch.arange(start, start + T,", "torch.arange(0, T,"),),
    ),
    Mutant(
        "cache_mask_top_left",
        ATTENTION,
        "is_causal for several tokens onto a filled cache: the mask is aligned at the wrong end",
        ((SDPA, "    mask, causal = None, q.size(2) > 1\n"),),
    ),
    Mutant(
        "cache_before_rope",
        ATTENTION,
        "the cache holds unrotated keys, and each later call rotates only its own",
        (
            (
                "q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)\n        if cache",
                "q, new = apply_rope(q, cos, sin), apply_rope(k, cos, sin)\n        if cache",
            ),
            (
                "# (B, K, S, hd)\n        y",
                "# (B, K, S, hd)\n        k = torch.cat((k[:, :, : k.size(2) - T], new), dim=2)\n"
                "        y",
            ),
        ),
    ),
    Mutant(
        "cache_shared_by_layers",
        "layers.0.self_attn",
        "all layers write to layer 0's place",
        (("LayerCache(self.k[layer], self.v[layer],", "LayerCache(self.k[0], self.v[0],"),),
    ),
    Mutant(
        "cache_written_at_start",
        "layers.0.self_attn",
        "each call writes over the oldest tokens",
        (
            (":, start:end] = k.detach()", ":, : end - start] = k.detach()"),
            (":, start:end] = v.detach()", ":, : end - start] = v.detach()"),
        ),
    ),
    Mutant(
        "cache_not_reset",
        "cache",
        "reset forgets to set the length back: the last conversation goes on",
        (
            (
                "    def reset(self) -> None:\n        self.length = 0",
                "    def reset(self):\n        pass",
            ),
        ),
    ),
]
_PARTS = {
    "RMSNorm": _NORM,
    "RoPE": _ROPE,
    "attention": _ATTENTION,
    "MLP": _MLP,
    "block and model": _MODEL,
    "cache": _CACHE,
}
MUTANTS: dict[str, Mutant] = {
    mutant.name: dataclasses.replace(mutant, part=part)
    for part, mutants in _PARTS.items()
    for mutant in mutants
}


def plant_unknown(model: SmolLM2, seed: int) -> Mutant:
    """Plants the bug number `seed` in a layer that goes with it; the answer is what it returns.

    Only bugs that a plain pass through an attention module shows, for those can be found by asking
    the module (notebook 3, section 3.6). They are so shuffled that 4 and 5 are the notebook's
    examples. When the names are used up they come again, each in the next layer: with three layers
    no two of the first 51 seeds have the same bug in the same place.
    """
    asked = [m for m in MUTANTS.values() if m.where == ATTENTION and m.part != "cache"]
    names = sorted(mutant.name for mutant in asked if not mutant.action)
    random.Random(587).shuffle(names)
    turn, number = divmod(seed, len(names))
    mutant = MUTANTS[names[number]]
    mutant(model, (random.Random(number).randrange(len(model.layers)) + turn) % len(model.layers))
    return mutant
