"""ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their original layout: a causal network with grouped keys and rotary positions.

Legend: T packed tokens, C hidden size, H query heads, G heads of keys and values, D head size, F inner size, V vocabulary. Module names are
those of the official weights. Source: modeling_chatglm.py of THUDM/chatglm2-6b, THUDM/chatglm3-6b and THUDM/glm-4-9b.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.errors import UserError
from imprint.models.attention import ForwardContext
from imprint.models.fields import SOURCE, end_ids, positive_number, quantization_bits, whole_number
from imprint.models.network import ModelShape, Network, empty_embedding, run_blocks
from imprint.quant.linear import QuantizedLinear, make_linear

ROTARY_BASE = 10000.0
VOCABULARY_OF_2_AND_3 = 65024
"""`padded_vocab_size` of every ChatGLM2-6B and ChatGLM3-6B; GLM-4-9B has another one."""
STRETCHED = 16
"""`rope_ratio` of ChatGLM2-6B-32k, the one release that divides positions by it."""
LEAST_OF_3 = 50
"""`rope_ratio` of ChatGLM3-6B-32k, which multiplies the rotary base by it, as GLM-4 does; ChatGLM3-6B-128k has a larger one.

Positions that are divided by so much would be those of rows of more than 100,000 tokens, and no such ChatGLM2 was released.
"""
SHAPE_FIELDS: dict[str, int | None] = {
    "padded_vocab_size": None,
    "hidden_size": None,
    "num_layers": None,
    "num_attention_heads": None,
    "multi_query_group_num": None,
    "ffn_hidden_size": None,
    "seq_length": 2048,
}
ONE_WAY: Mapping[str, object] = {
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
"""Settings that have the same value in every official folder; the other way was never released, so there is nothing to hold it to."""


@dataclass(frozen=True)
class ChatGLM2Config:
    """The fields of config.json that decide what is computed, under their official names where they have one."""

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
    """Whether scores are computed at a size that shrinks with depth, which keeps them inside fp16's range and changes no result."""
    rotary_base: float
    """What the frequencies are powers of."""
    stretch: float
    """What positions are divided by."""
    end_ids: frozenset[int]
    """Ids that end an answer."""
    quantization_bit: int | None = None
    """Bits of the four linears of a block, 8 or 4; None where they are plain numbers."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "ChatGLM2Config":
        """Take the fields of a config.json; a missing, impossible or unknown one is a UserError."""
        found = {name: whole_number(fields, name, default=default) for name, default in SHAPE_FIELDS.items()}
        heads, groups = found["num_attention_heads"], found["multi_query_group_num"]
        for name, value in ONE_WAY.items():
            if fields.get(name, value) != value:
                raise UserError(
                    f'config.json: "{name}" is {fields[name]!r}, which no released ChatGLM2, ChatGLM3 or GLM-4-9B has; known is {value!r}. '
                    f"{SOURCE}"
                )
        if heads % groups:
            raise UserError(
                f'config.json: "num_attention_heads" {heads} must be a multiple of "multi_query_group_num" {groups}, so that each group '
                f"has as many query heads. {SOURCE}"
            )
        size = found["hidden_size"] // heads if fields.get("kv_channels") is None else whole_number(fields, "kv_channels")
        if not size or size % 4:
            raise UserError(
                f'config.json: "kv_channels" must be a multiple of 4, since half of a head is turned in pairs, got {size}. {SOURCE}'
            )
        base, stretch = _positions(positive_number(fields, "rope_ratio", 1), found["padded_vocab_size"])
        return cls(
            kv_channels=size,
            layernorm_epsilon=positive_number(fields, "layernorm_epsilon", 1e-5),
            add_qkv_bias=bool(fields.get("add_qkv_bias", False)),
            apply_query_key_layer_scaling=bool(fields.get("apply_query_key_layer_scaling", True)),
            rotary_base=base,
            stretch=stretch,
            end_ids=end_ids(fields),
            quantization_bit=quantization_bits(fields, {name: found[name] for name in ("hidden_size", "ffn_hidden_size")}),
            **found,
        )


def _positions(ratio: float, vocabulary: int) -> tuple[float, float]:
    """Rotary base and stretch of positions that `rope_ratio` stands for, which has had two meanings under one name."""
    if ratio == 1 or vocabulary != VOCABULARY_OF_2_AND_3 or ratio >= LEAST_OF_3:
        return ROTARY_BASE * ratio, 1.0
    if ratio == STRETCHED:
        return ROTARY_BASE, ratio
    raise UserError(
        f'config.json: "rope_ratio" is {ratio:g}, which is that of no released model with this vocabulary: ChatGLM2-6B-32k divides '
        f"positions by its {STRETCHED}, ChatGLM3-6B-32k and -128k multiply the rotary base by {LEAST_OF_3} and more, and of another number "
        f"nothing says which is meant. {SOURCE}"
    )


class ChatGLM2(Network):
    """The network; its vocabulary head is a weight of its own."""

    transformer: "Transformer"

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__(
            ModelShape(
                vocab_size=config.padded_vocab_size,
                num_layers=config.num_layers,
                num_kv_heads=config.multi_query_group_num,
                head_dim=config.kv_channels,
                hidden_size=config.hidden_size,
                max_length=config.seq_length,
            ),
            end_ids=config.end_ids,
            quantization_bit=config.quantization_bit,
        )
        self.config = config
        self.transformer = Transformer(config)

    @property
    def head_weight(self) -> Tensor:
        """(V, C)."""
        return self.transformer.output_layer.weight

    @property
    def projection_width(self) -> int:
        """The table of a prefix with a projection is as wide as the keys and values it stands for."""
        return self.shape.num_layers * 2 * self.shape.num_kv_heads * self.shape.head_dim


class Transformer(nn.Module):
    """Embedding, blocks, final norm; the head stands beside them."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.encoder = Encoder(config)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)

    def forward(self, context: ForwardContext, *, checkpointing: bool, hidden_states: list[Tensor] | None) -> Tensor:
        """See Network.forward."""
        hidden: Tensor = self.embedding.word_embeddings(context.pack.ids)
        cos, sin = rotary(context.pack.positions[0], self.config, hidden.dtype)
        hidden = run_blocks(self.encoder.layers, hidden, context, cos, sin, checkpointing=checkpointing, hidden_states=hidden_states)
        normed: Tensor = self.encoder.final_layernorm(hidden)
        return normed


class Embedding(nn.Module):
    """Holds the table under its official name."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.word_embeddings = empty_embedding(config.padded_vocab_size, config.hidden_size)


class Encoder(nn.Module):
    """Holds blocks and final norm under their official names."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.final_layernorm = _norm(config)


class Block(nn.Module):
    """Attention and MLP, each of what is normalised, added to what is not."""

    def __init__(self, config: ChatGLM2Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attention = Attention(config, index)
        self.post_attention_layernorm = _norm(config)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        hidden = hidden + self.self_attention(self.input_layernorm(hidden), context, cos, sin)
        mixed: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return mixed


class Attention(nn.Module):
    """Self-attention; rows of the joint projection lie in blocks: the queries of all H heads, then the keys of all G, then the values."""

    def __init__(self, config: ChatGLM2Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.size = config.kv_channels
        self.widths = [heads * self.size for heads in (config.num_attention_heads, *[config.multi_query_group_num] * 2)]
        self.score_scale = index + 1.0 if config.apply_query_key_layer_scaling else 1.0
        self.query_key_value = _linear(config, config.hidden_size, sum(self.widths), bias=config.add_qkv_bias)
        self.dense = _linear(config, self.widths[0], config.hidden_size)

    def forward(self, x: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        parts = self.query_key_value(x).split(self.widths, -1)
        query, key, value = (part.unflatten(-1, (-1, self.size)) for part in parts)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = context.attend(self.index, query, key, value, score_scale=self.score_scale)
        out: Tensor = self.dense(mixed.flatten(1))
        return out


class MLP(nn.Module):
    """SwiGLU; rows of the first linear lie in two blocks: the gate, then what it opens."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.dense_h_to_4h = _linear(config, config.hidden_size, 2 * config.ffn_hidden_size)
        self.dense_4h_to_h = _linear(config, config.ffn_hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        gate, opened = self.dense_h_to_4h(x).chunk(2, -1)
        out: Tensor = self.dense_4h_to_h(functional.silu(gate) * opened)
        return out


def _norm(config: ChatGLM2Config) -> nn.RMSNorm:
    """Computed in fp32 and rounded once, after the weight, as in the original."""
    return nn.RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)


def _linear(config: ChatGLM2Config, inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear | QuantizedLinear:
    """Quantised, its scales have the type of the weights."""
    return make_linear(inputs, outputs, config.quantization_bit, bias=bias, scale_dtype=None)


def rotary(positions: Tensor, config: ChatGLM2Config, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, 1, D / 4) for the first half of a head, at positions (T,); computed in fp32."""
    size = config.kv_channels // 2
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    angles = positions[:, None, None].float() / config.stretch / config.rotary_base**exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first half of each head of (T, H, D), neighbours forming pairs; the second half stays."""
    turned, kept = x.chunk(2, -1)
    first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((pairs.flatten(-2), kept), -1)
