from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.models.network import Network
from imprint.training.direct_gradients import write_gradients
from imprint.tune.section import FullSection
from imprint.tune.tuner import build_tuner
from tests.cases import small_chatglm2, small_network
from tests.training.test_graphs import batch


def written(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> int:
    """Compare the gradients that are written with those of autograd, to the last bit; how many were not copied."""
    loss().backward()
    expected = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    for parameter in parameters:
        parameter.grad = None
    gradients = {parameter: torch.full_like(parameter, torch.nan) for parameter in parameters}
    for _ in range(2):
        direct = write_gradients(loss(), gradients)
        assert all(torch.equal(found, one) for found, one in zip(gradients.values(), expected, strict=True))
        assert all(parameter.grad is None for parameter in parameters)
    return direct


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("make", [small_network, small_chatglm2])
def test_a_network_gets_the_gradients_of_autograd_and_most_are_not_copied(make: Callable[[], Network], checkpointing: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    tuner = build_tuner(make(), FullSection(method="full"), lambda _: [1], checkpointing=checkpointing).train()
    rows = batch(tuner.network, 1)
    parameters = list(tuner.trainable_parameters().values())

    direct = written(lambda: tuner(rows), parameters)

    assert direct >= 4 * tuner.network.shape.num_layers  # the linears of every block


@pytest.mark.parametrize("tokens", [3, 5, 7])
def test_a_product_of_the_same_shape_as_a_weight_is_not_taken_for_its_gradient(tokens: int) -> None:
    first, second, bias = weight(7, 5), weight(5, 7), weight(5)
    x = torch.randn(tokens, 5, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        return functional.linear(functional.linear(x, first), second, bias).square().sum()

    assert written(loss, [first, second, bias]) >= 1


def test_a_weight_that_is_used_twice_gets_the_sum() -> None:
    shared, other = weight(6, 6), weight(6, 6)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    assert written(lambda: (functional.linear(functional.linear(x, shared), shared) @ other).square().sum(), [shared, other]) == 1


def test_a_weight_that_is_not_used_gets_zeros() -> None:
    used, unused = weight(3, 4), weight(3, 4)

    assert written(lambda: functional.linear(torch.ones(2, 4), used).sum(), [used, unused]) == 1


def test_a_pass_that_fails_leaves_no_gradient_and_no_hook() -> None:
    one = weight(3, 4)

    def refuse(_: Tensor) -> None:
        raise RuntimeError("refused")

    loss = functional.linear(torch.ones(2, 4), one)
    loss.register_hook(refuse)
    with pytest.raises(RuntimeError, match="refused"):
        write_gradients(loss.sum(), {one: torch.zeros_like(one)})

    assert one.grad is None
    one.sum().backward()
    assert one.grad is not None
