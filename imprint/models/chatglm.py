"""ChatGLM-6B: a prefix language model with two-dimensional rotary positions (Du et al. 2022, Zeng et al. 2023).

Legend: T packed tokens, C hidden size, H heads, D head size, P prefix length, V vocabulary. Module names are those of the official weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.errors import UserError
from imprint.models.attention import ForwardContext
from imprint.models.fields import SOURCE, positive_number, quantization_bits, whole_number
from imprint.models.network import ModelShape, Network, empty_embedding, run_blocks
from imprint.pack import ContextSpan
from imprint.quant.linear import QuantizedEmbedding, make_linear
from imprint.tokenizers import ChatGLMSpecialIds

RESIDUAL_SCALE = (2 * 28) ** 0.5
"""The published code says 28 whatever the number of layers, and weights are trained with it."""
ROTARY_BASE = 10000.0


@dataclass(frozen=True)
class ChatGLMConfig:
    """The fields of config.json that decide the shape, under their official names."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    inner_hidden_size: int
    layernorm_epsilon: float
    max_sequence_length: int
    control: ChatGLMSpecialIds
    quantization_bit: int | None = None
    """Bits of the four linears of a block, 8 or 4; None where they are plain numbers."""
    quantization_embeddings: bool = False
    """Whether the embedding, which is the head too, is quantised like them."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "ChatGLMConfig":
        """Take the fields of a config.json; a missing or impossible one is a UserError."""
        found = {name: whole_number(fields, name, default=default) for name, default in SHAPE_FIELDS.items()}
        epsilon = positive_number(fields, "layernorm_epsilon", 1e-5)
        if found["hidden_size"] % (4 * found["num_attention_heads"]):
            raise UserError(
                f'config.json: "hidden_size" {found["hidden_size"]} must be a multiple of 4 x "num_attention_heads" '
                f"({found['num_attention_heads']}), as the two rotary axes need. {SOURCE}"
            )
        if not fields.get("position_encoding_2d", True):
            raise UserError(
                'config.json: "position_encoding_2d" is false, which no released ChatGLM-6B has; only two-dimensional positions are known. '
                "Use the official folder."
            )
        bits = quantization_bits(fields, {"inner_hidden_size": found["inner_hidden_size"]})
        return cls(
            layernorm_epsilon=epsilon,
            control=ChatGLMSpecialIds.from_config(fields),
            quantization_bit=bits,
            quantization_embeddings=bits is not None and bool(fields.get("quantization_embeddings")),
            **found,
        )

    @property
    def head_size(self) -> int:
        """D."""
        return self.hidden_size // self.num_attention_heads


SHAPE_FIELDS: dict[str, int | None] = {
    "vocab_size": None,
    "hidden_size": None,
    "num_layers": None,
    "num_attention_heads": None,
    "inner_hidden_size": None,
    "max_sequence_length": 2048,
}


class ChatGLM(Network):
    """The network: a prefix language model whose head is its embedding."""

    transformer: "Transformer"
    tied = MappingProxyType({"lm_head.": "transformer.word_embeddings."})

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(
            ModelShape(
                vocab_size=config.vocab_size,
                num_layers=config.num_layers,
                num_kv_heads=config.num_attention_heads,
                head_dim=config.head_size,
                hidden_size=config.hidden_size,
                max_length=config.max_sequence_length,
            ),
            end_ids=frozenset({config.control.eop}),
            quantization_bit=config.quantization_bit,
        )
        self.config = config
        self.transformer = Transformer(config)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the vocabulary head is the embedding itself; a quantised one is made into numbers at each call."""
        embedding = self.transformer.word_embeddings
        return embedding.dequantize(self.dtype) if isinstance(embedding, QuantizedEmbedding) else embedding.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, V)."""
        embedding = self.transformer.word_embeddings
        return embedding.logits(hidden) if isinstance(embedding, QuantizedEmbedding) else super().logits(hidden)

    def context_span(self, ids: Sequence[int]) -> ContextSpan:
        """Everything before <sop> is context, or the whole row without one; counting stops at [gMASK], [MASK] or its end."""
        control, row = self.config.control, list(ids)
        context = row.index(control.sop) if control.sop in row else len(row)
        anchor = next((row.index(token) for token in (control.gmask, control.mask) if token in row), max(context - 1, 0))
        return ContextSpan(context, anchor)

    def positions(self, offsets: Tensor, context: Tensor, anchor: Tensor) -> Tensor:
        """First axis 0, 1, 2 ... in the context and still at its anchor from <sop> on; second axis 0 in the context, then 1, 2, 3 ..."""
        return torch.stack((torch.where(offsets < context, offsets, anchor), (offsets - context + 1).clamp(min=0)))


class Transformer(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = _embedding(config)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, context: ForwardContext, *, checkpointing: bool, hidden_states: list[Tensor] | None) -> Tensor:
        """See Network.forward."""
        hidden: Tensor = self.word_embeddings(context.pack.ids).to(self.final_layernorm.weight.dtype)
        cos, sin = rotary(context.pack.positions, self.config.head_size // 2, hidden.dtype)
        hidden = run_blocks(self.layers, hidden, context, cos, sin, checkpointing=checkpointing, hidden_states=hidden_states)
        normed: Tensor = self.final_layernorm(hidden)
        return normed


class Block(nn.Module):
    """Attention and MLP, each around a residual that carries the normalised input."""

    def __init__(self, config: ChatGLMConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = Attention(config, index)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        x = self.input_layernorm(hidden)
        x = self.post_attention_layernorm(x * RESIDUAL_SCALE + self.attention(x, context, cos, sin))
        mixed: Tensor = x * RESIDUAL_SCALE + self.mlp(x)
        return mixed


class Attention(nn.Module):
    """Self-attention; rows of the joint projection lie head by head: q, k, v of head 0, then of head 1 ..."""

    def __init__(self, config: ChatGLMConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = config.num_attention_heads
        self.query_key_value = make_linear(config.hidden_size, 3 * config.hidden_size, config.quantization_bit)
        self.dense = make_linear(config.hidden_size, config.hidden_size, config.quantization_bit)

    def forward(self, x: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        query, key, value = self.query_key_value(x).view(len(x), self.heads, -1).chunk(3, -1)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = context.attend(self.index, query, key, value, score_scale=self.index + 1.0)
        out: Tensor = self.dense(mixed.reshape(len(x), -1))
        return out


class MLP(nn.Module):
    """Two linears around GELU in its tanh form."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = make_linear(config.hidden_size, config.inner_hidden_size, config.quantization_bit)
        self.dense_4h_to_h = make_linear(config.inner_hidden_size, config.hidden_size, config.quantization_bit)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        out: Tensor = self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))
        return out


def _embedding(config: ChatGLMConfig) -> nn.Embedding | QuantizedEmbedding:
    if config.quantization_bit and config.quantization_embeddings:
        return QuantizedEmbedding(config.vocab_size, config.hidden_size, config.quantization_bit)
    return empty_embedding(config.vocab_size, config.hidden_size)


def rotary(positions: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, 1, 2, size / 2) of both axes: positions (2, T), `size` dimensions each.

    The frequencies are rounded to fp16, as in the official weights.
    """
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    frequencies = (1.0 / ROTARY_BASE**exponents).half().float()
    angles = positions.t()[:, None, :, None].float() * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (T, H, D): the first half of D by the first axis, the second by the other; pairs lie half a half apart."""
    first, second = x.view(*x.shape[:2], 2, 2, -1).unbind(-2)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2).view(x.shape)
