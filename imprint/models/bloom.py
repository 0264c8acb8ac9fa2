"""BLOOM and BLOOMZ: a causal language model without positions but for ALiBi's slopes (BigScience 2022, arXiv 2211.05100).

Legend: T packed tokens, C hidden size, H heads, D head size, P prefix length, V vocabulary. Module names are those of the official weights.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from imprint.data.batch import Pack
from imprint.errors import UserError
from imprint.models.attention import Cache, Grid, Prefix, attend
from imprint.models.fields import positive_number
from imprint.models.network import Network, Shape
from imprint.quant import BITS, QuantizedLinear

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
        hidden, heads = _whole(fields, "n_embed", "hidden_size"), _whole(fields, "n_head", "num_attention_heads")
        if hidden % heads:
            raise UserError(
                f'config.json: "hidden_size" {hidden} must be a multiple of "n_head" {heads}. Take config.json from the official folder.'
            )
        return cls(
            vocab_size=_whole(fields, "vocab_size"),
            hidden_size=hidden,
            layers=_whole(fields, "n_layer", "num_hidden_layers"),
            heads=heads,
            layer_norm_epsilon=positive_number(fields, "layer_norm_epsilon", 1e-5),
            residual_after_norm=bool(fields.get("apply_residual_connection_post_layernorm")),
            longest=_whole(fields, "seq_length", default=LONGEST),
            end_ids=_end_ids(fields),
            quantization_bit=_bits(fields, hidden),
        )


def _whole(fields: dict[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these fields that is there, a whole number."""
    value = next((fields[name] for name in names if fields.get(name) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        called = " or ".join(f'"{name}"' for name in names)
        raise UserError(
            f"config.json: {called} must be a whole number of at least 1, got {value!r}. Take config.json from the official folder."
        )
    return value


def _end_ids(fields: dict[str, Any]) -> frozenset[int]:
    found = fields.get("eos_token_id")
    ids = [END] if found is None else found if isinstance(found, list) else [found]
    if not ids or any(not isinstance(token, int) or isinstance(token, bool) for token in ids):
        raise UserError(
            f'config.json: "eos_token_id" must be an id or a list of ids, got {found!r}. Take config.json from the official folder.'
        )
    return frozenset(ids)


def _bits(fields: dict[str, Any], hidden: int) -> int | None:
    """Bits of the weights; 0 and null say that nothing is quantised."""
    bits = fields.get("quantization_bit") or None
    if bits is not None and (isinstance(bits, bool) or bits not in BITS):
        raise UserError(f'config.json: "quantization_bit" must be 8, 4 or null, got {bits!r}. These are the two formats that are known.')
    if bits and fields.get("quantization_embeddings"):
        raise UserError(
            'config.json: "quantization_embeddings" is true, but the embedding of a BLOOM is never quantised. '
            "Take config.json from the folder the weights come from."
        )
    if bits == 4 and hidden % 2:
        raise UserError(f'config.json: "hidden_size" {hidden} is odd, but at 4 bits two columns share a byte.')
    return bits


class Bloom(Network):
    """The network; its head is its embedding, which official folders hold once."""

    tied = MappingProxyType({"lm_head.": "transformer.word_embeddings."})
    tied_is_stored = False

    def __init__(self, config: BloomConfig) -> None:
        super().__init__(
            Shape(
                vocabulary=config.vocab_size,
                layers=config.layers,
                kv_heads=config.heads,
                head_size=config.hidden_size // config.heads,
                hidden=config.hidden_size,
                longest=config.longest,
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

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, V)."""
        return functional.linear(hidden, self.head_weight)

    def forward(
        self,
        pack: Pack,
        *,
        prefix: Prefix | None = None,
        cache: Cache | None = None,
        checkpointing: bool = False,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """See Network.forward."""
        hidden: Tensor = self.transformer(pack, prefix=prefix, cache=cache, checkpointing=checkpointing, keep=keep)
        return hidden

    def own_name(self, stored: str) -> str:
        """Official folders leave out the `transformer.` that the others begin names with."""
        return stored if stored.startswith(("transformer.", "lm_head.")) else f"transformer.{stored}"


class Transformer(nn.Module):
    """Embedding and its norm, blocks, final norm."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.heads = config.heads
        # not nn.Embedding(...), which draws numbers: on the meta device that costs 1.3 s of imports
        self.word_embeddings: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size), freeze=False)
        self.word_embeddings_layernorm = _norm(config)
        self.h = nn.ModuleList(Block(config, index) for index in range(config.layers))
        self.ln_f = _norm(config)

    def forward(self, pack: Pack, *, prefix: Prefix | None, cache: Cache | None, checkpointing: bool, keep: list[Tensor] | None) -> Tensor:
        """See Network.forward."""
        hidden: Tensor = self.word_embeddings_layernorm(self.word_embeddings(pack.ids))
        grid = Grid.of(pack, None if cache is None else cache.used)
        slopes = alibi_slopes(self.heads, hidden.device)
        for index, block in enumerate(self.h):
            if keep is not None:
                keep.append(hidden)
            shared = None if prefix is None else prefix[index]
            if checkpointing:
                hidden = checkpoint(block, hidden, pack, grid, slopes, shared, cache, use_reentrant=False)
            else:
                hidden = block(hidden, pack, grid, slopes, shared, cache)
        hidden = self.ln_f(hidden)
        if keep is not None:
            keep.append(hidden)
        return hidden


class Block(nn.Module):
    """Attention and MLP, each behind a norm and with a residual around it."""

    def __init__(self, config: BloomConfig, index: int) -> None:
        super().__init__()
        self.residual_after_norm = config.residual_after_norm
        self.input_layernorm = _norm(config)
        self.self_attention = Attention(config, index)
        self.post_attention_layernorm = _norm(config)
        self.mlp = MLP(config)

    def forward(
        self, hidden: Tensor, pack: Pack, grid: Grid, slopes: Tensor, prefix: tuple[Tensor, Tensor] | None, cache: Cache | None
    ) -> Tensor:
        """(T, C) -> (T, C)."""
        x = self.input_layernorm(hidden)
        hidden = (x if self.residual_after_norm else hidden) + self.self_attention(x, pack, grid, slopes, prefix, cache)
        x = self.post_attention_layernorm(hidden)
        mixed: Tensor = (x if self.residual_after_norm else hidden) + self.mlp(x)
        return mixed


class Attention(nn.Module):
    """Self-attention; rows of the joint projection lie head by head: q, k, v of head 0, then of head 1 ..."""

    def __init__(self, config: BloomConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = config.heads
        self.query_key_value = _linear(config, config.hidden_size, 3 * config.hidden_size)
        self.dense = _linear(config, config.hidden_size, config.hidden_size)

    def forward(
        self, x: Tensor, pack: Pack, grid: Grid, slopes: Tensor, prefix: tuple[Tensor, Tensor] | None, cache: Cache | None
    ) -> Tensor:
        """(T, C) -> (T, C)."""
        query, key, value = self.query_key_value(x).view(len(x), self.heads, 3, -1).unbind(2)
        if cache is not None:
            key, value = cache.extend(self.index, pack, key, value)
        mixed = attend(query, key, value, grid, prefix=prefix, slopes=slopes)
        out: Tensor = self.dense(mixed.reshape(len(x), -1))
        return out


class MLP(nn.Module):
    """Two linears around GELU in its tanh form."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = _linear(config, config.hidden_size, WIDENING * config.hidden_size)
        self.dense_4h_to_h = _linear(config, WIDENING * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        out: Tensor = self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))
        return out


def _norm(config: BloomConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def _linear(config: BloomConfig, inputs: int, outputs: int) -> nn.Linear | QuantizedLinear:
    return QuantizedLinear(inputs, outputs, config.quantization_bit) if config.quantization_bit else nn.Linear(inputs, outputs)


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """fp32 slopes (H,): a geometric sequence from 2^(-8/n) down, n the power of two that is not above H.

    Further heads take every second one of the sequence that 2n heads would have (Press et al. 2021, arXiv 2108.12409).
    """
    whole = 1 << (heads.bit_length() - 1)
    first = torch.arange(1, whole + 1, device=device) * (-8 / whole)
    further = (2 * torch.arange(heads - whole, device=device) + 1) * (-4 / whole)
    return torch.exp2(torch.cat((first, further)))
