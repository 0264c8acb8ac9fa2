"""BLOOM and BLOOMZ: a causal language model without positions but for ALiBi's slopes (BigScience 2022, arXiv 2211.05100).

Legend: T packed tokens, C hidden size, H heads, D head size, P prefix length, V vocabulary. Module names are those of the official weights.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.errors import UserError
from imprint.models.attention import ForwardContext
from imprint.models.fields import SOURCE, end_ids, positive_number, quantization_bits, whole_number
from imprint.models.network import ModelShape, Network, empty_embedding, run_blocks
from imprint.quant.linear import make_linear

END = 2
"""</s>, where config.json names no end."""
LONGEST = 2048
"""Tokens of the longest row that the released bases were trained on; ALiBi itself knows no end."""
WIDENING = 4
"""The MLP is so many times as wide as the rest, in every release."""


@dataclass(frozen=True)
class BloomConfig:
    """The fields of config.json that decide the shape; two of them have an older and a newer name."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    layer_norm_epsilon: float
    residual_after_norm: bool
    """Whether what goes round attention and MLP is taken behind the norm (`apply_residual_connection_post_layernorm`)."""
    longest: int
    end_ids: frozenset[int]
    quantization_bit: int | None = None
    """Bits of the four linears of a block, 8 or 4; None where they are plain numbers."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "BloomConfig":
        """Take the fields of a config.json; a missing or impossible one is a UserError."""
        hidden, heads = whole_number(fields, "n_embed", "hidden_size"), whole_number(fields, "n_head", "num_attention_heads")
        if hidden % heads:
            raise UserError(f'config.json: "hidden_size" {hidden} must be a multiple of "n_head" {heads}. {SOURCE}')
        return cls(
            vocab_size=whole_number(fields, "vocab_size"),
            hidden_size=hidden,
            layers=whole_number(fields, "n_layer", "num_hidden_layers"),
            heads=heads,
            layer_norm_epsilon=positive_number(fields, "layer_norm_epsilon", 1e-5),
            residual_after_norm=bool(fields.get("apply_residual_connection_post_layernorm")),
            longest=whole_number(fields, "seq_length", default=LONGEST),
            end_ids=end_ids(fields) or frozenset({END}),
            quantization_bit=quantization_bits(fields, {"hidden_size": hidden}),
        )


class Bloom(Network):
    """The network; its head is its embedding, which official folders hold once."""

    transformer: "Transformer"
    tied = MappingProxyType({"lm_head.": "transformer.word_embeddings."})
    saves_tied_weights = False

    def __init__(self, config: BloomConfig) -> None:
        super().__init__(
            ModelShape(
                vocab_size=config.vocab_size,
                num_layers=config.layers,
                num_kv_heads=config.heads,
                head_dim=config.hidden_size // config.heads,
                hidden_size=config.hidden_size,
                max_length=config.longest,
            ),
            end_ids=config.end_ids,
            quantization_bit=config.quantization_bit,
        )
        self.config = config
        self.transformer = Transformer(config)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the vocabulary head is the embedding itself."""
        return self.transformer.word_embeddings.weight

    def parameter_name(self, stored: str) -> str:
        """Official folders leave out the `transformer.` that the others begin names with."""
        return stored if stored.startswith(("transformer.", "lm_head.")) else f"transformer.{stored}"


class Transformer(nn.Module):
    """Embedding and its norm, blocks, final norm."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.word_embeddings = empty_embedding(config.vocab_size, config.hidden_size)
        self.word_embeddings_layernorm = _norm(config)
        self.h = nn.ModuleList(Block(config, index) for index in range(config.layers))
        self.ln_f = _norm(config)

    def forward(self, context: ForwardContext, *, checkpointing: bool, hidden_states: list[Tensor] | None) -> Tensor:
        """See Network.forward."""
        hidden: Tensor = self.word_embeddings_layernorm(self.word_embeddings(context.pack.ids))
        slopes = alibi_slopes(self.heads, hidden.device)
        hidden = run_blocks(self.h, hidden, context, slopes, checkpointing=checkpointing, hidden_states=hidden_states)
        normed: Tensor = self.ln_f(hidden)
        return normed


class Block(nn.Module):
    """Attention and MLP, each behind a norm and with a residual around it."""

    def __init__(self, config: BloomConfig, index: int) -> None:
        super().__init__()
        self.residual_after_norm = config.residual_after_norm
        self.input_layernorm = _norm(config)
        self.self_attention = Attention(config, index)
        self.post_attention_layernorm = _norm(config)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, context: ForwardContext, slopes: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        x = self.input_layernorm(hidden)
        hidden = (x if self.residual_after_norm else hidden) + self.self_attention(x, context, slopes)
        x = self.post_attention_layernorm(hidden)
        mixed: Tensor = (x if self.residual_after_norm else hidden) + self.mlp(x)
        return mixed


class Attention(nn.Module):
    """Self-attention; rows of the joint projection lie head by head: q, k, v of head 0, then of head 1 ..."""

    def __init__(self, config: BloomConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = config.heads
        self.query_key_value = make_linear(config.hidden_size, 3 * config.hidden_size, config.quantization_bit)
        self.dense = make_linear(config.hidden_size, config.hidden_size, config.quantization_bit)

    def forward(self, x: Tensor, context: ForwardContext, slopes: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        query, key, value = self.query_key_value(x).view(len(x), self.heads, 3, -1).unbind(2)
        mixed = context.attend(self.index, query, key, value, slopes=slopes)
        out: Tensor = self.dense(mixed.reshape(len(x), -1))
        return out


class MLP(nn.Module):
    """Two linears around GELU in its tanh form."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = make_linear(config.hidden_size, WIDENING * config.hidden_size, config.quantization_bit)
        self.dense_4h_to_h = make_linear(WIDENING * config.hidden_size, config.hidden_size, config.quantization_bit)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        out: Tensor = self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))
        return out


def _norm(config: BloomConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """fp32 slopes (H,): a geometric sequence from 2^(-8/n) down, n the power of two that is not above H.

    Further heads take every second one of the sequence that 2n heads would have (Press et al. 2021, arXiv 2108.12409).
    """
    whole = 1 << (heads.bit_length() - 1)
    first = torch.arange(1, whole + 1, device=device) * (-8 / whole)
    further = (2 * torch.arange(heads - whole, device=device) + 1) * (-4 / whole)
    return torch.exp2(torch.cat((first, further)))
