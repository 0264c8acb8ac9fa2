"""config.json of BLOOM and BLOOMZ."""

from dataclasses import dataclass
from typing import Any

from imprint.models.configs.fields import field_error, positive_float, positive_int, stop_ids, weight_format
from imprint.quant.weight_format import WeightFormat

EOS_ID = 2
"""</s>, the default of `eos_token_id`."""
MAX_LENGTH = 2048
"""Longest sequence in tokens that the released bases were trained on; ALiBi itself has no limit."""


@dataclass(frozen=True)
class BloomConfig:
    """The fields that define the network; some have an older and a newer name."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    layer_norm_epsilon: float
    residual_after_norm: bool
    """Whether the residual is taken after the norm (`apply_residual_connection_post_layernorm`)."""
    max_length: int
    stop_ids: frozenset[int]
    """Ids that end an answer."""
    weight_format: WeightFormat | None = None
    """The format of the four linears of a block; None if they are not quantized."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "BloomConfig":
        """Read the fields of a config.json. Raises UserError for a missing or impossible one."""
        hidden_size, heads = positive_int(fields, "n_embed", "hidden_size"), positive_int(fields, "n_head", "num_attention_heads")
        if hidden_size % heads:
            raise field_error(
                f'"hidden_size" {hidden_size} must be a multiple of "n_head" {heads}.',
                f'"hidden_size" {hidden_size} 必须是 "n_head" {heads} 的整数倍。',
            )
        if fields.get("slow_but_exact") and (parts := positive_int(fields, "pretraining_tp", default=1)) > 1:
            raise field_error(
                f'"slow_but_exact" is true with "pretraining_tp" {parts}: transformers then adds up {parts} products and leaves out '
                "two biases of each block, which gives other numbers. Only false is supported.",
                f'"slow_but_exact" 为 true 且 "pretraining_tp" 为 {parts}：transformers 会分 {parts} 份求和并略去每块的两个偏置；'
                "只支持 false。",
            )
        if fields.get("is_causal") is False:
            raise field_error(
                '"is_causal" is false: transformers then attends to later tokens, too. Only true is supported.',
                '"is_causal" 为 false：transformers 会同时看到之后的词元；只支持 true。',
            )
        return cls(
            vocab_size=positive_int(fields, "vocab_size"),
            hidden_size=hidden_size,
            num_layers=positive_int(fields, "n_layer", "num_hidden_layers"),
            num_heads=heads,
            layer_norm_epsilon=positive_float(fields, "layer_norm_epsilon", 1e-5),
            residual_after_norm=bool(fields.get("apply_residual_connection_post_layernorm")),
            max_length=positive_int(fields, "seq_length", default=MAX_LENGTH),
            stop_ids=stop_ids(fields) or frozenset({EOS_ID}),
            weight_format=weight_format(fields, {"hidden_size": hidden_size}),
        )
