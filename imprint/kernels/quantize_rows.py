"""Quantizes rows of numbers to FP8, each with a scale of its own: by a kernel on a GPU, and by PyTorch.

Legend: T tokens, F features.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

FP8: Final = torch.float8_e4m3fn
LARGEST: Final = 448.0
"""The largest number of FP8."""
SMALLEST: Final = 2.0**-100
"""The largest magnitude of a row counts as at least this, so that no scale is 0."""
FEATURES_PER_WARP = 1024
"""Numbers of a row for each group of 32 threads."""


def quantize_rows(
    x: Tensor, factors: Tensor | None = None, *, activated: bool = False, pre_activation: Tensor | None = None, dtype: torch.dtype = FP8
) -> tuple[Tensor, Tensor]:
    """Numbers of 8 bits (T, F) and scales (T, 1), whose product is about x (..., F).

    `activated`: about GELU(x), by the tanh approximation; `pre_activation`: about x times the derivative of GELU there. `factors` (F,), if
    given, multiply that before it is rounded.
    """
    flat = x.reshape(-1, x.shape[-1])
    pre_activation = None if pre_activation is None else pre_activation.reshape(-1, pre_activation.shape[-1])
    if flat.device.type != "cpu":
        return by_kernel(flat, factors, dtype, activated=activated, pre_activation=pre_activation)
    values = flat.float()
    if activated:
        values = functional.gelu(values, approximate="tanh")
    if pre_activation is not None:
        values = torch.ops.aten.gelu_backward(values, pre_activation.float(), approximate="tanh")
    return scaled_rows(values if factors is None else values * factors, dtype)


def scaled_rows(values: Tensor, dtype: torch.dtype = FP8) -> tuple[Tensor, Tensor]:
    """Rows (T, F) in fp32 as numbers of `dtype` and their scales (T, 1)."""
    largest, most = values.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST), torch.finfo(dtype).max
    return (values * (most / largest)).clamp_(-most, most).to(dtype), largest / most


def by_kernel(
    x: Tensor, factors: Tensor | None, dtype: torch.dtype, *, activated: bool = False, pre_activation: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of rows (T, F) in one pass over memory; `factors` are fp32."""
    from imprint.kernels.quantize_rows_kernels import quantize_rows_kernel

    x, pre_activation = _rows(x), None if pre_activation is None else _rows(pre_activation)
    tokens, features = x.shape
    block = power_of_two(features)
    out = torch.empty((tokens, features), dtype=dtype, device=x.device)
    scales = torch.empty((tokens, 1), dtype=torch.float32, device=x.device)
    with on_device(x):
        quantize_rows_kernel[(tokens,)](
            *(x, x if pre_activation is None else pre_activation, scales if factors is None else factors, out, scales),
            x.stride(0),
            0 if pre_activation is None else pre_activation.stride(0),
            F=features,
            BLOCK=block,
            MOST=torch.finfo(dtype).max,
            LEAST=SMALLEST,
            ACTIVATE=activated,
            DERIVATIVE=pre_activation is not None,
            HAS_FACTORS=factors is not None,
            num_warps=max(1, min(16, block // FEATURES_PER_WARP)),
        )
    return out, scales


def _rows(x: Tensor) -> Tensor:
    """Rows whose numbers are next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()
