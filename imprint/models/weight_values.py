"""Values of weights: whether they are finite, and whether two tensors are the same, at a small share of the time that reading takes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError

CHUNK = 2**22
"""Values that are compared at a time."""
CACHED = 2**18
"""Values that two passes find in the processor's cache."""
EXPONENTS = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F800000, torch.float64: 0x7FF0000000000000}
"""Bits of infinity; NaN has larger ones, and the negative ones have the sign bit before them."""


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; True for integers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    tensor = tensor.detach() if tensor.dtype in EXPONENTS else tensor.detach().float()
    if tensor.device.type == "cpu":
        return all(map(_holds_numbers, tensor.reshape(-1).split(CACHED)))
    return all(math.isfinite(end.item()) for end in torch.aminmax(tensor))  # both are NaN if one value is


def _holds_numbers(values: Tensor) -> bool:
    """Whether all values are finite, by their bits as integers: the fastest way in one thread, and tensors are too small for several."""
    bits = values.view(getattr(torch, f"int{8 * values.itemsize}")).numpy()
    infinity = EXPONENTS[values.dtype]
    return bool(bits.max() < infinity and bits.view(f"u{values.itemsize}").max() < infinity + (1 << 8 * values.itemsize - 1))


def nearly_equal(stored: Tensor, other: Tensor) -> bool:
    """Whether all values are equal up to 16-bit rounding in the type of `other`; the tensors may have been stored in different types."""
    if stored.shape != other.shape:
        return False
    pairs = zip(stored.detach().reshape(-1).split(CHUNK), other.detach().reshape(-1).split(CHUNK), strict=True)
    return all(_nearly_equal(one.to(two.dtype).cpu(), two.cpu()) for one, two in pairs)


def equal_in_chunks(
    read_one: Callable[[], Tensor], read_other: Callable[[], Tensor], equal: Callable[[Tensor, Tensor], bool], chunk_bytes: int
) -> bool:
    """Whether two tensors are of one shape and each two chunks of their values are `equal`.

    They are read anew for each chunk: of a tensor that is mapped to its file no more than a chunk is in memory.
    """
    one, other = read_one(), read_other()
    if one.shape != other.shape:
        return False
    values, chunk = one.numel(), max(1, chunk_bytes // max(one.itemsize, other.itemsize))
    for start in range(0, values, chunk):
        if start:
            del one, other
            one, other = read_one(), read_other()
        if not equal(one.detach().reshape(-1)[start : start + chunk], other.detach().reshape(-1)[start : start + chunk]):
            return False
    return True


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether all values of two flat tensors are the same numbers; the types may differ."""
    return all(torch.equal(a.double(), b.double()) for a, b in zip(one.split(CHUNK), other.split(CHUNK), strict=True))


def _nearly_equal(one: Tensor, other: Tensor) -> bool:
    if all(part.nbytes % 8 == 0 and part.storage_offset() * part.itemsize % 8 == 0 for part in (one, other)) and torch.equal(
        one.view(torch.uint8).view(torch.int64), other.view(torch.uint8).view(torch.int64)
    ):
        return True  # bit by bit, five times as fast as by their values
    return torch.allclose(one.float(), other.float(), rtol=2**-7, atol=1e-6, equal_nan=True)


def not_finite_error(file: object, name: str, tensor: Tensor) -> UserError:
    """The error of a stored tensor with values that are not finite."""
    wrong = tensor.float().isfinite().logical_not()
    first = wrong.nonzero()[0].tolist()
    count = f"{int(wrong.sum())} of its {tensor.numel()} values"
    return UserError(
        Bilingual(
            f"{file}: {name!r} holds NaN or infinity: {count}, the first at {first}. The model would compute nothing but NaN with them. "
            "Download the file again; if it is your own, take a checkpoint from before the training diverged.",
            f"{file}："
            f"{name!r} 中有 {int(wrong.sum())} 个 NaN 或无穷大（共 {tensor.numel()} 个值，第一个在 {first}），模型的输出会全是 NaN："
            "请重新下载该文件；若是自己训练的，请改用训练发散之前的检查点。",
        )
    )


def overflow_error(folder: object, name: str, dtype: torch.dtype) -> UserError:
    """The error of a tensor whose stored values are finite, but not in the type in which it is loaded."""
    kind = str(dtype).removeprefix("torch.")
    return UserError(
        Bilingual(
            f"{folder}: {name!r} holds values that are too large for {kind}, and would become infinite. Load it in another type: "
            "dtype=bfloat16 or dtype=float32 (model.dtype in a recipe).",
            f"{folder}：{name!r} 有数值超出 {kind} 的范围，会变成无穷大：请改用 dtype=bfloat16 或 dtype=float32（配方中为 model.dtype）。",
        )
    )
