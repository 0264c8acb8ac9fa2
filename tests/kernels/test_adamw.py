import pytest
import torch

from imprint.kernels.split import AdamWScalars, joined
from tests.kernels.plain_adamw import plain_update, state_of
from tests.kernels.quantized_weights import needs_triton

SCALARS = AdamWScalars(
    factor=0.37,
    decay_factor=1 - 1e-3 * 0.1,
    mean_share=0.1,
    beta2=0.999,
    square_share=0.001,
    step_size=1e-3 / 0.19,
    correction=0.0447,
    eps=1e-8,
)


@needs_triton
@pytest.mark.parametrize("size", [1, 1000, 4096])
def test_one_pass_moves_masters_and_moments_as_torch_does(size: int) -> None:
    from imprint.kernels.adamw import update

    found, expected = (state_of(size) for _ in range(2))

    update(*found, SCALARS)
    plain_update(*expected, SCALARS)

    for one, other in zip((joined(*found[:2]), *found[3:]), (joined(*expected[:2]), *expected[3:]), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-7)  # the last bit: products and sums are rounded once or twice
        assert size == 1 or (one == other).float().mean() > 0.5
    assert torch.equal(found[2], expected[2])
