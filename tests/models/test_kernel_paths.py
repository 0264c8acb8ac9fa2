import pytest
import torch

from imprint.kernels import available
from imprint.kernels.available import NO_TRITON
from imprint.messages import Bilingual
from imprint.models import kernel_paths
from imprint.models.kernel_paths import fp8_line, kernel_lines

GPU = torch.device("cuda", 0)


def with_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], problem: Bilingual | None = None) -> None:
    """A machine with such a card, on which Triton has this problem."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: capability)
    for module in (available, kernel_paths):
        monkeypatch.setattr(module, "problem", lambda _index: problem)
        monkeypatch.setattr(module, "fp8_problem", lambda _index: problem)


def english(dtype: torch.dtype) -> list[str]:
    return [line.strip().partition(" / ")[0] for line in kernel_lines(GPU, dtype, "3.6.0")]


def test_a_card_with_all_kernels_has_them_in_16_bits_and_float32_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, (9, 0))
    in_float32 = "plain PyTorch, {}: the kernels compute in 16 bits, not in float32"
    assert english(torch.bfloat16)[1:6] == [
        "training, bfloat16: attention by Triton, CUDA graphs",
        "decoding, bfloat16: attention by Triton, CUDA graphs",
        "products of decoding, quantized layers, bfloat16: Triton",
        f"training, float32: attention by {in_float32.format('no CUDA graphs')}",
        f"decoding, float32: attention by {in_float32.format('CUDA graphs')}",
    ]


def test_a_card_that_multiplies_no_matrices_in_triton_is_told_what_is_plain_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, (7, 5))
    why = "kernels that multiply matrices need compute capability 8.0, this card has 7.5"
    assert english(torch.float16)[1:4] == [
        f"training, float16: attention by plain PyTorch, no CUDA graphs: {why}",
        f"decoding, float16: attention by plain PyTorch, CUDA graphs: {why}",
        f"products of decoding, quantized layers, float16: Triton; for several tokens at once, weights are dequantized: {why}",
    ]


def test_without_triton_every_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, (8, 6), NO_TRITON)
    first, *rest = kernel_lines(GPU, torch.bfloat16, None)
    assert first.startswith("kernels / 计算内核: plain PyTorch / 纯 PyTorch: Triton is not installed")
    assert all(NO_TRITON.english in line for line in rest if "float32" not in line)


def test_it_says_whether_fp8_weights_are_multiplied_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for why, shown in ((None, "multiplied by tensor cores"), (NO_TRITON, "weights are dequantized / 先还原权重: Triton is not installed")):
        with_card(monkeypatch, (9, 0), why)
        assert f": {shown}" in fp8_line(GPU)
