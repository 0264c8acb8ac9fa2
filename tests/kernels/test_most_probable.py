import pytest
import torch
from torch import Tensor

from imprint.inference.request import Request
from imprint.inference.sampling import SamplingRows
from tests.cases import difference
from tests.interpreted import use_interpreter


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    use_interpreter()
    torch.manual_seed(0)


def plain(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What PyTorch's own operations choose."""
    rows = SamplingRows(logits.shape[1], logits.device, kernels=False)
    for _ in logits:
        rows.add(Request([0], 1))
    return rows.sample(logits)


@pytest.mark.parametrize("size", [3, 2048, 2049, 70_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_chooses_what_pytorch_chooses(size: int, dtype: torch.dtype) -> None:
    from imprint.kernels.most_probable import most_probable

    logits = (10 * torch.randn(3, size + 5)).to(dtype)[:, :size]

    (tokens, log_probs), (expected, expected_log_probs) = most_probable(logits), plain(logits)

    assert torch.equal(logits.gather(1, tokens[:, None]), logits.gather(1, expected[:, None]))
    assert difference(log_probs, expected_log_probs) < 1e-4


def test_the_first_of_equal_tokens_is_chosen() -> None:
    from imprint.kernels.most_probable import most_probable

    logits = torch.zeros(1, 5000)
    logits[0, [2100, 4500]] = 1

    assert most_probable(logits)[0].tolist() == [2100]
    assert most_probable(torch.zeros(1, 5000))[0].tolist() == [0]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_there_is_no_token_where_the_largest_logit_is_not_finite(broken: float) -> None:
    from imprint.kernels.most_probable import most_probable

    logits = torch.randn(3, 5000)
    logits[1, 4000] = broken
    logits[2] = broken

    (tokens, log_probs), (expected, expected_log_probs) = most_probable(logits), plain(logits)

    assert tokens.tolist() == expected.tolist()
    assert tokens[2] == -1
    assert torch.allclose(log_probs, expected_log_probs)
