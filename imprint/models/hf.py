"""Every other causal language model: a transformers model wrapped as a Network, with its attention replaced by ours.

Pack, prefix and cache reach every attention as one keyword argument, so they are there again when activation checkpointing recomputes a
block. No code from the folder is run. Legend: T packed tokens, C hidden size, H query heads, G heads of keys and values, D
head size, P prefix length, V vocabulary size.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from imprint.messages import Bilingual, UserError
from imprint.models.attention import ForwardContext, Prefix, RowAdapters
from imprint.models.attention_probe import CONTEXT, AttentionProbe, probe_attention, summarize_error, unusable_error
from imprint.models.cache import KVCache
from imprint.models.configs.fields import field_error, positive_int, stop_ids, weight_format
from imprint.models.configs.unread import SHARE
from imprint.models.head_probe import probe_logits
from imprint.models.hf_fusible import let_norms_fuse, let_rotation_fuse
from imprint.models.hf_names import StoredNames, is_mask, replace_conv1d
from imprint.models.network import ModelShape, Network, checkpoint_block
from imprint.models.step_fusion import computed, fused_pass
from imprint.models.weight_values import is_finite
from imprint.pack import Pack, pack
from imprint.quant.formats import QUANTIZATION_FIELDS, has_foreign_config
from imprint.quant.linear import QuantizedLinear, dequantized_products, make_linear
from imprint.quant.weight_format import WeightFormat

ATTENTION = "imprint"
"""The name under which our attention is registered in transformers."""
VERIFIED = frozenset({"glm", "glm4", "llama", "mistral", "qwen2", "qwen3"})
"""Model types that the tests compare with transformers' own attention; any other is compared when its weights have been loaded."""
EXCLUDED_FIELDS = (*QUANTIZATION_FIELDS, "torch_dtype", "dtype", "auto_map", "num_labels", "id2label", "label2id")
"""Fields of a config.json that are not passed to transformers: those of quantized weights, which we read ourselves; the dtype, which the
caller chooses; `auto_map`, which names code, and no code of a model folder is run; and the labels of classifiers, which a language model
does not have: transformers would make a name for each of `num_labels`, even of a billion."""
MAX_BUFFER_BYTES = 2**30
"""Most bytes of what is computed when a model is built, such as masks and tables of positions: one of a million positions takes half."""
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
"""Supported layer types."""
BY_LENGTH = frozenset({"dynamic", "longrope"})
"""Kinds of rotary positions that depend on the length of a row."""
QKV_NAMES = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"})
"""Usual names of the linears that compute queries, keys and values."""
CHECK_ROWS = ((1, 2, 3, 4, 5), (3, 1, 2))
"""Ids, modulo the vocabulary size, on which an unverified model type is compared."""
CHECK_TOLERANCE = {torch.float32: 1e-4}
"""Largest accepted difference as a share of the largest logit, by the type of the weights."""
ROUGH_TOLERANCE = 0.05
"""The same for 16-bit types, which round in every layer."""


def attention_function(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, computed by ours: query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D)."""
    context: ForwardContext | AttentionProbe = arguments[CONTEXT]
    if isinstance(context, AttentionProbe):
        context.record(module, key, value, {**arguments, "attention_mask": attention_mask})
        return query.new_empty((1, query.shape[2], query.shape[1], value.shape[3])), None
    layer: int = module.layer_idx  # type: ignore[assignment]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scaling = arguments.get("scaling")
    if scaling is not None and abs(scaling * query.shape[-1] ** 0.5 - 1) > 1e-6:
        query = query * (scaling * query.shape[-1] ** 0.5)
    return context.attend(layer, query, key, value)[None], None


def is_supported(model_type: object) -> bool:
    """Whether transformers has a causal language model of this type."""
    return isinstance(model_type, str) and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def build(fields: dict[str, Any], generation: dict[str, Any]) -> Network:
    """The network for the fields of a config.json whose model type transformers has, without weights.

    `generation`: the fields of generation_config.json, which may name further end ids. Raises UserError where the model computes
    something that does not work with packed rows, a prefix or our cache.
    """
    quantized = weight_format(fields, {})
    config = _config(fields)
    model_type = config.model_type
    max_length = _max_length(config)
    AttentionInterface.register(ATTENTION, attention_function)
    model = _build_model(config)
    transposed = replace_conv1d(model)
    vars(model.config)["pad_token_id"] = None  # else some classes look for it in every row, to warn of a missing mask
    vocab_size, hidden_size = _head_shape(model, model_type)
    blocks = [module for module in model.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if any(parameter.dim() > 2 for block in blocks for parameter in block.parameters()):
        raise unusable_error(
            model_type,
            "it is a mixture of experts, whose weights are laid out differently in the files and in the model.",
            "它是混合专家模型，权重在文件中与在模型中的布局不同。",
        )
    if quantized:
        _quantize_linears(blocks, quantized, model_type)
    if not blocks:
        raise field_error("it describes a model without layers.", "所描述的模型没有任何层。")
    attentions = probe_attention(model.eval(), model_type)
    if len(blocks) != len(attentions):
        raise unusable_error(
            model_type,
            f"it has {len(blocks)} blocks and {len(attentions)} attentions; only one in each is supported.",
            f"它有 {len(blocks)} 个块和 {len(attentions)} 个注意力；只支持每块一个。",
        )
    let_norms_fuse(model)
    let_rotation_fuse(model)
    rule = probe_logits(model)
    ends = stop_ids({"eos_token_id": config.eos_token_id}) | stop_ids(generation, "generation_config.json")
    limits = [attention.window for attention in attentions if attention.window]
    if any(isinstance(module, nn.Embedding) and module is not model.get_input_embeddings() for module in model.modules()):
        limits.append(max_length)  # learned position embeddings
    shape = ModelShape(
        vocab_size=vocab_size,
        num_layers=len(attentions),
        num_kv_heads=attentions[0].num_kv_heads,
        head_dim=attentions[0].key_dim,
        hidden_size=hidden_size,
        max_length=min([max_length, *limits]),
    )
    network = TransformersNetwork(model, blocks, shape, stop_ids=ends, weight_format=quantized, max_row_tokens=min(limits, default=None))
    network.logit_scale, network.logit_cap, network.transposed = rule.scale, rule.cap, transposed
    return network


def _config(fields: dict[str, Any]) -> PreTrainedConfig:
    """Transformers' config object of the fields. Raises UserError where transformers cannot read them."""
    if has_foreign_config(fields):
        method = fields["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise UserError(
            Bilingual(
                f'config.json: "quantization_config" says that the weights are quantized by {method!r}, which is not supported. '
                "Give the folder with 16-bit weights; `quantize` rounds them to 8 or 4 bits.",
                f'config.json："quantization_config" 说明权重已用 {method!r} 量化，不支持：请给出 16 位权重的目录，再用 quantize 量化。',
            )
        )
    passed = {name: value for name, value in fields.items() if name not in EXCLUDED_FIELDS and not name.startswith("_")}
    try:
        return CONFIG_MAPPING[fields["model_type"]].from_dict(PreTrainedConfig._decode_special_floats(passed))
    except Exception as error:  # each class checks its fields in its own way
        reason = summarize_error(error)
        raise field_error(f"transformers cannot read it ({reason}).", f"transformers 无法读取（{reason}）。") from error


def _build_model(config: PreTrainedConfig) -> Any:
    """The transformers model with our attention, its weights not initialized."""
    try:
        with no_init_weights():
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            return model_class._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
    except Exception as error:  # transformers may raise anything
        reason = summarize_error(error)
        if not _can_be_built(config):
            raise field_error(
                f"transformers cannot build a {config.model_type!r} from these fields ({reason}).",
                f"transformers 无法按这些字段构建 {config.model_type!r}（{reason}）。",
            ) from error
        raise unusable_error(
            config.model_type, f"it cannot be built with another attention ({reason}).", f"无法以其他注意力构建（{reason}）。"
        ) from error


def _can_be_built(config: PreTrainedConfig) -> bool:
    """Whether transformers builds the model with its own attention."""
    try:
        with no_init_weights(), torch.device("meta"):
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            model_class._from_config(config, attn_implementation="eager")
    except Exception:  # transformers may raise anything
        return False
    return True


def _max_length(config: PreTrainedConfig) -> int:
    """Length in tokens of the longest row. Raises UserError for unsupported layer types, and for RoPE that depends on a row's length."""
    if types := set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES:
        names, supported = ", ".join(sorted(types)), ", ".join(sorted(LAYER_TYPES))
        raise unusable_error(
            config.model_type,
            f"its layers are of the type {names}. Supported: {supported}.",
            f"其层类型为 {names}，只支持 {supported}。",
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) and not getattr(config, "sliding_window", None):
        raise field_error(
            '"layer_types" names layers of "sliding_attention", but "sliding_window" gives them none, or "use_sliding_window" is false.',
            '"layer_types" 中有 "sliding_attention"，但 "sliding_window" 没有给出窗口，或 "use_sliding_window" 为 false。',
        )
    rotary = getattr(config, "rope_parameters", None) or {}
    rope_types = {str(part.get("rope_type", "default")) for part in (rotary, *rotary.values()) if isinstance(part, dict)}
    if by_length := rope_types & BY_LENGTH:
        rope_type = by_length.pop()
        raise unusable_error(
            config.model_type,
            f"its rotary positions are {rope_type!r}: the rotation depends on the length of the row, and one pack holds rows of many "
            "lengths.",
            f"其旋转位置编码为 {rope_type!r}，随行长变化，而一个批次中各行长度不同。",
        )
    known = {"default", *ROPE_INIT_FUNCTIONS}
    if unknown := sorted(rope_types - known):
        kinds = ", ".join(sorted(known - BY_LENGTH))
        raise field_error(
            f"the rotary positions are {unknown[0][:40]!r}, a kind that transformers does not know for this model. Supported: {kinds}.",
            f"旋转位置编码 {unknown[0][:40]!r} 是 transformers 对该模型不认识的类型；支持 {kinds}。",
        )
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048
    return positive_int({"max_position_embeddings": length}, "max_position_embeddings")


def _head_shape(model: Any, model_type: str) -> torch.Size:
    """(V, C) of the LM head. Raises UserError unless it is a linear without bias, and the base model is all there is beside it."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None or all(child is not head for child in model.children()):
        raise unusable_error(
            model_type,
            f"its LM head is {head}; only one linear without a bias is supported.",
            f"其词表输出层为 {head}；只支持一个无偏置的线性层。",
        )
    if list(model.parameters(recurse=False)) or model.base_model is model:
        raise unusable_error(model_type, "it has weights outside its base model and its head.", "除基础模型和输出层外还有其他权重。")
    return head.weight.shape


def _quantize_linears(blocks: list[GradientCheckpointingLayer], quantized: WeightFormat, model_type: str) -> None:
    """Replace the linears of the blocks by quantized ones without weights, but for the blocks that the format leaves as they are."""
    formats = [quantized.for_block(index, len(blocks)) for index in range(len(blocks))]
    inner = [block for block, of_block in zip(blocks, formats, strict=True) if of_block is not None]
    linears = [(block, name, layer) for block in inner for name, layer in block.named_modules() if type(layer) is nn.Linear]
    if not linears:
        raise unusable_error(
            model_type,
            "its blocks have no nn.Linear, so there is nothing to quantize. Leave `quantize` out.",
            "其各块中没有 nn.Linear，无可量化的权重：请去掉 quantize。",
        )
    for block, name, layer in linears:
        if problem := quantized.width_problem(layer.in_features):
            raise unusable_error(
                model_type,
                f"the width of {name!r}, {layer.in_features}, {problem.english}.",
                f"{name!r} 的宽度 {layer.in_features} {problem.chinese}。",
            )
        block.set_submodule(name, make_linear(layer.in_features, layer.out_features, quantized, bias=layer.bias is not None))


class TransformersNetwork(Network):
    """A transformers model as a Network; its modules keep their names."""

    saves_tied_copies = False
    gates = True
    logit_scale: float = 1.0
    """Factor of the logits, which the hidden states are multiplied by."""

    def __init__(
        self,
        model: Any,
        blocks: list[GradientCheckpointingLayer],
        shape: ModelShape,
        *,
        stop_ids: frozenset[int],
        weight_format: WeightFormat | None,
        max_row_tokens: int | None,
    ) -> None:
        super().__init__(shape, stop_ids=stop_ids, weight_format=weight_format)
        self.config = model.config
        config = type(model.config)
        rotated = {2 * buffer.numel() for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
        share = () if rotated == {shape.head_dim} else (SHARE,)  # a few kinds alone rotate a part of each head
        self.config_fields = frozenset((*inspect.signature(config).parameters, *dir(config), *config.attribute_map, *share))
        self.max_row_tokens = max_row_tokens
        """Length in tokens of the longest row that fits the sliding windows and the learned positions; None without either."""
        self._model = (model,)  # in a tuple, so that its modules are not registered twice
        self._blocks: tuple[Any, ...] = tuple(blocks)
        head = next(name for name, child in model.named_children() if child is model.get_output_embeddings())
        self.base_model_prefix: str = model.base_model_prefix
        """Name of the module with everything but the head; peft asks for it too."""
        if self.config.tie_word_embeddings:
            embedding = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
            self.tied = {f"{head}.": f"{embedding}."}
        self._head = embedding if self.tied else head
        for name, child in model.named_children():
            if name != head or not self.tied:
                self.add_module(name, child)
        linears = {name.rpartition(".")[2] for block in blocks for name, layer in block.named_modules() if _is_linear(layer)}
        self.lora_targets = tuple(sorted(linears & QKV_NAMES or linears))
        self._names = frozenset(self.state_dict())
        self._stored = StoredNames(model)
        _init_buffers(model)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Set the mode of this module only: the dropout of the transformers model stays off, as in every other base here."""
        super().train(mode)
        for child in self.children():
            child.eval()
        return self

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the LM head, which may be the embedding."""
        return self.get_parameter(f"{self._head}.weight")

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
        """See Network.forward. Raises UserError for a row that is longer than a sliding window or the learned positions."""
        self.check_length(max(pack.lengths) if cache is None else cache.length)
        for block in self._blocks:  # transformers checkpoints a block only in training mode
            block.gradient_checkpointing = block.training = checkpointing and torch.is_grad_enabled()
            block._gradient_checkpointing_func = partial(_checkpoint_block, block)
        adapters = adapters or RowAdapters(prefix)
        context = ForwardContext(pack, self.active_backends, adapters, cache)
        fused = fused_pass(self.fusion(cache, hidden_states))
        with _record_inputs(self._blocks, hidden_states), self.token_loras.use(adapters, pack.seq_ids), fused:
            out = self.get_submodule(self.base_model_prefix)(
                input_ids=pack.ids[None], position_ids=pack.positions[:1], use_cache=False, **{CONTEXT: context}
            )
        hidden: Tensor = computed(out.last_hidden_state)[0]
        if hidden_states is not None:
            hidden_states.append(hidden)
        return hidden if self.logit_scale == 1 else hidden * self.logit_scale

    def network_name(self, stored: str) -> str:
        """See Network; some files leave out the name of the base model, some have the names of older classes."""
        return self._stored.network_name(stored, self._names)

    def stored_name(self, name: str) -> str:
        """See Network."""
        return self._stored.stored_name(name, self._names)

    @torch.no_grad()
    def shift_keys(self, keys: Tensor, offset: int) -> Tensor:
        """See Network: rotated by the model's own rotary embedding. Raises UserError for a model type without a tested one."""
        (model,) = self._model
        rotary = getattr(model.base_model, "rotary_emb", None)
        rotate = getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)
        if self.config.model_type not in VERIFIED or rotary is None or rotate is None:
            raise UserError(
                Bilingual(
                    f"a prefix in peft's layout is supported on ChatGLM to GLM-4, BLOOM and {', '.join(sorted(VERIFIED))}, not on "
                    f"{self.config.model_type!r}: peft counts it as positions of the row.",
                    f"peft 布局的前缀只支持 ChatGLM 至 GLM-4、BLOOM 和 {'、'.join(sorted(VERIFIED))}，不支持 {self.config.model_type!r}。",
                )
            )
        window = self.max_row_tokens
        if window is not None and window < self.shape.max_length + abs(offset):
            raise UserError(
                Bilingual(
                    f"a prefix in peft's layout is not supported on a base with a sliding window ({window} tokens): peft counts the "
                    "prefix as tokens in it, and the window leaves them behind in longer rows.",
                    f"带滑动窗口（{window} 个词元）的底座不支持 peft 布局的前缀：peft 把前缀算作窗口内的词元，行较长时会看不到它们。",
                )
            )
        unrotated = keys.float().transpose(0, 1)[None]  # (1, G, P, D)
        positions = torch.full((1, keys.shape[0]), offset, device=keys.device)
        scale = getattr(rotary, "attention_scaling", 1.0)  # of some kinds of scaled positions; the keys have it already
        rotated: Tensor = rotate(unrotated, unrotated, *rotary(unrotated, positions))[1] / scale
        return rotated[0].transpose(0, 1)

    def is_computed(self, name: str) -> bool:
        """See Network."""
        return super().is_computed(name) or is_mask(name, self._names)

    def finish_loading(self, device: torch.device) -> None:
        """See Network.finish_loading. Raises UserError where an unverified model type gives other logits than with its own attention."""
        self.to(device)  # the buffers, which no file holds
        (model,) = self._model
        model.get_output_embeddings().weight = self.get_parameter(f"{self._head}.weight")
        if self.config.model_type not in VERIFIED:
            with dequantized_products(self):  # others round what they multiply, in one computation otherwise than in another
                self._verify(device)

    @torch.no_grad()
    def _verify(self, device: torch.device) -> None:
        (model,) = self._model
        rows = [[token % self.vocab_size for token in row] for row in CHECK_ROWS]
        logits = self.logits(self(pack(rows, self).to(device))).split([len(row) for row in rows])
        self.config._attn_implementation = "eager"
        try:
            expected = [model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0] for row in rows]
        except Exception as error:  # transformers may raise anything
            reason = summarize_error(error)
            raise unusable_error(
                self.config.model_type,
                f"transformers itself cannot run it with these fields ({reason}). Take config.json from the folder the weights come from.",
                f"transformers 自己也无法按这些字段运行它（{reason}）：请使用与权重同一目录的 config.json。",
            ) from error
        self.config._attn_implementation = ATTENTION
        difference = max(float((row - other).abs().max()) for row, other in zip(logits, expected, strict=True))
        largest = max(float(row.abs().max()) for row in expected)
        if not difference <= CHECK_TOLERANCE.get(self.dtype, ROUGH_TOLERANCE) * largest:
            raise unusable_error(
                self.config.model_type,
                f"its logits over packed rows differ by {difference:.3g} of {largest:.3g} from those with its own attention, so it "
                "computes something that packed rows do not allow. Use another base.",
                f"打包计算的 logits 与原有注意力相差 {difference:.3g}（最大值 {largest:.3g}），说明它还有其他计算：请换用其他底座。",
            )


def _checkpoint_block(block: nn.Module, compute: Callable[..., Any], *inputs: Any) -> Any:
    """Run a block with activation checkpointing; it is in training mode only to get here, and computes without dropout."""

    def without_dropout(*inputs: Any) -> Any:
        block.training = False
        return compute(*inputs)

    return checkpoint_block(block, without_dropout, *inputs)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | QuantizedLinear)


@contextmanager
def _record_inputs(blocks: tuple[Any, ...], hidden_states: list[Tensor] | None) -> Iterator[None]:
    """Append the input of each block to `hidden_states`, unless it is None."""
    hooks = (
        []
        if hidden_states is None
        else [block.register_forward_pre_hook(lambda _, inputs: hidden_states.append(inputs[0][0])) for block in blocks]
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _init_buffers(model: Any) -> None:
    """Compute on the CPU the buffers that no file holds, such as rotary frequencies; on the meta device they have no values."""
    buffers = (module._buffers[name] for module in model.modules() for name in module._non_persistent_buffers_set)
    if (needed := sum(buffer.nbytes for buffer in buffers if buffer is not None and buffer.is_meta)) > MAX_BUFFER_BYTES:
        raise field_error(
            f"what is computed of these fields has {needed / 2**30:,.1f} GiB, such as a mask of all positions; no model has so much.",
            f"按这些字段要计算的表有 {needed / 2**30:,.1f} GiB（例如全部位置的掩码）；没有这样的模型。",
        )
    for module in model.modules():
        missing = [name for name in module._non_persistent_buffers_set if (buffer := module._buffers[name]) is not None and buffer.is_meta]
        for name in missing:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if missing:
            with torch.device("cpu"), torch.no_grad():
                model._init_weights(module)
        if any(name.endswith("inv_freq") and not is_finite(module._buffers[name]) for name in missing):
            raise field_error(
                "the rotary positions are no numbers: rope_theta and the fields of rope_scaling or rope_parameters do not go together.",
                "旋转位置编码不是数：rope_theta 与 rope_scaling、rope_parameters 的字段不合理。",
            )
