"""The base class of every architecture: one call from packed ids to hidden states, one from hidden states to logits.

Legend: T packed tokens, A position axes, C hidden size, V vocabulary size, G heads of keys and values, D head size, P prefix length, N
outputs and K inputs of a weight, R any number of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from imprint.messages import Bilingual, UserError
from imprint.models.attention import AttentionBackend, ForwardContext, Prefix, RowAdapters
from imprint.models.cache import KVCache
from imprint.models.decode_attention import DecodeAttention
from imprint.models.host_rows import HostRows
from imprint.models.loss import soft_cap, target_loss, token_losses
from imprint.models.packed_attention import PackedAttention
from imprint.models.reference_attention import ReferenceAttention
from imprint.models.step_fusion import TRAINING, FusedStep, computed, fused_pass, recomputation
from imprint.models.token_loras import TokenLoras
from imprint.pack import ContextSpan, Pack
from imprint.quant.dense import choose_kernels, linear
from imprint.quant.linear import QuantizedEmbedding, QuantizedWeight
from imprint.quant.names import KernelChoice
from imprint.quant.weight_format import WeightFormat

PLAIN_CHOSEN = Bilingual("model.kernels is plain", "model.kernels 为 plain")
"""Why there are no kernels where they are switched off."""
COMPUTED_ENDINGS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "rotary_pos_emb.inv_freq", "position_ids")
"""Ends of the names of tensors that files of every architecture may hold although they follow from config.json."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes that a cache, a prefix and a batch depend on."""

    vocab_size: int
    """V."""
    num_layers: int
    """Number of blocks, each with one attention."""
    num_kv_heads: int
    """G: heads of keys and values; there may be more query heads."""
    head_dim: int
    """D: size of a key or a value in one head."""
    hidden_size: int
    """C."""
    max_length: int
    """Length in tokens of the longest sequence that the base was trained on."""


class Network(nn.Module):
    """An architecture. Subclasses name their modules as the official weights do, and override span and positions where they differ."""

    transformer: nn.Module
    """Everything but the head (which some official layouts put inside): a ForwardContext -> hidden states (T, C) after the final norm."""
    lora_targets: tuple[str, ...] = ("query_key_value",)
    """Name endings of the linears that compute queries, keys and values: the default targets of a LoRA."""
    tied: Mapping[str, str] = MappingProxyType({})
    """Tied weights that official files store twice: name prefix of the copy -> name prefix of the original."""
    transposed: frozenset[str] = frozenset()
    """Names of weights (N, K) that the files hold as (K, N)."""
    config_fields: frozenset[str] = frozenset()
    """Names of further fields of config.json that set what this architecture computes, beside its sizes."""
    max_row_tokens: int | None = None
    """Length in tokens of the longest row that can be computed; None without such a limit."""
    logit_cap: float | None = None
    """Soft cap of the logits, which bounds their magnitude; None without one."""
    gates: ClassVar[bool] = False
    """Whether the MLP multiplies an activation by another tensor, in lines that are not ours."""
    saves_tied_copies: ClassVar[bool] = True
    """Whether this architecture's official files contain the copies; then they are written too, unless the caller asks for `tied_once`."""

    def __init__(self, shape: ModelShape, *, stop_ids: frozenset[int], weight_format: WeightFormat | None) -> None:
        super().__init__()
        self.shape = shape
        self.stop_ids = stop_ids
        """Ids that end an answer; `imprint.load` adds those of the chat template."""
        self.weight_format = weight_format
        """The format of the weights in the blocks; None if they are not quantized."""
        self.attention_backends: tuple[AttentionBackend, ...] = (DecodeAttention(), PackedAttention(), ReferenceAttention())
        """In order of preference; the last one supports every pass."""
        self.token_loras = TokenLoras()
        """The LoRA of each token in the forward pass that runs."""
        self.replays_steps = True
        """Whether a GPU repeats decoding steps as CUDA graphs."""
        self.revision = 0
        """Counts the changes of modules and hooks after which a captured step is no longer the network's."""
        self.step_captures = 0
        """Number of decoding steps that were captured so far."""
        self.decode_memory: object = None
        """What the last Decoder left for the next one (inference/decode_memory.py)."""
        self.quantized_head: QuantizedEmbedding | None = None
        """The LM head where it alone is quantized (models/vocabulary.py)."""
        self.host_rows: HostRows | None = None
        """The embedding where it is in main memory."""
        self.removed_first_rows: dict[str, Tensor] = {}
        """The first row (1, C) of each parameter that these two replace, by name: by them an adapter knows its base."""
        self.kernels: KernelChoice = "auto"
        """How products are computed; set by `use_kernels`."""
        self.fuses_training = False
        """Whether passes with gradients are computed with fewer kernels where the GPU has them; not where hooks follow every tensor."""

    def forward(
        self,
        pack: Pack,
        *,
        prefix: Prefix | None = None,
        adapters: RowAdapters | None = None,
        cache: KVCache | None = None,
        checkpointing: bool = False,
        hidden_states: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states (T, C) after the final norm, times the scale of the logits where there is one.

        `prefix`: one that all sequences use; or `adapters`: one for each. `hidden_states`, if given, gets the input of each block and the
        output of the final norm appended. `checkpointing` recomputes each block in the backward pass instead of storing its activations.
        """
        adapters = adapters or RowAdapters(prefix)
        context = ForwardContext(pack, self.active_backends, adapters, cache)
        with self.token_loras.use(adapters, pack.seq_ids), fused_pass(self.fusion(cache, hidden_states)):
            hidden: Tensor = computed(self.transformer(context, checkpointing=checkpointing, hidden_states=hidden_states))
        if hidden_states is not None:
            hidden_states.append(hidden)
        return hidden

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """As in every module; for training, the memory of decoding is freed."""
        if mode:
            self.decode_memory = None
        return super().train(mode)

    def changed(self) -> None:
        """To be called after a change of modules or hooks."""
        self.revision += 1
        self.decode_memory = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002
        """As in every module; tensors move or change their dtype."""
        self.changed()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def check_length(self, length: int) -> None:
        """Raise UserError for a row of more tokens than `max_row_tokens`."""
        most = self.max_row_tokens
        if most is not None and length > most:
            raise UserError(
                Bilingual(
                    f"a row of {length} tokens is longer than {most}: beyond that, this base has no positions, or attends through a "
                    "sliding window, which packed rows do not support. Limit the rows to that length.",
                    f"有一行长 {length} 个词元，超过 {most}：更长时该底座没有位置编码，或使用滑动窗口，打包的行不支持：请限制行长。",
                )
            )

    @property
    def packing_problem(self) -> Bilingual | None:
        """Why PyTorch computes the attention of passes without a cache; None where one kernel does.

        With one kernel, a pass is the same kernels for all packs of as many tokens and targets, so that it can be repeated.
        """
        if not any(isinstance(backend, PackedAttention) for backend in self.active_backends):
            return PLAIN_CHOSEN
        return PackedAttention.problem(self.shape.head_dim, self.device, self.dtype)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the weight of the LM head, dequantized."""
        raise NotImplementedError

    @property
    def head(self) -> Tensor | QuantizedEmbedding:
        """The LM head as it is stored: a weight (V, C), or a quantized one."""
        return self.head_weight if self.quantized_head is None else self.quantized_head

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, C) -> (R, V)."""
        head = self.head
        if isinstance(head, QuantizedEmbedding):
            return soft_cap(head.logits(hidden), self.logit_cap)
        product = functional.linear if self.kernels == "plain" else linear
        return soft_cap(product(hidden, head), self.logit_cap)

    def target_loss(self, hidden: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Hidden states (R, C) before R targets -> the sum of their cross-entropies, each times its weight (R,), 1 if not given."""
        return target_loss(hidden, self.head, labels, self.logit_cap, weights, kernels=self.kernels != "plain")

    def token_losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Hidden states (R, C) before R targets -> the cross-entropy of each, (R,) in fp32, without a gradient."""
        return token_losses(hidden, self.head, labels, self.logit_cap, kernels=self.kernels != "plain")

    def use_kernels(self, choice: KernelChoice) -> None:
        """Compute by kernels where these are faster, or by plain PyTorch; a linear that is added later stays as it is."""
        self.kernels = choice
        self.changed()
        choose_kernels(self, choice)

    @property
    def active_backends(self) -> tuple[AttentionBackend, ...]:
        """The attention backends that the choice of kernels leaves."""
        return self.attention_backends[-1:] if self.kernels == "plain" else self.attention_backends

    def fusion(self, cache: KVCache | None, hidden_states: list[Tensor] | None) -> FusedStep | None:
        """The mode of a pass that computes it with fewer kernels; None where it is computed as it is."""
        on = TRAINING and self.fuses_training and self.kernels != "plain" and torch.is_grad_enabled()
        return FusedStep(gates=self.gates) if on and cache is None and hidden_states is None else None

    def context_span(self, ids: Sequence[int]) -> ContextSpan:  # noqa: ARG002 - a causal network needs no ids
        """The bidirectional part of a sequence; none in a causal network."""
        return ContextSpan(0, 0)

    def positions(self, offsets: Tensor, bidirectional_lengths: Tensor, mask_position: Tensor) -> Tensor:  # noqa: ARG002
        """See PositionScheme: one axis, the offset."""
        return offsets[None]

    def shift_keys(self, keys: Tensor, offset: int) -> Tensor:  # noqa: ARG002 - most networks count no position for a prefix
        """Keys (P, G, D) of a prefix, rotated by `offset` positions, where peft counts a prefix as positions.

        The code of ChatGLM to GLM-4 counts the row's own tokens only, and ALiBi knows distances only: the same keys.
        """
        return keys

    @property
    def projection_width(self) -> int:
        """Embedding width of a prefix with a projection, as in this architecture's official scripts."""
        return self.shape.hidden_size

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.shape.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of computation; quantized weights are stored in another."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of computation."""
        return next(self.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Number of parameters, quantized ones included."""
        quantized = sum(layer.rows * layer.columns for layer in self.modules() if isinstance(layer, QuantizedWeight))
        return quantized + sum(parameter.numel() for parameter in self.parameters())

    def new_cache(self, slots: int, capacity: int) -> KVCache:
        """An empty cache in the network's own dtype and on its device."""
        shape = self.shape
        return KVCache.empty(
            layers=shape.num_layers,
            slots=slots,
            capacity=capacity,
            heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    def finish_loading(self, device: torch.device) -> None:
        """Called after the weights were loaded to `device`: create buffers that no file stores."""

    def network_name(self, stored: str) -> str:
        """The network's name of a tensor that a file stores as `stored`."""
        return stored

    def stored_name(self, name: str) -> str:
        """The name under which a tensor of the network is stored, as in this architecture's published folders."""
        return name

    def is_computed(self, name: str) -> bool:
        """Whether a tensor of this name in a file is computed here, so that it is not read."""
        return name.endswith(COMPUTED_ENDINGS)


def run_blocks(blocks: nn.ModuleList, hidden: Tensor, *inputs: object, checkpointing: bool, hidden_states: list[Tensor] | None) -> Tensor:
    """Run hidden states (T, C) through the blocks, each called with them and `inputs`; the other arguments as in Network.forward."""
    for block in blocks:
        if hidden_states is not None:
            hidden_states.append(hidden)
        hidden = checkpoint_block(block, block, hidden, *inputs) if checkpointing else block(hidden, *inputs)
    return hidden


def checkpoint_block(block: nn.Module, compute: Callable[..., Any], *inputs: object) -> Any:
    """`compute` the output of a block with activation checkpointing; the random state is restored only for dropout, which uses it."""
    inputs = tuple(map(computed, inputs))
    return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=has_dropout(block), context_fn=recomputation)


def has_dropout(module: nn.Module) -> bool:
    """Whether something in a module drops values now."""
    return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in module.modules())


def empty_embedding(rows: int, columns: int) -> nn.Embedding:
    """An embedding without initial values; nn.Embedding(...) draws some, which on the meta device costs 1.3 s of imports."""
    embedding: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, columns), freeze=False)
    return embedding
