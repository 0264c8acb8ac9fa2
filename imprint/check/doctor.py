"""`imprint doctor`: versions, memory and devices of this machine, and the defaults they lead to."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from imprint import __version__
from imprint.messages import Bilingual
from imprint.runtime import choose_device, choose_dtype, memory_bytes, version_of
from imprint.terminal import say

GIB = 2**30
FREE = Bilingual("free", "可用")
OPTIONAL = (
    ("openpyxl", Bilingual("Excel files", "读写 Excel"), "pip install 'imprint[tables]'"),
    ("pyarrow", Bilingual("Parquet files", "读写 Parquet"), "pip install 'imprint[tables]'"),
    ("deepspeed", Bilingual("engine.deepspeed", "用 DeepSpeed 训练"), "pip install --no-build-isolation deepspeed ninja"),
)
"""(package, what needs it, how to install it)."""


def machine_command() -> None:
    """Print versions, devices, defaults and missing packages."""
    for line in machine_lines(Path.cwd()):
        say(line)


def machine_lines(folder: Path) -> Iterator[str]:
    """The report; `folder` is where runs would be written."""
    system = f"{platform.system()} {platform.machine()}"
    yield f"Imprint {__version__}  Python {platform.python_version()}  PyTorch {torch.__version__}  {system}"
    yield f"transformers {version_of('transformers')}  peft {version_of('peft')}"
    total, free = memory_bytes()
    memory, cores = Bilingual("memory", "内存").line, Bilingual("cores", "核").line
    yield f"{memory}: {total / GIB:.1f} GiB, {free / GIB:.1f} {FREE.line}; CPU: {os.cpu_count()} {cores}"
    yield f"{Bilingual('disk', '当前磁盘').line}: {shutil.disk_usage(folder).free / GIB:.1f} GiB {FREE.line} ({folder})"
    yield from device_lines()
    device = choose_device(None)
    dtype = str(choose_dtype(None, device)).removeprefix("torch.")
    yield f"{Bilingual('default', '默认使用').line}: {device}, {dtype}"
    layers = Bilingual("INT8 and INT4 layers", "量化层")
    method = Bilingual("plain PyTorch, no compiler needed", "纯 PyTorch 计算，无需编译器")
    yield f"{layers.line}: {method.line}"
    for package, purpose, command in OPTIONAL:
        installed = version_of(package)
        missing = Bilingual(f"{package} is not installed", "未安装").line
        yield f"{package} {installed}: {purpose.line}" if installed else f"{missing}: {purpose.line}; {command}"


def device_lines() -> Iterator[str]:
    """Every GPU, or why there is none."""
    if not torch.cuda.is_available():
        cause = (
            Bilingual("this PyTorch is built without CUDA; pytorch.org has the other builds", "当前 PyTorch 不含 CUDA")
            if torch.version.cuda is None
            else Bilingual(
                f"it is built for CUDA {torch.version.cuda}; `nvidia-smi` shows whether the driver works", "请用 nvidia-smi 检查驱动"
            )
        )
        yield f"GPU: {Bilingual('PyTorch finds none', '未检测到').line}: {cause.line}"
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        capability = f"{Bilingual('compute capability', '计算能力').line} {card.major}.{card.minor}"
        yield f"cuda:{index}: {card.name}, {card.total_memory / GIB:.1f} GiB, {capability}"
