"""Every other causal language model: transformers' own classes behind the call of a Network, their attention hooked to ours.

The pack, the prefix and the cache of a pass travel through the classes as one keyword argument, so activation checkpointing hands them to
an attention again; nothing of the folder is run. Legend: T packed tokens, C hidden size, H query heads, D head size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from imprint.errors import UserError
from imprint.models.attention import ForwardContext, KVCache, Prefix
from imprint.models.attention_probe import CONTEXT, AttentionProbe, probe_attention, summarize_error
from imprint.models.configs.fields import SOURCE, end_ids, quantization_bits
from imprint.models.network import ModelShape, Network
from imprint.pack import Pack, pack
from imprint.quant.linear import QuantizedLinear

ATTENTION = "imprint"
"""The name under which transformers knows our attention."""
PROVEN = frozenset({"glm", "glm4", "llama", "mistral", "qwen2", "qwen3"})
"""Kinds that the tests compare with transformers' own attention; any other is compared when its weights are there."""
OURS = ("quantization_bit", "quantization_embeddings", "torch_dtype", "dtype", "auto_map")
"""Fields of a config.json that are not for the classes: ours, the type, which is the caller's, and code, which is never run."""
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
"""What a layer may be."""
QUERIES_KEYS_VALUES = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"})
"""What the linears in front of an attention are called in most classes."""
COMPARED = ((1, 2, 3, 4, 5), (3, 1, 2))
"""Ids, modulo the vocabulary, on which an unproven kind is compared."""
NEAR = 0.05
"""Share of the largest logit by which the comparison may differ; 16-bit types need it."""


def attention_hook(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **handed: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, computed by ours: query (1, H, T, D), key and value (1, Hkv, T, D) -> (1, T, H, D)."""
    context: ForwardContext | AttentionProbe = handed[CONTEXT]
    if isinstance(context, AttentionProbe):
        context.record(module, key, value, {**handed, "a mask of its own": attention_mask})
        return query.new_empty((1, query.shape[2], query.shape[1], value.shape[3])), None
    layer: int = module.layer_idx  # type: ignore[assignment]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scaling = handed.get("scaling")
    if scaling is not None and abs(scaling * query.shape[-1] ** 0.5 - 1) > 1e-6:
        query = query * (scaling * query.shape[-1] ** 0.5)
    return context.attend(layer, query, key, value)[None], None


def knows(kind: object) -> bool:
    """Whether transformers has a causal language model of this `model_type`."""
    return isinstance(kind, str) and kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def build(fields: dict[str, Any], generation: dict[str, Any]) -> Network:
    """The network for the fields of a config.json of a kind that transformers knows, its weights not yet there.

    `generation` has the fields of generation_config.json, which may name further ids that end an answer.

    Raises UserError where the classes do what packed rows, a prefix or a cache of ours cannot go through.
    """
    bits = quantization_bits(fields, {})
    config = _config(fields)
    refusal = f"config.json: {config.model_type!r} of transformers cannot be used here:"
    longest = _longest(config, refusal)
    AttentionInterface.register(ATTENTION, attention_hook)
    causal = _build(config, refusal)
    vocabulary, hidden = _head(causal, refusal)
    blocks = [module for module in causal.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if any(parameter.dim() > 2 for block in blocks for parameter in block.parameters()):
        raise UserError(f"{refusal} it is a mixture of experts, whose weights the files hold in other pieces than the classes.")
    if bits:
        _quantize_linears(blocks, bits, refusal)
    attentions = probe_attention(causal.eval(), refusal)
    if len(blocks) != len(attentions):
        raise UserError(f"{refusal} it has {len(blocks)} blocks and {len(attentions)} attentions, where one in each is known.")
    ends = end_ids({"eos_token_id": config.eos_token_id}) | end_ids(generation, "generation_config.json")
    bounds = [attention.window for attention in attentions if attention.window]
    if any(isinstance(part, nn.Embedding) and part is not causal.get_input_embeddings() for part in causal.modules()):
        bounds.append(longest)  # positions that are learned, and end
    shape = ModelShape(
        vocab_size=vocabulary,
        num_layers=len(attentions),
        num_kv_heads=attentions[0].num_kv_heads,
        head_dim=attentions[0].key_dim,
        hidden_size=hidden,
        max_length=min([longest, *bounds]),
    )
    return TransformersNetwork(causal, blocks, shape, end_ids=ends, quantization_bit=bits, limit=min(bounds, default=None))


def _config(fields: dict[str, Any]) -> PreTrainedConfig:
    """The description by transformers itself, from the fields that are for it."""
    if fields.get("quantization_config"):
        method = fields["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise UserError(
            f'config.json: "quantization_config" says that the weights are quantised by {method!r}, which is not read here. '
            "Give the folder with 16-bit weights; `quantize` makes 8 or 4 bits of them."
        )
    kept = {name: value for name, value in fields.items() if name not in OURS and not name.startswith("_")}
    try:
        return CONFIG_MAPPING[fields["model_type"]].from_dict(kept)
    except Exception as error:  # each class checks its fields in its own way
        raise UserError(f"config.json: transformers cannot read it ({summarize_error(error)}). {SOURCE}") from error


def _build(config: PreTrainedConfig, refusal: str) -> Any:
    """The classes, nothing drawn for their weights."""
    try:
        with no_init_weights():
            classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            return classes._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
    except Exception as error:  # the classes may do anything
        raise UserError(f"{refusal} its classes cannot be built with another attention ({summarize_error(error)}).") from error


def _longest(config: PreTrainedConfig, refusal: str) -> int:
    """Tokens of the longest row. Raises UserError for what the classes do beside their attention and by a row's length."""
    if types := set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES:
        raise UserError(f"{refusal} its layers are of the type {', '.join(sorted(types))}. Known: {', '.join(sorted(LAYER_TYPES))}.")
    rotary = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rotary, *rotary.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        raise UserError(
            f"{refusal} its rotary positions are {(kinds & {'dynamic', 'longrope'}).pop()!r}, which turn by the length of the row, "
            "and rows of many lengths lie in one pack."
        )
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048)


def _head(causal: Any, refusal: str) -> torch.Size:
    """(V, C) of the vocabulary head, which must be a linear without a bias that stands beside the inner model."""
    head = causal.get_output_embeddings()
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None or all(child is not head for child in causal.children()):
        raise UserError(f"{refusal} its vocabulary head is {head}, where one linear without a bias is known.")
    if list(causal.parameters(recurse=False)) or causal.base_model is causal:
        raise UserError(f"{refusal} it has weights beside its inner model and its head.")
    return head.weight.shape


def _quantize_linears(blocks: list[GradientCheckpointingLayer], bits: int, refusal: str) -> None:
    """Put quantised linears, their integers not yet there, in place of those of the blocks."""
    found = [(block, name, layer) for block in blocks for name, layer in block.named_modules() if type(layer) is nn.Linear]
    if not found:
        raise UserError(f"{refusal} its blocks have no linears of torch's own, so there is nothing to quantise. Leave `quantize` out.")
    for block, name, layer in found:
        if bits == 4 and layer.in_features % 2:
            raise UserError(f"{refusal} {name!r} has {layer.in_features} columns, but at 4 bits two columns share a byte.")
        block.set_submodule(name, QuantizedLinear(layer.in_features, layer.out_features, bits, bias=layer.bias is not None))


class TransformersNetwork(Network):
    """A network whose parts are those of a transformers model, under their own names."""

    saves_tied_weights = False

    def __init__(
        self,
        causal: Any,
        blocks: list[GradientCheckpointingLayer],
        shape: ModelShape,
        *,
        end_ids: frozenset[int],
        quantization_bit: int | None,
        limit: int | None,
    ) -> None:
        super().__init__(shape, end_ids=end_ids, quantization_bit=quantization_bit)
        self.config = causal.config
        self.limit = limit
        """Tokens of the longest row that no sliding window cuts and that has positions; None where there is no bound."""
        self._whole = (causal,)  # in a tuple, so that its parts are not registered twice
        self._blocks: tuple[Any, ...] = tuple(blocks)
        head = next(name for name, child in causal.named_children() if child is causal.get_output_embeddings())
        self._inner = causal.base_model_prefix
        if self.config.tie_word_embeddings:
            embedding = next(name for name, part in causal.named_modules() if part is causal.get_input_embeddings())
            self.tied = {f"{head}.": f"{embedding}."}
        self._head = embedding if self.tied else head
        for name, child in causal.named_children():
            if name != head or not self.tied:
                self.add_module(name, child)
        linears = {name.rpartition(".")[2] for block in blocks for name, layer in block.named_modules() if _is_linear(layer)}
        self.lora_targets = tuple(sorted(linears & QUERIES_KEYS_VALUES or linears))
        self._names = frozenset(self.state_dict())
        _make_buffers(causal)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Tell the network, but not the classes in it: their dropout stays off, as in every other base here."""
        super().train(mode)
        for child in self.children():
            child.eval()
        return self

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the vocabulary head, which may be the embedding."""
        return self.get_parameter(f"{self._head}.weight")

    def forward(
        self,
        pack: Pack,
        *,
        prefix: Prefix | None = None,
        cache: KVCache | None = None,
        checkpointing: bool = False,
        hidden_states: list[Tensor] | None = None,
    ) -> Tensor:
        """See Network.forward. Raises UserError for a row that is longer than a sliding window or than there are positions."""
        length = max(pack.lengths) if cache is None else cache.length
        if self.limit is not None and length > self.limit:
            raise UserError(
                f"a row of {length} tokens is longer than {self.limit}: beyond that, this base has no positions, or looks back through a "
                "sliding window, which is not there for packed rows. Bound the rows at that length."
            )
        for block in self._blocks:  # a block is computed again where it believes that it trains
            block.gradient_checkpointing = block.training = checkpointing and torch.is_grad_enabled()
            block._gradient_checkpointing_func = partial(_recomputed, block)
        current = ForwardContext.from_pack(pack, prefix, cache)
        with _record_inputs(self._blocks, hidden_states):
            out = self.get_submodule(self._inner)(
                input_ids=pack.ids[None], position_ids=pack.positions[:1], use_cache=False, **{CONTEXT: current}
            )
        hidden: Tensor = out.last_hidden_state[0]
        if hidden_states is not None:
            hidden_states.append(hidden)
        return hidden

    def parameter_name(self, stored: str) -> str:
        """Some files leave out the name of the inner model."""
        return inner if stored not in self._names and (inner := f"{self._inner}.{stored}") in self._names else stored

    def finish_loading(self, device: torch.device) -> None:
        """See Network.finish_loading. Raises UserError where an unproven kind computes otherwise here than by its own attention."""
        self.to(device)  # the buffers, which no file holds
        (causal,) = self._whole
        causal.get_output_embeddings().weight = self.get_parameter(f"{self._head}.weight")
        if self.config.model_type not in PROVEN:
            self._compare(device)

    @torch.no_grad()
    def _compare(self, device: torch.device) -> None:
        (causal,) = self._whole
        rows = [[token % self.vocab_size for token in row] for row in COMPARED]
        found = self.logits(self(pack(rows, self).to(device))).split([len(row) for row in rows])
        self.config._attn_implementation = "eager"
        expected = [causal(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0] for row in rows]
        self.config._attn_implementation = ATTENTION
        apart = max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
        largest = max(float(one.abs().max()) for one in expected)
        if not apart <= NEAR * largest:
            raise UserError(
                f"{self.config.model_type!r} of transformers cannot be used here: over packed rows its classes give logits that differ by "
                f"{apart:.3g} of {largest:.3g} from their own, so they do more than attention, blocks and head. Use another base."
            )


def _recomputed(block: nn.Module, compute: Callable[..., Any], *given: Any) -> Any:
    """What a block computes, kept for no backward pass; as it computes it trains no more, so that its dropout stays off."""

    def still(*given: Any) -> Any:
        block.training = False
        return compute(*given)

    return checkpoint(still, *given, use_reentrant=False)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | QuantizedLinear)


@contextmanager
def _record_inputs(blocks: tuple[Any, ...], hidden_states: list[Tensor] | None) -> Iterator[None]:
    """Collect what enters each block."""
    hooks = (
        []
        if hidden_states is None
        else [block.register_forward_pre_hook(lambda _, given: hidden_states.append(given[0][0])) for block in blocks]
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _make_buffers(causal: Any) -> None:
    """Numbers that no file holds, such as rotary frequencies, on the CPU: what was built on the meta device has none of them."""
    for module in causal.modules():
        missing = [name for name in module._non_persistent_buffers_set if (there := module._buffers[name]) is not None and there.is_meta]
        for name in missing:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if missing:
            with torch.device("cpu"), torch.no_grad():
                causal._init_weights(module)
