"""ChatGLM-6B: a prefix language model with two-dimensional rotary positions (Du et al. 2022, Zeng et al. 2023).

Legend: T packed tokens, R any number of rows, C hidden size, H heads of queries, keys and values, D head size, V vocabulary size. Module
names are those of the official weights. Source: modeling_chatglm.py of THUDM/chatglm-6b.
"""

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.models.attention import ForwardContext
from imprint.models.configs.blocks import block_configs
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.fusible import rotate_heads
from imprint.models.network import ModelShape, Network, empty_embedding, run_blocks
from imprint.pack import ContextSpan
from imprint.quant.linear import QuantizedEmbedding, make_linear

RESIDUAL_SCALE = (2 * 28) ** 0.5
"""The official code uses 28 layers here whatever their number, and the weights were trained with it."""
ROPE_THETA = 10000.0


class ChatGLM(Network):
    """The network; the head is tied to the embedding."""

    transformer: "Transformer"
    tied = MappingProxyType({"lm_head.": "transformer.word_embeddings."})
    config_fields = frozenset({"layernorm_epsilon"})

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(
            ModelShape(
                vocab_size=config.vocab_size,
                num_layers=config.num_layers,
                num_kv_heads=config.num_attention_heads,
                head_dim=config.head_dim,
                hidden_size=config.hidden_size,
                max_length=config.max_sequence_length,
            ),
            stop_ids=frozenset({config.special_ids.eop}),
            weight_format=config.weight_format,
        )
        self.config = config
        self.transformer = Transformer(config)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the embedding; a quantized one is dequantized at each call."""
        embedding = self.transformer.word_embeddings
        return embedding.dequantize(self.dtype) if isinstance(embedding, QuantizedEmbedding) else embedding.weight

    @property
    def head(self) -> Tensor | QuantizedEmbedding:
        """See Network: the embedding."""
        embedding = self.transformer.word_embeddings
        return embedding if isinstance(embedding, QuantizedEmbedding) else super().head

    def context_span(self, ids: Sequence[int]) -> ContextSpan:
        """What is before <sop>, or all ids without one; the mask position is that of [gMASK], [MASK] or the last token of it."""
        special_ids, ids = self.config.special_ids, list(ids)
        length = ids.index(special_ids.sop) if special_ids.sop in ids else len(ids)
        mask_position = next((ids.index(token) for token in (special_ids.gmask, special_ids.mask) if token in ids), max(length - 1, 0))
        return ContextSpan(length, mask_position)

    def positions(self, offsets: Tensor, bidirectional_lengths: Tensor, mask_position: Tensor) -> Tensor:
        """First axis: 0, 1, 2 ... in the bidirectional part, the mask position after it. Second axis: 0 in it, 1, 2, 3 ... after it."""
        return torch.stack(
            (torch.where(offsets < bidirectional_lengths, offsets, mask_position), (offsets - bidirectional_lengths + 1).clamp(min=0))
        )


class Transformer(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = _embedding(config)
        self.layers = nn.ModuleList(Block(one, index) for index, one in enumerate(block_configs(config)))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, context: ForwardContext, *, checkpointing: bool, hidden_states: list[Tensor] | None) -> Tensor:
        """See Network.forward."""
        # a quantized embedding gives fp16 whatever the dtype of the network
        hidden: Tensor = self.word_embeddings(context.pack.ids).to(self.final_layernorm.weight.dtype)
        cos, sin = rotary(context.pack.positions, self.config.head_dim // 2, hidden.dtype)
        hidden = run_blocks(self.layers, hidden, context, cos, sin, checkpointing=checkpointing, hidden_states=hidden_states)
        normed: Tensor = self.final_layernorm(hidden)
        return normed


class Block(nn.Module):
    """Attention and MLP, each with a residual of its scaled, normalised input."""

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
        out: Tensor = x * RESIDUAL_SCALE + self.mlp(x)
        return out


class Attention(nn.Module):
    """Self-attention; the joint projection is laid out head by head: q, k, v of head 0, then of head 1 ..."""

    def __init__(self, config: ChatGLMConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = config.num_attention_heads
        self.query_key_value = make_linear(config.hidden_size, 3 * config.hidden_size, config.weight_format)
        self.dense = make_linear(config.hidden_size, config.hidden_size, config.weight_format)

    def forward(self, x: Tensor, context: ForwardContext, cos: Tensor, sin: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        query, key, value = self.query_key_value(x).view(len(x), self.heads, -1).chunk(3, -1)
        distance = query.shape[-1] // 4  # between the two of a pair: each of the two axes has half a head, and rotates its halves
        query, key, value = rotate_heads(query, key, value, cos, sin, distance)
        # the scale divides the queries and multiplies their scores back: nothing changes but fp16's range
        attended = context.attend(self.index, query, key, value, score_scale=self.index + 1.0)
        out: Tensor = self.dense(attended.reshape(len(x), -1))
        return out


class MLP(nn.Module):
    """Two linears around the tanh approximation of GELU."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = make_linear(config.hidden_size, config.inner_hidden_size, config.weight_format)
        self.dense_4h_to_h = make_linear(config.inner_hidden_size, config.hidden_size, config.weight_format)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        out: Tensor = self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))
        return out


def _embedding(config: ChatGLMConfig) -> nn.Embedding | QuantizedEmbedding:
    if config.weight_format and config.quantization_embeddings:
        return QuantizedEmbedding(config.vocab_size, config.hidden_size, config.weight_format)
    return empty_embedding(config.vocab_size, config.hidden_size)


def rotary(positions: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, D) of both axes for positions (2, T), with `size` dimensions each, whose pairs lie half of them apart.

    The frequencies are rounded to fp16, as in the official weights.
    """
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    frequencies = (1.0 / ROPE_THETA**exponents).half().float()
    angles = positions.t()[:, :, None].float() * frequencies
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.stack((cos, cos), 2).flatten(1), torch.stack((-sin, sin), 2).flatten(1)
