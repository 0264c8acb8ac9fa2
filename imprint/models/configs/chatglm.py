"""config.json of ChatGLM-6B."""

from dataclasses import dataclass
from typing import Any

from imprint.models.configs.fields import field_error, positive_float, positive_int, weight_format
from imprint.quant.weight_format import WeightFormat
from imprint.tokenizers import ChatGLMSpecialIds

INTEGERS: dict[str, int | None] = {
    "vocab_size": None,
    "hidden_size": None,
    "num_layers": None,
    "num_attention_heads": None,
    "inner_hidden_size": None,
    "max_sequence_length": 2048,
}
"""Integer fields and their defaults; None where a field is required."""


@dataclass(frozen=True)
class ChatGLMConfig:
    """The fields that define the network, under their official names."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    inner_hidden_size: int
    layernorm_epsilon: float
    max_sequence_length: int
    special_ids: ChatGLMSpecialIds
    weight_format: WeightFormat | None = None
    """The format of the four linears of a block; None if they are not quantized."""
    quantization_embeddings: bool = False
    """Whether the embedding, which is also the head, is quantized too."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "ChatGLMConfig":
        """Read the fields of a config.json. Raises UserError for a missing or impossible one."""
        sizes = {name: positive_int(fields, name, default=default) for name, default in INTEGERS.items()}
        epsilon = positive_float(fields, "layernorm_epsilon", 1e-5)
        if sizes["hidden_size"] % (4 * sizes["num_attention_heads"]):
            size, heads = sizes["hidden_size"], sizes["num_attention_heads"]
            raise field_error(
                f'"hidden_size" {size} must be a multiple of 4 x "num_attention_heads" ({heads}), as the two rotary axes need.',
                f'"hidden_size" {size} 必须是 4 × "num_attention_heads"（{heads}）的整数倍，两个旋转位置轴才放得下。',
            )
        if not fields.get("position_encoding_2d", True):
            raise field_error(
                '"position_encoding_2d" is false, which no released ChatGLM-6B has; only two-dimensional positions are supported.',
                '"position_encoding_2d" 为 false，已发布的 ChatGLM-6B 均非如此；只支持二维位置编码。',
            )
        quantized = weight_format(fields, {"inner_hidden_size": sizes["inner_hidden_size"]})
        return cls(
            layernorm_epsilon=epsilon,
            special_ids=ChatGLMSpecialIds.from_config(fields),
            weight_format=quantized,
            quantization_embeddings=quantized is not None and bool(fields.get("quantization_embeddings")),
            **sizes,
        )

    @property
    def head_dim(self) -> int:
        """D."""
        return self.hidden_size // self.num_attention_heads
