"""Whether the Triton kernels run on a device, and why not."""

import functools
from importlib.util import find_spec

import torch

from imprint.messages import Bilingual

OLDEST, MATRIX, BFLOAT16, FP8 = (7, 5), (8, 0), (8, 0), (8, 9)
"""Compute capabilities from which Triton compiles, multiplies matrices as these kernels need it, has bfloat16, and has FP8."""
NO_GPU = Bilingual("there is no NVIDIA GPU", "无 NVIDIA GPU")
NO_TRITON = Bilingual("Triton is not installed; try: pip install triton", "未安装 Triton，可执行 pip install triton")


@functools.cache
def problem(index: int) -> Bilingual | None:
    """Why the kernels do not run on the GPU of this number; None if they do. The first call compiles a small kernel and runs it."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return NO_GPU
    if find_spec("triton") is None:
        return NO_TRITON
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) < OLDEST:
        found = f"{major}.{minor}"
        return Bilingual(f"Triton needs compute capability 7.5, this card has {found}", f"Triton 需要计算能力 7.5，此卡为 {found}")
    from imprint.kernels import launch

    device = torch.device("cuda", index)
    weight = launch.QuantizedRows(torch.zeros(1, 4, dtype=torch.int8, device=device), torch.ones(1, device=device).half(), 4, 0, range(1))
    try:
        launch.dequantize(weight, torch.float16)
    except Exception as error:  # whatever Triton, the compiler that it calls or the driver raises
        return Bilingual(f"Triton does not work here ({_in_short(error)})", f"Triton 在此不可用（{_in_short(error)}）")
    return None


@functools.cache
def fp8_problem(index: int) -> Bilingual | None:
    """Why the GPU of this number does not multiply FP8; None if it does. The first call multiplies two small matrices."""
    if (why := problem(index)) is not None:
        return why
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) < FP8:
        found = f"{major}.{minor}"
        return Bilingual(f"products of FP8 need compute capability 8.9, this card has {found}", f"FP8 乘法需要计算能力 8.9，此卡为 {found}")
    try:
        right = _multiplies_fp8(torch.device("cuda", index))
    except Exception as error:  # whatever PyTorch or Triton raises where a card or a build lacks it
        return Bilingual(f"products of FP8 do not work here ({_in_short(error)})", f"FP8 乘法在此不可用（{_in_short(error)}）")
    return None if right else Bilingual("products of FP8 are wrong here", "FP8 乘法在此结果不正确")


def _multiplies_fp8(device: torch.device) -> bool:
    """Whether two small matrices have the right product."""
    from imprint.kernels import quantize_rows, scaled

    numbers, scales = quantize_rows.scaled_rows(torch.ones(16, 32, device=device))
    weight = scaled.ScaledWeight(numbers.view(torch.uint8), scales[:, 0].contiguous(), None, None, None)
    return bool((scaled.scaled_linear(torch.ones(3, 32, device=device).bfloat16(), weight) == 32).all())


def _in_short(error: Exception) -> str:
    name, message = type(error).__name__, str(error).strip()
    return f"{name}: {message.splitlines()[0][:100]}" if message else name


def dtype_problem(index: int, dtype: torch.dtype, *, matrix: bool = False) -> Bilingual | None:
    """Why the kernels do not compute in this dtype on the GPU of this number; None if they do. `matrix`: those that multiply matrices."""
    if dtype not in {torch.float16, torch.bfloat16}:
        name = str(dtype).removeprefix("torch.")
        return Bilingual(f"the kernels compute in 16 bits, not in {name}", f"内核只用 16 位计算，不用 {name}")
    if (why := problem(index)) is not None:
        return why
    capability = torch.cuda.get_device_capability(index)
    found = ".".join(map(str, capability))
    if dtype == torch.bfloat16 and capability < BFLOAT16:
        return Bilingual(f"bfloat16 needs compute capability 8.0, this card has {found}", f"bfloat16 需要计算能力 8.0，此卡为 {found}")
    if matrix and capability < MATRIX:
        return Bilingual(
            f"kernels that multiply matrices need compute capability 8.0, this card has {found}",
            f"矩阵乘法内核需要计算能力 8.0，此卡为 {found}",
        )
    return None


def usable(index: int, dtype: torch.dtype, *, matrix: bool = False) -> bool:
    """Whether there is no `dtype_problem`."""
    return dtype_problem(index, dtype, matrix=matrix) is None


vars(usable)["_dynamo_marked_constant"] = True
"""As torch.compiler.assume_constant_result does, which loads the compiler: two seconds at the start of every command."""
