"""P-Tuning v2: a trained prefix of keys and values in every layer (Liu et al. 2021, arXiv 2110.07602).

Legend: P prefix length, K layers, G heads of keys and values, D head size.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from imprint.messages import Bilingual, UserError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import pack
from imprint.tune.adapter import PrefixMetadata, fp32_tensors
from imprint.tune.method import AdapterMethod
from imprint.tune.section import NO_TEXT_WITH_PROJECTION

DEFAULT_LENGTH = 128
"""Length of a new prefix, as in ChatGLM-6B's P-Tuning scripts."""
TENSOR_PREFIX = "transformer.prefix_encoder."
"""Prefix of the tensors' names, as in ChatGLM-6B's code."""
TENSORS_FILE = "prefix.safetensors"


@dataclass(frozen=True)
class PrefixShape:
    """The sizes of a prefix's tensors."""

    length: int
    """P."""
    layers: int
    """K."""
    heads: int
    """G."""
    head_size: int
    """D."""
    hidden_size: int
    """Hidden size of the base, and of the projection."""
    projection_width: int
    """Width of the embedding where a projection follows it."""
    projection: bool
    """Whether two linear layers compute keys and values from the embedding."""

    @property
    def width(self) -> int:
        """Size of the keys and values of all layers for one prefix token."""
        return self.layers * 2 * self.heads * self.head_size

    @classmethod
    def from_network(cls, network: Network, length: int, *, projection: bool) -> "PrefixShape":
        """The shape of a prefix for a network."""
        shape = network.shape
        return cls(length, shape.num_layers, shape.num_kv_heads, shape.head_dim, shape.hidden_size, network.projection_width, projection)


class PrefixEncoder(nn.Module):
    """A prefix as an `Adapter`: fp32 parameters with the names of ChatGLM-6B's code."""

    method: ClassVar[AdapterMethod] = "prefix"
    mergeable: ClassVar[bool] = False

    def __init__(self, shape: PrefixShape) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = 0.0
        weight = torch.empty(shape.length, shape.projection_width if shape.projection else shape.width)
        self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)  # filled by `init_prefix` or from a file
        self.trans = (
            nn.Sequential(nn.Linear(shape.projection_width, shape.hidden_size), nn.Tanh(), nn.Linear(shape.hidden_size, shape.width))
            if shape.projection
            else None
        )

    def prefix(self, dtype: torch.dtype, *, training: bool = False) -> Prefix:
        """Keys and values (P, G, D) of every layer in `dtype`; dropout has one mask for all rows of a micro-batch."""
        values = self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)
        values = functional.dropout(values, self.dropout) if training and self.dropout else values
        shape = self.shape
        layered = values.to(dtype).view(shape.length, shape.layers, 2, shape.heads, shape.head_size)
        pairs = (layer.unbind(1) for layer in layered.unbind(1))  # unbind: its gradient is one stack, not a tensor of zeros per slice
        return [(key, value) for key, value in pairs]

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """See Adapter."""
        return {TENSOR_PREFIX + name: parameter for name, parameter in self.named_parameters()}

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """See Adapter; all of them."""
        return self.named_tensors()

    def set_dropout(self, rate: float) -> None:
        """See Adapter."""
        self.dropout = rate

    def set_training(self, *, training: bool) -> None:
        """See Adapter; a prefix has no modules in the network."""

    def off(self) -> AbstractContextManager[None]:
        """See Adapter; a prefix has no modules in the network."""
        return nullcontext()

    def on(self) -> AbstractContextManager[None]:
        """See Adapter; a prefix has no modules in the network."""
        return nullcontext()

    def settings(self) -> dict[str, object]:
        """See Adapter."""
        return {"length": self.shape.length, "projection": self.shape.projection}

    def metadata(self, start: str) -> PrefixMetadata:
        """See Adapter."""
        return PrefixMetadata(self.shape.length, self.shape.projection, start)

    def save_files(self, folder: Path, base: str) -> None:  # noqa: ARG002
        """See Adapter."""
        save_file(fp32_tensors(self), folder / TENSORS_FILE, {"format": "pt"})

    def merge(self, *, dequantize: bool = False) -> None:  # noqa: ARG002
        """See Adapter; not possible."""
        raise AssertionError("a prefix is not mergeable")


def init_prefix(network: Network, shape: PrefixShape, start: str, text_ids: Sequence[int]) -> PrefixEncoder:
    """A new prefix on the network's device.

    `random` draws from N(0, 1) as ChatGLM-6B's code does; `zeros` makes all keys and values zero; `text` takes the keys and values that the
    base computes for `text_ids`, repeated to the prefix's length. Raises UserError for `text` together with the projection.
    """
    if start == "text" and shape.projection:
        raise UserError(
            Bilingual(
                f"tune.start: {NO_TEXT_WITH_PROJECTION}.",
                '带投影的前缀不能以 "text" 开始：请把 tune.start 设为 "random" 或 "zeros"，或把 tune.projection 设为 false。',
            )
        )
    device = network.device
    encoder = PrefixEncoder(shape).to(device)
    with torch.no_grad():
        encoder.embedding.weight.normal_()
        if start == "zeros":
            last = encoder.embedding if encoder.trans is None else encoder.trans[2]
            for parameter in last.parameters():
                parameter.zero_()
        elif start == "text":
            encoder.embedding.weight.copy_(_keys_and_values(network, text_ids, shape))
    return encoder


def _keys_and_values(network: Network, text_ids: Sequence[int], shape: PrefixShape) -> Tensor:
    """(P, width): the base's key-value cache of the text, which is repeated or cut to P tokens."""
    if not text_ids:
        raise UserError(
            Bilingual(
                'tune.text: is empty. Give the instruction of the task, or set tune.start to "random".',
                'tune.text 为空：请给出任务的指令，或把 tune.start 设为 "random"。',
            )
        )
    repeated = [text_ids[i % len(text_ids)] for i in range(shape.length)]
    cache = network.new_cache(1, shape.length)
    cache.length = shape.length
    network(pack([repeated], network).to(network.device), cache=cache)
    layers = [torch.stack((key[0], value[0]), 0) for key, value in zip(cache.keys, cache.values, strict=True)]  # K x (2, G, P, D)
    return torch.stack(layers).permute(3, 0, 1, 2, 4).reshape(shape.length, -1).float()


def prefix_from_tensors(tensors: Mapping[str, Tensor], network: Network, path: str) -> PrefixEncoder:
    """The prefix in a file's tensors; length and projection are read from their shapes.

    `path` names the file in errors. Raises UserError where there is no prefix or it belongs to a base of another shape.
    """
    by_name = _by_own_name(tensors, path)
    if "embedding.weight" not in by_name:
        names = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(
            Bilingual(
                f"{path}: holds no prefix ({TENSOR_PREFIX}embedding.weight); found {names}. Give the prefix file of a P-Tuning v2 run.",
                f"{path}：文件中没有前缀：请给出 P-Tuning v2 训练得到的前缀文件。",
            )
        )
    length = max(1, by_name["embedding.weight"].shape[:1].numel())
    shape = PrefixShape.from_network(network, length, projection="trans.0.weight" in by_name)
    with torch.device("meta"):
        encoder = PrefixEncoder(shape)
    own = dict(encoder.named_parameters())
    if more := sorted(by_name.keys() - own):
        raise UserError(
            Bilingual(
                f"{path}: holds {TENSOR_PREFIX}{more[0]}, which is no part of a prefix of P-Tuning v2. Allowed: {', '.join(own)}.",
                f"{path}：含有 {TENSOR_PREFIX}{more[0]}，它不属于 P-Tuning v2 的前缀；可用 {'、'.join(own)}。",
            )
        )
    for name, parameter in own.items():
        if name not in by_name or by_name[name].shape != parameter.shape or not by_name[name].is_floating_point():
            size = f"{tuple(by_name[name].shape)} of {by_name[name].dtype}" if name in by_name else "nothing"
            raise UserError(
                Bilingual(
                    f"{path}: {TENSOR_PREFIX}{name} is {size}, this base needs {tuple(parameter.shape)} "
                    f"({shape.layers} layers, hidden size {shape.hidden_size}). Load the prefix together with the base it was trained on.",
                    f"{path}：前缀与该底座的形状不符（需要 {tuple(parameter.shape)}）：请与其训练时的底座一起使用。",
                )
            )
    # not to_empty(): on the meta device, it imports the symbolic mathematics of PyTorch's compiler
    encoder.load_state_dict({name: by_name[name].to(network.device, own[name].dtype, copy=True) for name in own}, assign=True)
    return encoder


def _by_own_name(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The tensors of a prefix by the names inside of it. Raises UserError for two of one name with other values."""
    by_name: dict[str, Tensor] = {}
    for stored, tensor in tensors.items():
        _, found, name = stored.rpartition("prefix_encoder.")
        if found and not torch.equal(by_name.setdefault(name, tensor), tensor):
            raise UserError(
                Bilingual(
                    f"{path}: holds prefix_encoder.{name} twice with different values: which one is right is unknown. Take one of the two "
                    "out.",
                    f"{path}：prefix_encoder.{name} 出现两次而数值不同，无法判断哪个正确：请去掉其中一个。",
                )
            )
    return by_name
