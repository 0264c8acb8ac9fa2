"""`imprint doctor`: versions, memory and devices of this machine, and the defaults they lead to."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from imprint import __version__
from imprint.messages import Bilingual
from imprint.models.kernel_paths import kernel_lines
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
OLD_CARDS = (7, 5)
"""Cards of a lower compute capability need a build for CUDA 12.6: CUDA 13 dropped Maxwell, Pascal and Volta."""
BUILDS = Bilingual("docs/install.md has the builds of all cards", "docs/install.md 列出各种显卡适用的版本")


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
    dtype = choose_dtype(None, device)
    yield f"{Bilingual('default', '默认使用').line}: {device}, {str(dtype).removeprefix('torch.')}"
    if device.type == "cuda":
        yield from kernel_lines(torch.device("cuda", torch.cuda.current_device()), dtype, version_of("triton"))
    else:
        layers = Bilingual("quantized layers", "量化层").line
        yield f"{layers}: {Bilingual('plain PyTorch, no compiler needed', '纯 PyTorch 计算，无需编译器').line}"
    for package, purpose, command in OPTIONAL:
        installed = version_of(package)
        missing = Bilingual(f"{package} is not installed", "未安装").line
        yield f"{package} {installed}: {purpose.line}" if installed else f"{missing}: {purpose.line}; {command}"
    yield f"{Bilingual('next', '接下来').line}: imprint init    {Bilingual('lists recipes to start from', '列出可用的配方').line}"


def device_lines() -> Iterator[str]:
    """Every GPU that PyTorch can use, and what keeps it from using one."""
    if not torch.cuda.is_available():
        yield f"GPU: {Bilingual('PyTorch finds none', '未检测到').line}: {_why_no_gpu().line}"
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        capability = f"{Bilingual('compute capability', '计算能力').line} {card.major}.{card.minor}"
        yield f"cuda:{index}: {card.name}, {card.total_memory / GIB:.1f} GiB, {capability}"
        if not has_code_for((card.major, card.minor), torch.cuda.get_arch_list()):
            command = install_command((card.major, card.minor))
            yield Bilingual(f"  this PyTorch has no code for it; try: {command}", "当前 PyTorch 不支持这块显卡，请改装上述版本").line


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build for these architectures (`sm_86`, `compute_120`) runs on a card.

    `sm_86` runs on 8.6 to 8.9, `compute_86` is compiled when it is loaded and runs on everything from 8.6.
    """
    for kind, _, number in (name.rstrip("af").partition("_") for name in architectures):
        built = (int(number[:-1]), int(number[-1])) if number.isdigit() else (99, 0)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def install_command(capability: tuple[int, int]) -> str:
    """The command that installs a build of PyTorch for a card."""
    return f"pip install torch --index-url https://download.pytorch.org/whl/{'cu126' if capability < OLD_CARDS else 'cu130'}"


def _why_no_gpu() -> Bilingual:
    """Why PyTorch finds no GPU, as far as can be seen."""
    cards = _cards_of_the_driver()
    if cards and torch.version.cuda is None:
        name, capability = cards[0]
        return Bilingual(
            f"this PyTorch is built without CUDA, but there is a {name}; try: {install_command(capability)}",
            f"当前 PyTorch 不含 CUDA，而本机有 {name}，请改装上述版本",
        )
    if torch.version.cuda is None:
        return Bilingual(f"this PyTorch is built without CUDA; {BUILDS.english}", f"当前 PyTorch 不含 CUDA；{BUILDS.chinese}")
    if cards:
        return Bilingual(
            f"it is built for CUDA {torch.version.cuda}, which the driver may be too old for; {BUILDS.english}",
            f"它需要 CUDA {torch.version.cuda}，驱动可能过旧；{BUILDS.chinese}",
        )
    return Bilingual(f"it is built for CUDA {torch.version.cuda}; `nvidia-smi` shows whether the driver works", "请用 nvidia-smi 检查驱动")


def _cards_of_the_driver() -> list[tuple[str, tuple[int, int]]]:
    """(name, compute capability) of every card that NVIDIA's driver lists; none without a driver."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = (re.fullmatch(r"(.+), (\d+)\.(\d)", line.strip()) for line in done.stdout.splitlines()) if done.returncode == 0 else ()
    return [(match[1], (int(match[2]), int(match[3]))) for match in found if match]
