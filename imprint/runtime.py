"""The machine: which device and type to compute in, the random state, memory, and the signals that end a long job."""

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from imprint.errors import UserError

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

MEMORY_WORDS = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED")
"""How CUDA, the CPU, the system and cuBLAS say that memory ran out."""


def choose_device(name: str | None) -> torch.device:
    """The device called `name`; without a name the first GPU, else the CPU; UserError where there is no such device."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f'there is no device called "{name}"; allowed are cpu, cuda, and cuda:0, cuda:1 ... for one of several GPUs.'
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f'the device "{name}" is not supported; allowed are cpu, cuda, and cuda:0, cuda:1 ... for one of several GPUs.')
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        have = f"this machine has {gpus} (cuda:0 to cuda:{gpus - 1})" if gpus else "PyTorch sees no GPU here"
        raise UserError(f'the device "{name}" was asked for, but {have}. Say device cpu, or check the driver with nvidia-smi.')
    return device


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The floating-point type of that name; without one float32 on the CPU, on a GPU bfloat16 where it has it, else float16."""
    if name is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    dtype = DTYPES.get(str(name).removeprefix("torch.").lower())
    if dtype is None:
        raise UserError(f'"{name}" is not a type to compute in; allowed are {", ".join(DTYPES)}.')
    return dtype


def seed_everything(seed: int) -> None:
    """Start every random generator from `seed`: Python's, NumPy's where it is loaded, PyTorch's on all devices."""
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def rng_state() -> dict[str, Any]:
    """The state of every random generator, of plain values and tensors: `torch.load(weights_only=True)` reads it back."""
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
    """Put every random generator back to where `rng_state` saw it; GPUs beyond those it saw keep theirs."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch"])
    for index, words_of_gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(words_of_gpu, index)
    if "numpy" in state:
        import numpy as np

        np.random.set_state(tuple(state["numpy"]))


def memory_bytes() -> tuple[int, int]:
    """Main memory of this machine, and how much of it programs may still take."""
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def child_processes() -> list[int]:
    """The numbers of the processes that this one has started."""
    return [child.pid for child in psutil.Process().children()]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a device or of the machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in MEMORY_WORDS)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory in use so far: by tensors on a GPU since the last reset, by this process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that becomes true on Ctrl-C, SIGTERM or a closed terminal: the step in progress ends and is saved; a second stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python allows no signal handlers
        yield received
        return

    hangup = None if sys.platform == "win32" else signal.SIGHUP
    terminals = [handle for handle in (1, 2) if os.isatty(handle)]

    def note(number: int, _frame: object) -> None:
        if number == hangup:  # comes twice where a shell passes it on; writing to the closed terminal would end the run before it is saved
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for handle in terminals:
                os.dup2(nowhere, handle)
            os.close(nowhere)
        elif received:
            raise KeyboardInterrupt
        received.append(number)
        sys.stderr.write("\nstopping after this step; once more stops at once / 本步结束后停止，再按一次立即停止\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as it is under nohup
        numbers.append(hangup)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
