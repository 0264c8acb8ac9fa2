"""Where the two weights of the vocabulary are if memory is short: the LM head quantized, the rows of the embedding in main memory.

Legend: V vocabulary size, C hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from imprint.messages import Bilingual, UserError
from imprint.models.host_rows import HostRows, RowEmbedding
from imprint.models.network import Network
from imprint.quant.linear import QuantizedEmbedding


@torch.no_grad()
def reduce_vocabulary_memory(network: Network, *, quantize_head: bool, embedding_on_host: bool) -> None:
    """Save GPU memory: quantize the head in the format of the blocks, and keep the embedding in main memory.

    A tied embedding gives rows of the dequantized head, unless it is kept in main memory. The network is frozen after this. Raises
    UserError where that is not possible; on a CPU the embedding is in main memory already.
    """
    head = network.head
    if isinstance(head, QuantizedEmbedding):
        if embedding_on_host:
            raise _quantized_embedding()
        return
    on_host = embedding_on_host and has_own_memory(network.device)
    name, embedding = next(
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Embedding) and module.weight.shape == head.shape
    )
    tied = embedding.weight is head
    if embedding_on_host and tied and not quantize_head:
        raise _tied_embedding()
    quantized = _quantized(network, head) if quantize_head else None
    if on_host:
        network.host_rows, network.replays_steps = HostRows(embedding.weight), False
        _remove(network, embedding.weight)
        network.set_submodule(name, RowEmbedding(embedding, network.host_rows))
    elif tied and quantized is not None and not embedding_on_host:
        dtype = network.dtype
        _remove(network, embedding.weight)
        network.set_submodule(name, RowEmbedding(embedding, lambda ids: quantized.dequantize(dtype, ids)))
    if quantized is not None:
        if not tied:
            _remove(network, head)
        network.quantized_head = quantized
    network.changed()


def has_own_memory(device: torch.device) -> bool:
    """Whether main memory is not the device's."""
    return device.type != "cpu"


def refuse_missing_weights(network: Network) -> None:
    """Raise UserError for a network without all of its own weights, which cannot be trained in full, merged into, or written."""
    if network.removed_first_rows or network.quantized_head is not None:
        raise UserError(
            Bilingual(
                "the head of this model is quantized, or its embedding is in main memory, so its weights cannot be changed or written. "
                "Open it with quantize_head=false and embedding_on_host=false.",
                "此模型的输出层已量化，或词嵌入在内存中，不能修改或写出权重：请以 quantize_head=false、embedding_on_host=false 打开。",
            )
        )


def _quantized(network: Network, weight: Tensor) -> QuantizedEmbedding:
    """The weight (V, C) in the format of the blocks."""
    weight_format = network.weight_format
    if weight_format is None:
        raise UserError(
            Bilingual(
                "quantize_head: the head takes the format of the blocks, which are not quantized. Set quantize too, or leave quantize_head "
                "out.",
                "quantize_head：输出层使用各层的量化格式，而它们没有量化：请同时设置 quantize，或去掉 quantize_head。",
            )
        )
    rows, columns = weight.shape
    if (problem := weight_format.width_problem(columns)) is not None:
        raise UserError(
            Bilingual(
                f"quantize_head: the head has {columns} columns, {problem.english}. Leave quantize_head out.",
                f"quantize_head：输出层有 {columns} 列，{problem.chinese}：请去掉 quantize_head。",
            )
        )
    with weight.device:
        layer = QuantizedEmbedding(rows, columns, weight_format)
    if not weight.is_meta:
        layer.tensors = weight_format.quantize(weight)
    return layer.eval()


def _remove(network: Network, weight: Tensor) -> None:
    """Take a parameter out of the network, wherever it stands; its first row stays, by which an adapter knows its base."""
    modules: list[nn.Module] = [*network.modules(), *(part for one in getattr(network, "_model", ()) for part in one.modules())]
    network.removed_first_rows |= {name: weight[:1].clone() for name, parameter in network.named_parameters() if parameter is weight}
    for module in modules:
        own: dict[str, Any] = module._parameters
        own.update({name: None for name, parameter in own.items() if parameter is weight})


def _quantized_embedding() -> UserError:
    return UserError(
        Bilingual(
            "embedding_on_host: the embedding of this base is quantized, and is small on the GPU. Leave it out.",
            "embedding_on_host：此底座的词嵌入已量化，占显存不多：请去掉该项。",
        )
    )


def _tied_embedding() -> UserError:
    return UserError(
        Bilingual(
            "embedding_on_host: the embedding of this base is its LM head too, which every step reads as a whole. Set quantize_head=true "
            "too, which keeps the head on the GPU in the format of the blocks, or leave embedding_on_host out.",
            "embedding_on_host：此底座的词嵌入也是输出层，每一步都要完整读取：请同时设置 quantize_head=true（输出层量化后留在显存），"
            "或去掉 embedding_on_host。",
        )
    )
