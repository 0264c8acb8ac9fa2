"""`imprint doctor`: what this machine has, and what of it is used."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from imprint import __version__
from imprint.runtime import choose_device, choose_dtype, memory_bytes

GIB = 2**30
OPTIONAL = (
    ("openpyxl", "Excel files / 读写 Excel", "pip install 'imprint[tables]'"),
    ("pyarrow", "Parquet files / 读写 Parquet", "pip install 'imprint[tables]'"),
    ("deepspeed", "engine.deepspeed / 用 DeepSpeed 训练", "pip install --no-build-isolation deepspeed ninja"),
)
"""Package, what needs it, how to get it."""


def machine_command() -> None:
    """Print versions, devices, what is used by default, what is missing."""
    for line in machine_lines(Path.cwd()):
        print(line)  # noqa: T201


def machine_lines(here: Path) -> Iterator[str]:
    """What there is to say about this machine, `here` being where runs would be written."""
    system = f"{platform.system()} {platform.machine()}"
    yield f"Imprint {__version__}  Python {platform.python_version()}  PyTorch {torch.__version__}  {system}"
    yield f"transformers {version_of('transformers')}  peft {version_of('peft')}"
    total, free = memory_bytes()
    yield f"memory / 内存: {total / GIB:.1f} GiB, {free / GIB:.1f} free / 可用; CPU: {os.cpu_count()} cores / 核"
    yield f"disk here / 当前磁盘: {shutil.disk_usage(here).free / GIB:.1f} GiB free / 可用 ({here})"
    yield from device_lines()
    device = choose_device(None)
    dtype = str(choose_dtype(None, device)).removeprefix("torch.")
    yield f"used unless a recipe says otherwise / 默认使用: {device}, {dtype}"
    yield "INT8 and INT4 layers / 量化层: plain PyTorch, no compiler needed / 纯 PyTorch 计算，无需编译器"
    for package, purpose, command in OPTIONAL:
        there = version_of(package)
        yield f"{package} {there}: {purpose}" if there else f"{package} is missing / 未安装: {purpose}; {command}"


def device_lines() -> Iterator[str]:
    """Every GPU, or why there is none."""
    if not torch.cuda.is_available():
        cause = (
            "this PyTorch is built without CUDA; pytorch.org has the other builds / 当前 PyTorch 不含 CUDA"
            if torch.version.cuda is None
            else f"it is built for CUDA {torch.version.cuda}; `nvidia-smi` tells whether the driver is there / 请用 nvidia-smi 检查驱动"
        )
        yield f"GPU: PyTorch sees none / 未检测到: {cause}"
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {card.name}, {card.total_memory / GIB:.1f} GiB, compute capability / 计算能力 {card.major}.{card.minor}"


def version_of(package: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
