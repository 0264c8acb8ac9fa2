"""Whether the Triton kernels run on a device, and why not."""

import functools
from importlib.util import find_spec

import torch

from imprint.messages import Bilingual

OLDEST, MATRIX, BFLOAT16 = (7, 5), (8, 0), (8, 0)
"""Compute capabilities from which Triton compiles, multiplies matrices as these kernels need it, and has bfloat16."""
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
        found = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}" if str(error).strip() else type(error).__name__
        return Bilingual(f"Triton does not work here ({found})", f"Triton 在此不可用（{found}）")
    return None


def usable(index: int, dtype: torch.dtype, *, matrix: bool = False) -> bool:
    """Whether the kernels compute in this dtype on the GPU of this number; `matrix`: those that multiply matrices."""
    if dtype not in {torch.float16, torch.bfloat16} or problem(index) is not None:
        return False
    capability = torch.cuda.get_device_capability(index)
    return capability >= (MATRIX if matrix else OLDEST) and (dtype != torch.bfloat16 or capability >= BFLOAT16)


vars(usable)["_dynamo_marked_constant"] = True
"""As torch.compiler.assume_constant_result does, which loads the compiler: two seconds at the start of every command."""
