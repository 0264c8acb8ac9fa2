import pytest
import torch

from imprint.kernels import available
from imprint.messages import Bilingual


@pytest.fixture(autouse=True)
def fresh() -> None:
    available.problem.cache_clear()
    available.fp8_problem.cache_clear()


def with_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *, triton: bool = True) -> None:
    """A machine that says it has such a card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(available, "find_spec", lambda name: object() if triton else None)


def text(found: Bilingual | None) -> str:
    return "" if found is None else found.line


def test_without_a_gpu_they_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert "no NVIDIA GPU" in text(available.problem(0))
    assert not available.usable(0, torch.float16)


def test_without_triton_they_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, (9, 0), triton=False)

    assert "pip install triton" in text(available.problem(0))


def test_a_card_that_triton_does_not_compile_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, (7, 0))

    assert "this card has 7.0" in text(available.problem(0))


def test_what_goes_wrong_in_triton_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, (9, 0))

    def zeros(*size: int, **settings: object) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr("imprint.kernels.launch.dequantize", zeros)
    monkeypatch.setattr(torch, "zeros", lambda *size, **settings: torch.empty(size, dtype=torch.int8))
    monkeypatch.setattr(torch, "ones", lambda *size, **settings: torch.empty(size))

    assert "RuntimeError: Failed to find C compiler." in text(available.problem(0))
    assert "\n" not in text(available.problem(0))


@pytest.mark.parametrize(
    ("capability", "dtype", "computed"),
    [
        ((7, 5), torch.float16, [True, False]),
        ((7, 5), torch.bfloat16, [False, False]),
        ((8, 6), torch.bfloat16, [True, True]),
        ((9, 0), torch.float16, [True, True]),
        ((9, 0), torch.float32, [False, False]),
    ],
)
def test_a_card_has_the_kernels_that_it_can_compute(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, computed: list[bool]
) -> None:
    with_card(monkeypatch, capability)
    monkeypatch.setattr(available, "problem", lambda index: None)

    assert [available.usable(0, dtype, matrix=matrix) for matrix in (False, True)] == computed
    whys = [text(available.dtype_problem(0, dtype, matrix=matrix)) for matrix in (False, True)]
    found = "not in float32" if dtype == torch.float32 else f"this card has {capability[0]}.{capability[1]}"
    assert [found in why for why in whys] == [not usable for usable in computed]


@pytest.mark.parametrize(
    ("capability", "product", "why"),
    [
        ((8, 6), 32, "products of FP8 need compute capability 8.9, this card has 8.6"),
        ((8, 9), 32, ""),
        ((9, 0), 31, "products of FP8 are wrong here"),
        ((12, 0), RuntimeError("Not in this build.\nCompile it."), "products of FP8 do not work here (RuntimeError: Not in this build.)"),
    ],
)
def test_a_card_multiplies_fp8_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], product: int | Exception, why: str
) -> None:
    with_card(monkeypatch, capability)
    monkeypatch.setattr(available, "problem", lambda index: None)
    monkeypatch.setattr(torch, "device", lambda kind, index: torch.empty(0).device)

    def multiply(x: torch.Tensor, weight: object) -> torch.Tensor:
        if isinstance(product, Exception):
            raise product
        return torch.full((len(x), 16), product)

    monkeypatch.setattr("imprint.kernels.scaled.scaled_linear", multiply)

    assert text(available.fp8_problem(0)).partition(" / ")[0] == why
