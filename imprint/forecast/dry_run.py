"""Runs one micro-batch on the meta device and says what it takes: the code of training itself, with shapes and without numbers.

So the result follows from what a network, a tuning method and a weight format really keep, whatever the family, and changes with them.
Two networks of few blocks are run; every block but the first and the last takes the same, so all others follow.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from imprint.forecast.stand_ins import FusedAttention, gpu_kernels
from imprint.forecast.trace import PHASES, InUse, Kernel, Phase, Trace
from imprint.models.network import Network
from imprint.pack import pack
from imprint.quant.linear import QuantizedLinear, QuantizedWeight, prepare_backward
from imprint.tune.lora.section import LoraSection
from imprint.tune.section import AnySection, PrefixSection
from imprint.tune.tuner import build_tuner

DEPTHS: Final = (2, 4)
"""Numbers of blocks of the two networks."""
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Ids and labels of the sequences of a micro-batch."""


@dataclass(frozen=True)
class Setting:
    """How a micro-batch is computed."""

    build: Callable[[], Network]
    """Makes the network, in its dtype and weight format; called under the meta device."""
    tune: AnySection
    """What is trained."""
    checkpointing: bool
    """Whether blocks are recomputed in the backward pass."""
    accumulates: bool = False
    """Whether the gradient of an earlier micro-batch is there already."""
    fused_attention: bool = False
    """Whether attention is one kernel (see stand_ins)."""
    triton: bool = False
    """Whether kernels in Triton compute the loss and dequantize weights."""
    fp8: bool = False
    """Whether weights of FP8 are multiplied as they are."""


@dataclass(frozen=True)
class DryRun:
    """What a micro-batch takes, beside weights, trained parameters and optimizer state."""

    peaks: Mapping[Phase, InUse]
    """What is in use when most is in use, in each phase."""
    kept: int
    """Bytes that are kept for the backward pass when the head begins."""
    kernels: Counter[Kernel]
    """How many kernels of each kind there are."""
    trained: int
    """Number of trained elements."""
    trained_bytes: int
    """Their bytes."""

    @property
    def peak(self) -> InUse:
        """What is in use when most is in use."""
        return max(self.peaks.values(), key=Counter.total)


@dataclass(frozen=True)
class BaseSize:
    """The size of a network."""

    weights: int
    """Bytes of its weights as they are stored; tied ones count once."""
    depth: int
    """Number of blocks."""


def base_size(build: Callable[[], Network], *, fp8: bool = False) -> BaseSize:
    """The size of the network that `build` makes, with what it keeps to be tuned; `fp8` as in Setting."""
    with torch.device("meta"), gpu_kernels(fp8=fp8):
        network = build()
        prepare_backward(network, network.dtype)
    return BaseSize(weight_bytes(network), network.shape.num_layers)


def weight_bytes(network: Network) -> int:
    """Bytes of a network's weights as they are kept; tied ones count once."""
    tensors = (*network.parameters(), *network.buffers(), *_second_copies(network))
    return sum({tensor.untyped_storage()._cdata: tensor.nbytes for tensor in tensors}.values())


def _second_copies(network: Network) -> list[Tensor]:
    """What quantized weights keep for the gradient of what they multiply."""
    layers = (layer for layer in network.modules() if isinstance(layer, QuantizedWeight))
    return [tensor for layer in layers for tensor in layer.backward_tensors.values()]


def dry_run(setting: Setting, depth: int, texts: Texts) -> DryRun:
    """What a micro-batch of these texts takes on a network of `depth` blocks. Raises RuntimeError where shapes depend on numbers."""
    if depth <= DEPTHS[-1]:
        return _run(setting, texts, depth)
    shallow, deep = (_run(setting, texts, blocks) for blocks in DEPTHS)
    steps = (depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])

    def at_depth(one: float, other: float) -> int:
        return round(one + (other - one) * steps)

    def all_at_depth(one: Counter[Any], other: Counter[Any]) -> Counter[Any]:
        return Counter({key: at_depth(one[key], other[key]) for key in one | other})

    return DryRun(
        {phase: all_at_depth(shallow.peaks[phase], deep.peaks[phase]) for phase in PHASES},
        at_depth(shallow.kept, deep.kept),
        all_at_depth(shallow.kernels, deep.kernels),
        at_depth(shallow.trained, deep.trained),
        at_depth(shallow.trained_bytes, deep.trained_bytes),
    )


def _run(setting: Setting, texts: Texts, depth: int) -> DryRun:
    """The dry run of a network that has only so many blocks."""
    with torch.device("meta"):
        network = setting.build().requires_grad_(requires_grad=False).eval()
    blocks = next(module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module) == network.shape.num_layers)
    _keep_blocks(blocks, depth)
    network.shape = replace(network.shape, num_layers=depth)
    if setting.fused_attention:
        network.attention_backends = (FusedAttention(), *network.attention_backends)
    with torch.device("meta"), gpu_kernels(fp8=setting.fp8):
        tuner = build_tuner(network, _without_numbers(setting.tune), lambda _text: [0], checkpointing=setting.checkpointing).train()
    trained = list(tuner.trainable_parameters().values())
    batch = pack([ids for ids, _ in texts], network, [labels for _, labels in texts]).to("meta")
    trace, kept = Trace(), list[int]()
    inputs = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    trace.ignore([*tuner.parameters(), *tuner.buffers(), *_second_copies(network), *inputs])
    for parameter in trained:
        if setting.accumulates:
            parameter.grad = torch.empty_like(parameter)
            trace.count_gradient(parameter)
        parameter.register_post_accumulate_grad_hook(trace.count_gradient)

    def enter_head(*_: object) -> None:
        kept.append(trace.in_use.total())
        trace.enter("head")

    def enter_backward_end(_block: nn.Module, _inputs: object, out: Any) -> None:
        """Phase `end` begins when the backward pass comes to the first block."""
        hidden = out if isinstance(out, Tensor) else out[0]
        if hidden.requires_grad:
            hidden.register_hook(lambda _gradient: trace.enter("end"))

    network.register_forward_hook(enter_head)
    blocks[0].register_forward_hook(enter_backward_end)
    with gpu_kernels(triton=setting.triton, fp8=setting.fp8), trace:
        loss = tuner(batch)
        trace.enter("backward")
        loss.backward()
    return DryRun(
        {phase: trace.peaks.get(phase, Counter()) for phase in PHASES},
        kept[0],
        trace.kernels,
        sum(parameter.numel() for parameter in trained),
        sum(parameter.nbytes for parameter in trained),
    )


def _keep_blocks(blocks: nn.ModuleList, depth: int) -> None:
    """Leave the first `depth` blocks; the last of them gets the linears that a weight format leaves plain in the last of all."""
    kept, plain = blocks[depth - 1], {name: layer for name, layer in blocks[-1].named_modules() if isinstance(layer, nn.Linear)}
    quantized = [name for name, layer in kept.named_modules() if isinstance(layer, QuantizedLinear)]
    for name in plain.keys() & set(quantized):
        kept.set_submodule(name, plain[name])
    del blocks[depth:]


def _without_numbers(section: AnySection) -> AnySection:
    """The section for a new adapter whose initial values do not matter."""
    if isinstance(section, PrefixSection):
        return section.model_copy(update={"adapter": None, "start": "random"})
    if isinstance(section, LoraSection):
        return section.model_copy(update={"adapter": None})
    return section
