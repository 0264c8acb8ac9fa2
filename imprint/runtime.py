"""The machine: device and dtype, random state, memory, and signals that stop a long job."""

import os
import platform
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from imprint.messages import Bilingual, UserError
from imprint.terminal import say

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}

OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED")
"""Parts of the out-of-memory messages of CUDA, the CPU allocator, the system and cuBLAS."""

STOPPING = Bilingual("stopping after this step; a second signal stops at once", "本步结束后停止，再按一次立即停止")


def choose_device(name: str | None) -> torch.device:
    """The device called `name`; by default the first GPU, else the CPU. Raises UserError if there is no such device."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _device_error(f'there is no device called "{name}"', f"没有名为 {name} 的设备") from None
    if device.type not in ("cpu", "cuda"):
        raise _device_error(f'the device "{name}" is not supported', f"不支持设备 {name}")
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        available = f"this machine has {gpus} (cuda:0 to cuda:{gpus - 1})" if gpus else "PyTorch sees no GPU here"
        raise UserError(
            Bilingual(
                f'the device "{name}" was requested, but {available}. Use device cpu, or check the driver with nvidia-smi.',
                f"指定的设备 {name} 不存在，本机可用的 GPU 数为 {gpus}：请使用 cpu，或用 nvidia-smi 检查驱动。",
            )
        )
    return device


def _device_error(english: str, chinese: str) -> UserError:
    return UserError(
        Bilingual(
            f"{english}; allowed are cpu, cuda, and cuda:0, cuda:1 ... for one of several GPUs.",
            f"{chinese}：可用 cpu、cuda，有多块 GPU 时还可用 cuda:0、cuda:1 等。",
        )
    )


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype called `name`; by default float32 on the CPU; on a GPU bfloat16 if supported, else float16. Raises UserError for others."""
    if name is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    dtype = DTYPES.get(str(name).removeprefix("torch.").lower())
    if dtype is None:
        raise UserError(
            Bilingual(
                f'"{name}" is not a dtype to compute in; allowed are {", ".join(DTYPES)}.',
                f"不能以 {name} 计算：可用 {'、'.join(DTYPES)}。",
            )
        )
    return dtype


def import_ahead(*modules: str) -> None:
    """Import modules in a second thread, in their order, while something else is waited for; whoever imports one meanwhile waits for it.

    One that cannot be imported is left to whoever needs it.
    """

    def work() -> None:
        for name in modules:
            with suppress(Exception):
                import_module(name)

    threading.Thread(target=work, daemon=True).start()


def seed_everything(seed: int) -> None:
    """Seed every random generator: Python's, NumPy's if it is imported, PyTorch's on all devices."""
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def rng_state() -> dict[str, Any]:
    """The state of every random generator as plain values and tensors, readable by `torch.load(weights_only=True)`."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    if numpy := sys.modules.get("numpy"):
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = [kind, [int(key) for key in keys], *rest]
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore every random generator; GPUs that are not in `state` keep theirs."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch"])
    for index, gpu_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(gpu_state, index)
    if "numpy" in state:
        import numpy as np

        np.random.set_state(tuple(state["numpy"]))


def memory_bytes() -> tuple[int, int]:
    """(total, available) main memory of this machine in bytes."""
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def cpu_name() -> str:
    """The name of the processor, as far as the system tells."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            field, _, value = line.partition(":")
            if field.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def child_processes() -> list[int]:
    """The process ids of this process's children."""
    return [child.pid for child in psutil.Process().children()]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the machine ran out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


def free_cached_memory(device: torch.device) -> None:
    """Give a GPU back the memory of tensors that are gone, which PyTorch keeps for later ones of the same kind."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: of tensors on a GPU since the last reset, of this process on the CPU."""
    if device.type == "cuda":
        peaks: Any = torch.cuda.memory_stats_as_nested_dict(device)  # memory_stats() flattens and sorts all of them
        return int(peaks["allocated_bytes"]["all"]["peak"]) if peaks else 0
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # missing on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yield a list that is non-empty after Ctrl-C, SIGTERM or SIGHUP: the caller saves and stops; a second signal stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers in the main thread only
        yield received
        return

    hangup = None if sys.platform == "win32" else signal.SIGHUP
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def handle(number: int, _frame: object) -> None:
        if number == hangup:  # may come twice; writing to the closed terminal would end the run before it is saved
            devnull = os.open(os.devnull, os.O_WRONLY)
            for descriptor in terminals:
                os.dup2(devnull, descriptor)
            os.close(devnull)
        elif received:
            raise KeyboardInterrupt
        received.append(number)
        with suppress(RuntimeError, OSError):  # a stream cannot be written to while the signal interrupts a writing to it
            say(f"\n{STOPPING.line}", stream=sys.stderr)

    signals = [signal.SIGINT, signal.SIGTERM]
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as under nohup
        signals.append(hangup)
    previous = {number: signal.signal(number, handle) for number in signals}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
