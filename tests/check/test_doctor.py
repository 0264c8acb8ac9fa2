import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import imprint
from imprint.check import doctor
from imprint.check.doctor import device_lines, has_code_for, machine_lines
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
    monkeypatch.setattr(doctor, "_cards_of_the_driver", list)
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
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_120", "compute_120"])
    assert list(device_lines()) == [
        f"cuda:{index}: NVIDIA GeForce RTX 3060, 12.0 GiB, compute capability / 计算能力 8.6" for index in range(2)
    ]


def test_a_card_that_this_pytorch_cannot_use_is_told_the_build_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Tesla P40", total_memory=24 * 2**30, major=6, minor=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "compute_120"])
    assert "no code for it; try: pip install torch --index-url https://download.pytorch.org/whl/cu126" in list(device_lines())[1]


def test_a_build_runs_on_later_cards_of_its_generation_and_its_ptx_on_all_later_ones() -> None:
    assert has_code_for((8, 9), ["sm_80"])
    assert not has_code_for((9, 0), ["sm_80", "sm_86"])
    assert has_code_for((9, 0), ["sm_90a"])
    assert has_code_for((12, 1), ["compute_120"])
    assert not has_code_for((7, 0), ["sm_75", "compute_75", "gfx90a"])


@pytest.mark.parametrize(
    ("printed", "cuda", "said"),
    [
        ("NVIDIA GeForce RTX 3060, 8.6\n", None, "there is a NVIDIA GeForce RTX 3060; try: pip install torch --index-url https://download.pytorch.org/whl/cu130"),
        ("Tesla V100-SXM2-16GB, 7.0\n", None, "whl/cu126"),
        ("NVIDIA H200, 9.0\n", "13.0", "the driver may be too old"),
        ("No devices were found\n", None, "docs/install.md has the builds"),
    ],
)  # fmt: skip
def test_a_card_that_pytorch_does_not_find_is_looked_up_at_the_driver(
    printed: str, cuda: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=printed))
    (line,) = device_lines()
    assert said in line


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


def test_on_a_gpu_it_says_what_trains_and_decodes_in_the_default_dtype(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def lines(device: torch.device, dtype: torch.dtype, _triton: str | None) -> list[str]:
        asked.extend((device, dtype))
        return ["as they are"]

    monkeypatch.setattr(doctor, "choose_device", lambda _name: torch.device("cuda"))
    monkeypatch.setattr(doctor, "choose_dtype", lambda _name, _device: torch.float16)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(doctor, "kernel_lines", lines)
    assert "as they are" in list(machine_lines(tmp_path))
    assert asked == [torch.device("cuda", 1), torch.float16]
