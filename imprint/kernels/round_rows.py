"""Rounds rows of numbers to FP8, each with a scale of its own: by a kernel on a GPU, and by PyTorch.

Legend: T tokens, F features.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels.attend_step import on_device
from imprint.kernels.tiles import power_of_two

FP8: Final = torch.float8_e4m3fn
LARGEST: Final = 448.0
"""The largest number of FP8."""
SMALLEST: Final = 2.0**-100
"""The largest magnitude of a row counts as at least this, so that no scale is 0."""
FEATURES_PER_WARP = 1024
"""Numbers of a row for each group of 32 threads."""


def rounded(
    x: Tensor, factors: Tensor | None = None, *, activated: bool = False, before: Tensor | None = None, kind: torch.dtype = FP8
) -> tuple[Tensor, Tensor]:
    """X (..., F) as numbers of 8 bits (T, F) and their scales (T, 1), by which x is the product of both.

    `activated`: of the tanh approximation of its GELU; `before`: of x times the derivative of that at `before`. `factors` (F,), if given,
    multiply that before it is rounded.
    """
    flat, before = x.reshape(-1, x.shape[-1]), None if before is None else before.reshape(-1, before.shape[-1])
    if flat.device.type != "cpu":
        return by_kernel(flat, factors, kind, activated=activated, before=before)
    values = flat.float()
    if activated:
        values = functional.gelu(values, approximate="tanh")
    if before is not None:
        values = torch.ops.aten.gelu_backward(values, before.float(), approximate="tanh")
    return scaled_rows(values if factors is None else values * factors, kind)


def scaled_rows(values: Tensor, kind: torch.dtype = FP8) -> tuple[Tensor, Tensor]:
    """Rows (T, F) in fp32 as numbers of `kind` and their scales (T, 1)."""
    largest, most = values.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST), torch.finfo(kind).max
    return (values * (most / largest)).clamp_(-most, most).to(kind), largest / most


def by_kernel(
    x: Tensor, factors: Tensor | None, kind: torch.dtype, *, activated: bool = False, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rounded` of rows (T, F) in one pass over memory; `factors` are fp32."""
    from imprint.kernels.round_rows_kernels import round_rows_kernel

    x, before = _rows(x), None if before is None else _rows(before)
    tokens, features = x.shape
    block = power_of_two(features)
    out = torch.empty((tokens, features), dtype=kind, device=x.device)
    scales = torch.empty((tokens, 1), dtype=torch.float32, device=x.device)
    with on_device(x):
        round_rows_kernel[(tokens,)](
            *(x, x if before is None else before, scales if factors is None else factors, out, scales),
            x.stride(0),
            0 if before is None else before.stride(0),
            F=features,
            BLOCK=block,
            MOST=torch.finfo(kind).max,
            LEAST=SMALLEST,
            ACTIVATE=activated,
            DERIVATIVE=before is not None,
            HAS_FACTORS=factors is not None,
            num_warps=max(1, min(16, block // FEATURES_PER_WARP)),
        )
    return out, scales


def _rows(x: Tensor) -> Tensor:
    """Rows whose numbers are next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()
