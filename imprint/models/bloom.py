"""BLOOM and BLOOMZ: a causal language model whose only positions are ALiBi's (BigScience 2022, arXiv 2211.05100).

Legend: T packed tokens, C hidden size, H heads of queries, keys and values, D head size, V vocabulary size. Module names are
those of the official weights.
"""

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.models.attention import ForwardContext
from imprint.models.configs.blocks import block_configs
from imprint.models.configs.bloom import BloomConfig
from imprint.models.network import ModelShape, Network, empty_embedding, run_blocks
from imprint.quant.linear import make_linear

MLP_RATIO = 4
"""Width of the MLP over the hidden size, in every release."""


class Bloom(Network):
    """The network; the head is tied to the embedding, which official folders store once."""

    transformer: "Transformer"
    tied = MappingProxyType({"lm_head.": "transformer.word_embeddings."})
    saves_tied_copies = False
    config_fields = frozenset({"layer_norm_epsilon", "apply_residual_connection_post_layernorm"})

    def __init__(self, config: BloomConfig) -> None:
        super().__init__(
            ModelShape(
                vocab_size=config.vocab_size,
                num_layers=config.num_layers,
                num_kv_heads=config.num_heads,
                head_dim=config.hidden_size // config.num_heads,
                hidden_size=config.hidden_size,
                max_length=config.max_length,
            ),
            stop_ids=config.stop_ids,
            weight_format=config.weight_format,
        )
        self.config = config
        self.transformer = Transformer(config)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the embedding."""
        return self.transformer.word_embeddings.weight

    def network_name(self, stored: str) -> str:
        """Official folders leave out the prefix `transformer.`, others have it."""
        return stored if stored.startswith(("transformer.", "lm_head.")) else f"transformer.{stored}"


class Transformer(nn.Module):
    """Embedding with its norm, blocks, final norm."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.word_embeddings = empty_embedding(config.vocab_size, config.hidden_size)
        self.word_embeddings_layernorm = _norm(config)
        self.h = nn.ModuleList(Block(one, index) for index, one in enumerate(block_configs(config)))
        self.ln_f = _norm(config)

    def forward(self, context: ForwardContext, *, checkpointing: bool, hidden_states: list[Tensor] | None) -> Tensor:
        """See Network.forward."""
        hidden: Tensor = self.word_embeddings_layernorm(self.word_embeddings(context.pack.ids))
        slopes = alibi_slopes(self.heads, hidden.device)
        hidden = run_blocks(self.h, hidden, context, slopes, checkpointing=checkpointing, hidden_states=hidden_states)
        normed: Tensor = self.ln_f(hidden)
        return normed


class Block(nn.Module):
    """Attention and MLP, each with a norm in front; the residual is taken before the norm or, in some releases, after it."""

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
        out: Tensor = (x if self.residual_after_norm else hidden) + self.mlp(x)
        return out


class Attention(nn.Module):
    """Self-attention; the joint projection is laid out head by head: q, k, v of head 0, then of head 1 ..."""

    def __init__(self, config: BloomConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = config.num_heads
        self.query_key_value = make_linear(config.hidden_size, 3 * config.hidden_size, config.weight_format)
        self.dense = make_linear(config.hidden_size, config.hidden_size, config.weight_format)

    def forward(self, x: Tensor, context: ForwardContext, slopes: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        query, key, value = self.query_key_value(x).view(len(x), self.heads, 3, -1).unbind(2)
        attended = context.attend(self.index, query, key, value, slopes=slopes)
        out: Tensor = self.dense(attended.reshape(len(x), -1))
        return out


class MLP(nn.Module):
    """Two linears around the tanh approximation of GELU."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = make_linear(config.hidden_size, MLP_RATIO * config.hidden_size, config.weight_format)
        self.dense_4h_to_h = make_linear(MLP_RATIO * config.hidden_size, config.hidden_size, config.weight_format)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        out: Tensor = self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))
        return out


def _norm(config: BloomConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """fp32 slopes (H,): a geometric sequence from 2^(-8/n), where n is the largest power of two up to H.

    The other heads take every second slope of the sequence for 2n heads (Press et al. 2021, arXiv 2108.12409).
    """
    power = 1 << (heads.bit_length() - 1)
    first = torch.arange(1, power + 1, device=device) * (-8 / power)
    others = (2 * torch.arange(heads - power, device=device) + 1) * (-4 / power)
    return torch.exp2(torch.cat((first, others)))
