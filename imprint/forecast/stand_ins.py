"""What a GPU computes in one kernel and the meta device in several; and the attention and the loss of a fused kernel.

This is the place that says what a fast path keeps for the backward pass. Legend: T packed tokens, P prefix length, H query heads, G
heads of keys and values, D head size.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels import quantize_rows
from imprint.models import loss
from imprint.models.attention import ForwardContext
from imprint.quant import scaled_matmul
from imprint.quant.weight_format import StoredWeight


@contextmanager
def gpu_kernels(*, triton: bool = False, fp8: bool = False) -> Iterator[None]:
    """Inside this block RMSNorm and dropout allocate and keep what they do on a GPU, in a recomputation too.

    `triton`: the gradient of the loss takes the place of the logits, as in kernels/cross_entropy.py, and a dequantized weight is all that
    dequantizing it takes. `fp8`: weights of FP8 are multiplied as they are by numbers that one kernel has rounded.
    """
    replaced: list[tuple[Any, str, Any]] = [(functional, name, one) for name, one in REPLACED.items()]
    replaced.append((loss, "has_kernel", lambda _device, dtype: triton and loss.FUSED and dtype.itemsize == 2))
    if triton:
        replaced.append((StoredWeight, "dequantize", _dequantize))
    if fp8:
        replaced += [(scaled_matmul, "_usable", lambda _device: True), (quantize_rows, "by_kernel", _quantized_rows)]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, one in replaced:
        setattr(owner, name, one)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _dequantize(weight: StoredWeight, dtype: torch.dtype) -> Tensor:
    return torch.zeros((len(weight.rows), weight.columns), dtype=dtype, device=weight.device)


def _quantized_rows(
    x: Tensor,
    _factors: object,
    dtype: torch.dtype,
    *,
    activated: bool = False,  # noqa: ARG001 - as quantize_rows.by_kernel
    pre_activation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    read = (x,) if pre_activation is None else (x, pre_activation)
    numbers, scales = x.new_empty(x.shape, dtype=dtype), x.new_empty((len(x), 1), dtype=torch.float32)
    for one in read:  # as much memory traffic as the kernel has
        numbers.copy_(one)
    return numbers, scales


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:  # noqa: ARG001
    out: Tensor = _RmsNorm.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: ARG001, FBT001, FBT002
    return torch.native_dropout(x, p, train=training)[0] if training and p else x


REPLACED: Final[Mapping[str, Callable[..., Tensor]]] = MappingProxyType({"rms_norm": _rms_norm, "dropout": _dropout})
"""Names in torch.nn.functional."""


class _RmsNorm(torch.autograd.Function):
    """Keeps its input and one fp32 number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        factor = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        ctx.save_for_backward(x, weight, factor)
        return torch.mul(x, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """One kernel; with a trained weight, another."""
        x, weight, _ = ctx.saved_tensors
        return torch.mul(grads[0], x), None if not ctx.needs_input_grad[1] else torch.mul(grads[0], x).sum(0).to(weight.dtype)


@dataclass(frozen=True)
class ComputePath:
    """How the kernels of a step are computed and launched."""

    fused_attention: bool = False
    """Attention is one kernel over packed rows."""
    triton: bool = False
    """Kernels in Triton compute the loss of logits, whose gradient takes their place, and dequantize a weight in one pass."""
    graphs: bool = False
    """The kernels of a micro-batch are repeated as one CUDA graph, and gradients have memory of their own from the start."""
    fp8: bool = False
    """Weights of FP8 are multiplied by tensor cores, and kept a second time for the gradient of what they multiply."""
    split_masters: bool = False
    """Trained bfloat16 weights are updated in one pass, and half of each fp32 master is the weight itself."""


PLAIN = ComputePath()


class FusedAttention:
    """A stand-in for attention in one kernel over packed rows, with the prefix as leading keys: it allocates and keeps the same."""

    rotates = False

    def supports(self, context: ForwardContext) -> bool:
        """See AttentionBackend: without a cache."""
        return context.cache is None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: ForwardContext,
        *,
        score_scale: float,  # noqa: ARG002
        slopes: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """See AttentionBackend."""
        prefix = (None, None) if context.adapters.prefix is None else context.adapters.prefix[layer]
        attended: Tensor = _FusedAttention.apply(query, key, value.contiguous(), *prefix)  # type: ignore[no-untyped-call]
        return attended


class _FusedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, prefix, output, and an fp32 log-sum-exp for each token and head.

    Queries or keys that are part of a larger tensor keep all of it.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor | None, prefix_value: Tensor | None) -> Tensor:
        out, log_sum = query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, log_sum)
        return out.copy_(query)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients to queries, keys, values and the prefix; those of the prefix are summed in fp32."""
        query, key, value, prefix_key, prefix_value, _, _ = ctx.saved_tensors
        of_prefix = (None if tensor is None else tensor.float().to(tensor.dtype) for tensor in (prefix_key, prefix_value))
        return torch.mul(query, grads[0]), torch.mul(key, key), torch.mul(value, value), *of_prefix
