"""ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their original layout: a causal language model with grouped-query attention and RoPE.

Legend: T packed tokens, C hidden size, H query heads, G heads of keys and values, D head size, V vocabulary size. Module names are those of
the official weights. Source: modeling_chatglm.py of THUDM/chatglm2-6b, THUDM/chatglm3-6b and THUDM/glm-4-9b.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.models.attention import ForwardContext
from imprint.models.configs.blocks import block_configs
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.fusible import rotate_heads, swiglu
from imprint.models.network import ModelShape, Network, empty_embedding, run_blocks
from imprint.quant.linear import QuantizedLinear, make_linear


class ChatGLM2(Network):
    """The network; the head is not tied to the embedding."""

    config_fields = frozenset({"rope_ratio", "layernorm_epsilon", "apply_residual_connection_post_layernorm"})

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
            stop_ids=config.stop_ids,
            weight_format=config.weight_format,
        )
        self.config = config
        self.transformer = Transformer(config)

    @property
    def head_weight(self) -> Tensor:
        """(V, C)."""
        return self.transformer.output_layer.weight

    @property
    def projection_width(self) -> int:
        """See Network: as wide as the keys and values of all layers."""
        return self.shape.num_layers * 2 * self.shape.num_kv_heads * self.shape.head_dim


class Transformer(nn.Module):
    """Embedding, blocks, final norm and head."""

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
    """The token embedding under its official name."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.word_embeddings = empty_embedding(config.padded_vocab_size, config.hidden_size)


class Encoder(nn.Module):
    """Blocks and final norm under their official names."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(one, index) for index, one in enumerate(block_configs(config)))
        self.final_layernorm = _norm(config)


class Block(nn.Module):
    """Attention and MLP, each with a norm in front and a residual around both."""

    def __init__(self, config: ChatGLM2Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attention = Attention(config, index)
        self.post_attention_layernorm = _norm(config)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        hidden = hidden + self.self_attention(self.input_layernorm(hidden), context, cos, sin)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class Attention(nn.Module):
    """Self-attention; the joint projection is laid out in blocks: the queries of all H heads, the keys of all G, then the values."""

    def __init__(self, config: ChatGLM2Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.kv_channels
        self.widths = [heads * self.head_dim for heads in (config.num_attention_heads, *[config.multi_query_group_num] * 2)]
        self.score_scale = index + 1.0 if config.apply_query_key_layer_scaling else 1.0
        self.query_key_value = _linear(config, config.hidden_size, sum(self.widths), bias=config.add_qkv_bias)
        self.dense = _linear(config, self.widths[0], config.hidden_size)

    def forward(self, x: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        parts = self.query_key_value(x).split(self.widths, -1)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        query, key, value = rotate_heads(query, key, value, cos, sin, 1)
        attended = context.attend(self.index, query, key, value, score_scale=self.score_scale)
        out: Tensor = self.dense(attended.flatten(1))
        return out


class MLP(nn.Module):
    """SwiGLU; the first linear is laid out in two blocks: the gate, then the values."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.dense_h_to_4h = _linear(config, config.hidden_size, 2 * config.ffn_hidden_size)
        self.dense_4h_to_h = _linear(config, config.ffn_hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        out: Tensor = self.dense_4h_to_h(swiglu(self.dense_h_to_4h(x)))
        return out


def _norm(config: ChatGLM2Config) -> nn.RMSNorm:
    """RMSNorm, computed in fp32 and rounded once, after the weight, as in the original."""
    return nn.RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)


def _linear(config: ChatGLM2Config, in_features: int, out_features: int, *, bias: bool = False) -> nn.Linear | QuantizedLinear:
    """A linear layer, quantized if the blocks are."""
    return make_linear(in_features, out_features, config.weight_format, bias=bias)


def rotary(positions: Tensor, config: ChatGLM2Config, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, D) for positions (T,): neighbouring pairs of the first half of a head; the second half is not rotated."""
    dim = config.kv_channels // 2
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angles = positions[:, None].float() / config.rope_factor / config.rope_theta**exponents
    angles = functional.pad(angles, (0, config.kv_channels // 2 - dim // 2))  # cosine 1, sine 0
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.stack((cos, cos), -1).flatten(1), torch.stack((-sin, sin), -1).flatten(1)
