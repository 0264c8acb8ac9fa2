import io
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from imprint import runtime
from imprint.messages import UserError

CPU = torch.device("cpu")
GPU = torch.device("cuda")


class Signalling(io.RawIOBase):
    """A screen that shows nothing, and while the first bytes are written to it Ctrl-C is pressed."""

    pressed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return len(data)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_the_first_gpu_is_chosen_where_there_is_one() -> None:
    with mock.patch("torch.cuda.is_available", return_value=True):
        assert runtime.choose_device(None) == GPU
    with mock.patch("torch.cuda.is_available", return_value=False):
        assert runtime.choose_device(None) == CPU


@pytest.mark.parametrize(
    ("name", "gpus", "sentence"),
    [
        ("gpu", 1, 'there is no device called "gpu"; allowed are cpu, cuda'),
        ("mps", 1, 'the device "mps" is not supported; allowed are cpu, cuda'),
        ("cuda", 0, 'the device "cuda" was requested, but PyTorch sees no GPU here. Use device cpu'),
        ("cuda:2", 2, r'the device "cuda:2" was requested, but this machine has 2 \(cuda:0 to cuda:1\)'),
    ],
)
def test_a_missing_device_is_named(name: str, gpus: int, sentence: str) -> None:
    with mock.patch("torch.cuda.device_count", return_value=gpus), pytest.raises(UserError, match=sentence):
        runtime.choose_device(name)


def test_an_existing_device_is_used() -> None:
    assert runtime.choose_device("cpu") == CPU
    with mock.patch("torch.cuda.device_count", return_value=2):
        assert runtime.choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("device", "bf16", "dtype"), [(CPU, True, torch.float32), (GPU, True, torch.bfloat16), (GPU, False, torch.float16)]
)
def test_the_dtype_follows_the_device(device: torch.device, bf16: bool, dtype: torch.dtype) -> None:  # noqa: FBT001
    with mock.patch("torch.cuda.is_bf16_supported", return_value=bf16):
        assert runtime.choose_dtype(None, device) == dtype


def test_a_dtype_has_several_names_and_an_unknown_one_is_named() -> None:
    assert {runtime.choose_dtype(name, CPU) for name in ("float16", "fp16", "half", "torch.float16", "FP16")} == {torch.float16}
    assert runtime.choose_dtype(torch.bfloat16, CPU) == torch.bfloat16
    for wrong in ("int4", torch.int8):
        with pytest.raises(UserError, match=f'"{wrong}" is not a dtype to compute in; allowed are float32, fp32'):
            runtime.choose_dtype(wrong, CPU)


def test_equal_seeds_draw_equal_numbers() -> None:
    runtime.seed_everything(2**40 + 3)
    first = draw()
    runtime.seed_everything(2**40 + 3)
    assert draw() == first
    runtime.seed_everything(4)
    assert draw() != first


def test_the_random_state_comes_back_through_a_file(tmp_path: Path) -> None:
    runtime.seed_everything(1)
    random.gauss()
    np.random.standard_normal()
    torch.save(runtime.rng_state(), tmp_path / "rng.pt")
    expected = [draw(), draw()]
    runtime.seed_everything(2)
    runtime.set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [draw(), draw()] == expected


@pytest.mark.gpu
def test_the_random_state_of_the_gpu_comes_back() -> None:
    torch.rand(1, device=GPU)
    state = runtime.rng_state()
    expected = torch.rand(3, device=GPU)
    runtime.set_rng_state(state)
    assert torch.equal(torch.rand(3, device=GPU), expected)


def test_the_peak_of_memory_is_in_bytes_and_never_falls() -> None:
    tensor = torch.ones(64 << 20)
    peak = runtime.peak_memory_bytes(CPU)
    assert tensor.nbytes < peak < 2**40
    del tensor
    assert runtime.peak_memory_bytes(CPU) >= peak


def test_some_of_the_memory_is_left() -> None:
    total, free = runtime.memory_bytes()
    assert 0 < free <= total


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("no"), False),
    ],
)
def test_out_of_memory_errors_are_recognised(error: Exception, expected: bool) -> None:  # noqa: FBT001
    assert runtime.is_out_of_memory(error) is expected


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert runtime.version_of("torch")
    assert runtime.version_of("no-such-package-of-anyone") is None


def test_the_processor_has_a_name() -> None:
    assert runtime.cpu_name().strip()


def test_modules_are_imported_ahead_and_one_that_breaks_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_when_imported.py").write_text("raise ValueError", encoding="utf-8")
    (tmp_path / "wanted_ahead.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(threading.enumerate())

    runtime.import_ahead("nowhere_to_be_found", "breaks_when_imported", "wanted_ahead")

    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert sys.modules.pop("wanted_ahead", None)


def test_memory_is_given_back_to_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("freed"))

    runtime.free_cached_memory(CPU)
    assert calls == []
    runtime.free_cached_memory(GPU)
    assert calls == ["freed"]


def test_a_signal_that_comes_while_a_line_is_written_stops_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BufferedWriter(Signalling()), encoding="utf-8", line_buffering=True)
    monkeypatch.setattr("sys.stderr", screen)
    with runtime.stop_on_signal() as received:
        print("step 3", file=screen)
    assert received == [signal.SIGINT]
