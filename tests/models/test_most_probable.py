import pytest
import torch

from imprint.inference import sampling
from imprint.models.most_probable import has_kernel
from tests.cases import small_network
from tests.inference.reference import generate_ids, greedy, short_prompts
from tests.interpreted import use_interpreter


def test_the_cpu_has_no_kernel() -> None:
    assert not has_kernel(torch.zeros(1, 8, dtype=torch.float16))


def test_greedy_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    use_interpreter()
    network = small_network()
    prompts = short_prompts(network)
    expected = [greedy(network, row, 5) for row in prompts]
    monkeypatch.setattr(sampling, "has_kernel", lambda _: True)

    assert generate_ids(network, prompts, 5) == expected
