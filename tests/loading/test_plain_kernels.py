from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from imprint import load
from imprint.kernels import available
from imprint.kernels.available import NO_TRITON
from imprint.loading.plain_kernels import plain_kernels_notice, warn_of_plain_kernels
from imprint.models.network import Network
from imprint.terminal import say_once
from tests.tiny import tiny_base


def network(kernels: str = "auto", device: str = "cuda:0", dtype: torch.dtype = torch.float16) -> Network:
    """What is asked of a network, on a device that need not be there."""
    return cast("Network", SimpleNamespace(kernels=kernels, device=torch.device(device), dtype=dtype))


def test_a_network_on_a_gpu_without_triton_says_so_once_in_a_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(available, "problem", lambda _index: NO_TRITON)
    say_once.cache_clear()
    for _ in range(2):
        warn_of_plain_kernels(network())
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("Triton is not installed") == 1
    assert "未安装 Triton" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_of_processes_that_train_together_one_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(available, "problem", lambda _index: NO_TRITON)
    for rank, lines in (("1", 0), ("0", 1)):
        say_once.cache_clear()
        monkeypatch.setenv("RANK", rank)
        warn_of_plain_kernels(network())
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_nothing_is_said_where_plain_was_chosen_nor_on_a_cpu_nor_with_all_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "problem", lambda _index: NO_TRITON)
    assert plain_kernels_notice(network("plain")) is None
    assert plain_kernels_notice(network(device="cpu")) is None
    monkeypatch.setattr(available, "problem", lambda _index: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: (9, 0))
    assert plain_kernels_notice(network()) is None


@pytest.mark.parametrize(("dtype", "why"), [(torch.float16, "this card has 7.5"), (torch.float32, "not in float32")])
def test_a_card_or_a_dtype_without_the_kernels_is_named(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, why: str) -> None:
    monkeypatch.setattr(available, "problem", lambda _index: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: (7, 5))
    notice = plain_kernels_notice(network(dtype=dtype))
    assert notice is not None
    assert why in notice.english
    assert ("most products" in notice.english) is (dtype == torch.float32)


def test_every_model_that_is_loaded_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Network] = []
    monkeypatch.setattr("imprint.loading.load.warn_of_plain_kernels", seen.append)
    model = load(tiny_base(tmp_path / "base"))
    assert seen == [model.network]
