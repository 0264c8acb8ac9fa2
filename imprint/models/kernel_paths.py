"""Which kernels train and decode on a GPU, and why no others, as lines of text: asked of what decides it when a model runs."""

from collections.abc import Iterator

import torch

from imprint.kernels.available import NO_GPU, dtype_problem, fp8_problem, problem
from imprint.kernels.compilations import compilations
from imprint.messages import Bilingual
from imprint.models.decode_attention import DecodeAttention
from imprint.models.packed_attention import PackedAttention

USUAL_HEAD_DIM = 128
"""Of ChatGLM, GLM-4 and most others; smaller ones are computed as well."""
GRAPHS = Bilingual("CUDA graphs", "CUDA 图")
NO_GRAPHS = Bilingual("no CUDA graphs", "无 CUDA 图")
TRITON = Bilingual("Triton", "Triton")
PLAIN = Bilingual("plain PyTorch", "纯 PyTorch")


def kernel_lines(device: torch.device, usual: torch.dtype, triton: str | None) -> Iterator[str]:
    """How a GPU trains and decodes in the dtype that is usual there, and in float32; `triton`: its version."""
    kernels = Bilingual("kernels", "计算内核").line
    if (why := problem(device.index)) is None:
        off = Bilingual(
            "model.kernels=plain switches them and the graphs off, train.cuda_graphs=false those of training",
            "model.kernels=plain 关闭内核与图，train.cuda_graphs=false 只关闭训练的图",
        )
        yield f"{kernels}: Triton {triton}; {off.line}"
    else:
        yield f"{kernels}: {PLAIN.line}: {why.line}"
    for line in (training_line(device, usual), decoding_line(device, usual), products_line(device, usual)):
        yield f"  {line}"
    for line in (training_line(device, torch.float32), decoding_line(device, torch.float32)):
        yield f"  {line}"
    yield fp8_line(device)


def graphs_problem(device: torch.device) -> Bilingual | None:
    """Why a device repeats no steps of decoding, whatever the network; None where it does, which takes no Triton."""
    return None if device.type == "cuda" else NO_GPU


def compiled_kernels() -> Bilingual | None:
    """How many Triton kernels this process has compiled, and how many it found compiled; None where it used none."""
    made = compilations()
    if not made.compiled and not made.read:
        return None
    return Bilingual(
        f"Triton kernels compiled: {made.compiled}, found in its cache: {made.read}",
        f"编译 Triton 内核 {made.compiled} 个，取自缓存 {made.read} 个",
    )


def training_line(device: torch.device, dtype: torch.dtype) -> str:
    """How packed rows are computed: the passes are repeated as graphs where one kernel attends, see training/graphs.py."""
    why = PackedAttention.problem(USUAL_HEAD_DIM, device, dtype)
    path = _attention(why, GRAPHS if why is None else NO_GRAPHS)
    return _line(Bilingual("training", "训练"), dtype, path, why)


def decoding_line(device: torch.device, dtype: torch.dtype) -> str:
    """How steps of one token are computed."""
    why = DecodeAttention.problem(device, dtype)
    path = _attention(why, GRAPHS if graphs_problem(device) is None else NO_GRAPHS)
    return _line(Bilingual("decoding", "解码"), dtype, path, why)


def products_line(device: torch.device, dtype: torch.dtype) -> str:
    """How one token is multiplied by a weight, and quantized weights by several."""
    work = Bilingual("products of decoding, quantized layers", "解码的乘法和量化层")
    if (why := dtype_problem(device.index, dtype)) is not None:
        return _line(work, dtype, PLAIN, why)
    if (why := dtype_problem(device.index, dtype, matrix=True)) is None:
        return _line(work, dtype, TRITON, None)
    path = Bilingual("Triton; for several tokens at once, weights are dequantized", "Triton，一次多个词元时先还原权重")
    return _line(work, dtype, path, why)


def plain_work(device: torch.device, dtype: torch.dtype) -> Bilingual:
    """What plain PyTorch computes where there is no kernel for attention."""
    if dtype_problem(device.index, dtype) is None:
        return Bilingual("attention", "注意力")
    return Bilingual("attention and most products", "注意力和大部分乘法")


def _attention(why: Bilingual | None, graphs: Bilingual) -> Bilingual:
    """What computes attention, and whether whole passes are repeated."""
    path = TRITON if why is None else PLAIN
    return Bilingual(f"attention by {path.english}, {graphs.english}", f"注意力由 {path.chinese} 计算，{graphs.chinese}")


def _line(work: Bilingual, dtype: torch.dtype, path: Bilingual, why: Bilingual | None) -> str:
    name = str(dtype).removeprefix("torch.")
    english, chinese = f"{work.english}, {name}: {path.english}", f"{work.chinese}，{name}：{path.chinese}"
    if why is not None:
        english, chinese = f"{english}: {why.english}", f"{chinese}：{why.chinese}"
    return Bilingual(english, chinese).line


def fp8_line(device: torch.device) -> str:
    """Whether products with FP8 weights are computed as such, and why not."""
    fp8, why = Bilingual("model.quantize=fp8", "FP8").line, fp8_problem(device.index)
    if why is None:
        return f"{fp8}: {Bilingual('multiplied by tensor cores', '由张量核心直接相乘').line}"
    return f"{fp8}: {Bilingual('weights are dequantized', '先还原权重').line}: {why.line}"
