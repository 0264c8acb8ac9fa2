from pathlib import Path

import pytest
import torch

import imprint
from imprint.inference.decode_batch import DecodeBatch
from imprint.models.network import Network
from imprint.models.step_fusion import FusedStep
from tests.bases import FAMILIES, base_of
from tests.cases import difference, small_chatglm2, small_network
from tests.inference.reference import short_prompts
from tests.interpreted import use_interpreter


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    use_interpreter()


def logits(network: Network, prompts: list[list[int]], mode: FusedStep | None) -> torch.Tensor:
    """Those of a step after these prompts."""
    with torch.inference_mode():
        batch = DecodeBatch(network)
        batch.join(prompts, 4)
        tokens = torch.arange(len(prompts)) + 1
        if mode is None:
            return batch.step(tokens)
        with mode:
            return batch.step(tokens)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_gives_the_same_logits(tmp_path: Path, family: str, rows: int) -> None:
    network = imprint.load(base_of(family, tmp_path / "base", std=0.3), device="cpu").network
    prompts = [imprint.load(tmp_path / "base", device="cpu").prompt("这件上衣的颜色是白"[: 3 + row]) for row in range(rows)]
    mode = FusedStep(everywhere=True)

    assert difference(logits(network, prompts, mode), logits(network, prompts, None)) < 1e-4


@pytest.mark.parametrize(("network", "fused"), [(small_network(), 2 * 2), (small_chatglm2(), 2 * 2)], ids=["1", "2"])
def test_norms_behind_sums_are_one_kernel_each(network: Network, fused: int) -> None:
    mode = FusedStep(everywhere=True)
    prompts = short_prompts(small_network())[:2]

    logits(network, prompts, mode)

    assert mode.fused == fused


class TestSums:
    def test_they_are_computed_where_no_norm_follows(self) -> None:
        x, y = torch.randn(2, 3, 4).unbind(0)
        with FusedStep(everywhere=True):
            total = x * 2.0 + y
            assert difference(torch.cat([total, y]), torch.cat([x * 2 + y, y])) < 1e-6
            assert difference(total[0] + total.mean(), (x * 2 + y)[0] + (x * 2 + y).mean()) < 1e-6

    def test_a_tensor_that_changes_later_does_not_change_them(self) -> None:
        x, y = torch.randn(2, 3, 4).unbind(0)
        expected = x + y
        with FusedStep(everywhere=True):
            total = x + y
            y += 1

            assert difference(total.clone(), expected) == 0
