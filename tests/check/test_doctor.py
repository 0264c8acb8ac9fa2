from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import imprint
from imprint.check import doctor
from imprint.check.doctor import device_lines, machine_lines
from imprint.cli import main


def test_the_command_prints_versions_memory_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in (
        f"Imprint {imprint.__version__}",
        f"PyTorch {torch.__version__}",
        "memory / 内存",
        "disk / 当前磁盘",
        "no compiler needed",
    ):
        assert part in printed


def test_a_machine_without_a_gpu_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, cause in ((None, "built without CUDA"), ("13.0", "built for CUDA 13.0; `nvidia-smi`")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        (line,) = device_lines()
        assert "PyTorch finds none" in line
        assert cause in line
    assert "default / 默认使用: cpu, float32" in list(machine_lines(tmp_path))


def test_every_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA GeForce RTX 3060", total_memory=12 * 2**30, major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
    assert list(device_lines()) == [
        f"cuda:{index}: NVIDIA GeForce RTX 3060, 12.0 GiB, compute capability / 计算能力 8.6" for index in range(2)
    ]


def test_missing_packages_are_listed_with_what_needs_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda package: None if package in ("openpyxl", "deepspeed") else "1.0")
    printed = list(machine_lines(tmp_path))
    assert "openpyxl is not installed / 未安装: Excel files / 读写 Excel; pip install 'imprint[tables]'" in printed
    assert (
        "deepspeed is not installed / 未安装: engine.deepspeed / 用 DeepSpeed 训练; pip install --no-build-isolation deepspeed ninja"
        in printed
    )
    assert "transformers 1.0  peft 1.0" in printed
    assert "pyarrow 1.0: Parquet files / 读写 Parquet" in printed
