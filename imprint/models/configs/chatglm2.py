"""config.json of ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their original layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imprint.models.configs.fields import field_error, positive_float, positive_int, stop_ids, weight_format
from imprint.quant.weight_format import WeightFormat

ROPE_THETA = 10000.0
CHATGLM_2_AND_3_VOCAB_SIZE = 65024
"""`padded_vocab_size` of every ChatGLM2-6B and ChatGLM3-6B; GLM-4-9B has another one."""
CHATGLM2_32K_ROPE_RATIO = 16
"""`rope_ratio` of ChatGLM2-6B-32k, the one release that divides positions by it."""
CHATGLM3_MIN_ROPE_RATIO = 50
"""`rope_ratio` of ChatGLM3-6B-32k, which multiplies the rotary base by it, as GLM-4 does; ChatGLM3-6B-128k has a larger one.

As a divisor of positions it would mean sequences of more than 100,000 tokens, and no such ChatGLM2 was released.
"""
INTEGERS: dict[str, int | None] = {
    "padded_vocab_size": None,
    "hidden_size": None,
    "num_layers": None,
    "num_attention_heads": None,
    "multi_query_group_num": None,
    "ffn_hidden_size": None,
    "seq_length": 2048,
}
"""Integer fields and their defaults; None where a field is required."""
FIXED: Mapping[str, object] = {
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "tie_word_embeddings": False,
    "hidden_dropout": 0,
    "attention_dropout": 0,
}
"""Fields with the same value in every official folder; other values were never released, so nothing could verify them."""


@dataclass(frozen=True)
class ChatGLM2Config:
    """The fields that define the network, under their official names where they have one."""

    padded_vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    multi_query_group_num: int
    ffn_hidden_size: int
    kv_channels: int
    """D."""
    seq_length: int
    layernorm_epsilon: float
    add_qkv_bias: bool
    apply_query_key_layer_scaling: bool
    """Whether scores are scaled down with depth and back up in fp32, which keeps them inside fp16's range and changes no result."""
    rope_theta: float
    """Base of the rotary frequencies."""
    rope_factor: float
    """Linear RoPE scaling: positions are divided by it."""
    stop_ids: frozenset[int]
    """Ids that end an answer."""
    weight_format: WeightFormat | None = None
    """The format of the four linears of a block; None if they are not quantized."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "ChatGLM2Config":
        """Read the fields of a config.json. Raises UserError for a missing, impossible or unknown one."""
        sizes = {name: positive_int(fields, name, default=default) for name, default in INTEGERS.items()}
        heads, groups = sizes["num_attention_heads"], sizes["multi_query_group_num"]
        for name, value in FIXED.items():
            if fields.get(name, value) != value:
                raise field_error(
                    f'"{name}" is {fields[name]!r}, which no released ChatGLM2, ChatGLM3 or GLM-4-9B has; only {value!r} is supported.',
                    f'"{name}" 为 {fields[name]!r}，已发布的 ChatGLM2、ChatGLM3、GLM-4-9B 均非如此；只支持 {value!r}。',
                )
        if heads % groups:
            raise field_error(
                f'"num_attention_heads" {heads} must be a multiple of "multi_query_group_num" {groups}, so that every group has the same '
                "number of query heads.",
                f'"num_attention_heads" {heads} 必须是 "multi_query_group_num" {groups} 的整数倍，使每组的查询头数相同。',
            )
        head_dim = sizes["hidden_size"] // heads if fields.get("kv_channels") is None else positive_int(fields, "kv_channels")
        if not head_dim or head_dim % 4:
            raise field_error(
                f'"kv_channels" must be a multiple of 4, since half of a head is rotated in pairs, got {head_dim}.',
                f'"kv_channels" 必须是 4 的倍数（每个头的一半成对旋转），实际为 {head_dim}。',
            )
        quantized = weight_format(fields, {name: sizes[name] for name in ("hidden_size", "ffn_hidden_size")})
        theta, factor = _rope(positive_float(fields, "rope_ratio", 1), sizes["padded_vocab_size"])
        return cls(
            kv_channels=head_dim,
            layernorm_epsilon=positive_float(fields, "layernorm_epsilon", 1e-5),
            add_qkv_bias=bool(fields.get("add_qkv_bias", False)),
            apply_query_key_layer_scaling=bool(fields.get("apply_query_key_layer_scaling", True)),
            rope_theta=theta,
            rope_factor=factor,
            stop_ids=stop_ids(fields),
            weight_format=quantized and quantized.with_scales_like_weights(),
            **sizes,
        )


def _rope(ratio: float, vocab_size: int) -> tuple[float, float]:
    """`rope_theta` and `rope_factor` for a `rope_ratio`, whose meaning differs between releases."""
    if ratio == 1 or vocab_size != CHATGLM_2_AND_3_VOCAB_SIZE or ratio >= CHATGLM3_MIN_ROPE_RATIO:
        return ROPE_THETA * ratio, 1.0
    if ratio == CHATGLM2_32K_ROPE_RATIO:
        return ROPE_THETA, ratio
    raise field_error(
        f'"rope_ratio" is {ratio:g}, which no released model with this vocabulary has: ChatGLM2-6B-32k divides positions by its '
        f"{CHATGLM2_32K_ROPE_RATIO}, ChatGLM3-6B-32k and -128k multiply the rotary base by {CHATGLM3_MIN_ROPE_RATIO} or more; which of the "
        "two another value means is unknown.",
        f'"rope_ratio" 为 {ratio:g}，使用该词表的已发布模型均非如此，无法判断它的含义（除位置，还是乘旋转基数）。',
    )
