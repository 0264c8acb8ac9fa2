from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from imprint.engine.engine import Engine
from imprint.engine.master_weights import MasterAdamW, MasterOptimizer
from imprint.engine.section import OptimizerSection
from imprint.engine.split_weights import SplitAdamW, splits_weights
from imprint.quant.names import KernelChoice
from tests.kernels.plain_adamw import plain_update
from tests.kernels.quantized_weights import DEVICE, TRITON

SHAPES = ((40, 30), (30,), (7, 3, 5))
Make = Callable[[list[dict[str, object]]], MasterOptimizer]


def split_adamw(groups: list[dict[str, object]]) -> SplitAdamW:
    return SplitAdamW(groups, rate=1e-3, decay=0.1, update=None if TRITON else plain_update)


def master_adamw(groups: list[dict[str, object]]) -> MasterAdamW:
    return MasterAdamW(groups, rate=1e-3, decay=0.1, fused=False)


def weights(make: Make) -> tuple[list[nn.Parameter], MasterOptimizer]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape).bfloat16().to(DEVICE)) for shape in SHAPES]
    return parameters, make([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0, "lr": 3e-3}])


def push(parameters: list[nn.Parameter], optimizer: MasterOptimizer, steps: range) -> None:
    """Steps with the gradients of their numbers; the last parameter gets none in every third step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for index, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator).bfloat16().to(DEVICE)
            parameter.grad = None if index == 2 and step % 3 == 0 else gradient
        assert float(optimizer.norm()) > 0
        optimizer.step(0.25 + step / 100)


def values(parameters: list[nn.Parameter], optimizer: MasterOptimizer) -> list[Tensor]:
    states = [optimizer.state(parameter) for parameter in parameters]
    return [optimizer.value(one) for one in parameters] + [state[name] for state in states for name in ("exp_avg", "exp_avg_sq", "step")]


def test_masters_and_moments_move_as_those_of_torch_over_thirty_steps() -> None:
    found, expected = weights(split_adamw), weights(master_adamw)
    push(*found, range(30))
    push(*expected, range(30))

    for one, other in zip(values(*found), values(*expected), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)  # the last bits: products and sums are rounded once or twice
    for weight, of_torch in zip(found[0], expected[0], strict=True):
        assert (weight == of_torch).float().mean() > 0.99  # a master within a rounding of a half is rounded the other way
        assert weight.grad is None


@pytest.mark.parametrize("first", [split_adamw, master_adamw])
@pytest.mark.parametrize("second", [split_adamw, master_adamw])
def test_what_one_saves_another_goes_on_from(first: Make, second: Make) -> None:
    whole, begun, resumed = weights(first), weights(first), weights(second)
    push(*whole, range(8))
    push(*begun, range(4))
    for parameter, saved in zip(resumed[0], begun[0], strict=True):
        resumed[1].set_value(parameter, begun[1].value(saved))
        resumed[1].state(parameter).update({name: value.clone() for name, value in begun[1].state(saved).items()})
    push(*resumed, range(4, 8))

    for one, other in zip(values(*resumed), values(*whole), strict=True):
        assert torch.equal(one, other) if first is second else torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_weight_is_the_rounded_master() -> None:
    parameters, optimizer = weights(split_adamw)
    push(parameters, optimizer, range(5))

    for parameter in parameters:
        value = optimizer.value(parameter)
        assert value.dtype == torch.float32
        assert not torch.equal(value, parameter.float())
        assert (value - parameter.float()).abs().le(value.abs() / 256).all()


def test_a_cpu_keeps_whole_masters() -> None:
    assert not splits_weights([nn.Parameter(torch.ones(4, dtype=torch.bfloat16))])


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines split weights on the CPU."""
    monkeypatch.setattr("imprint.engine.ddp.splits_weights", lambda _: True)
    if not TRITON:
        monkeypatch.setattr("imprint.engine.split_weights._kernel", lambda: plain_update)


def engine(kernels: KernelChoice) -> Engine:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 6).bfloat16().to(DEVICE))
    section = OptimizerSection(learning_rate=1e-3, weight_decay=0.1, clip=0.5)
    return Engine.start(nn.ParameterList([weight]), {"weight": weight}, section, 100, device=DEVICE, kernels=kernels)


def train(one: Engine, steps: range) -> None:
    for step in steps:
        gradient = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(DEVICE)
        one.backward((one.parameters["weight"].float() * gradient).sum(), last=True)
        assert one.update(step, apply=True)[1]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("first", "second"), [("auto", "auto"), ("auto", "plain"), ("plain", "auto")])
def test_a_run_goes_on_from_a_state_whichever_way_it_was_updated(first: KernelChoice, second: KernelChoice) -> None:
    whole, begun, resumed = engine(first), engine(first), engine(second)
    assert isinstance(engine("auto").strategy.optimizer, SplitAdamW)  # type: ignore[attr-defined]
    assert isinstance(engine("plain").strategy.optimizer, MasterAdamW)  # type: ignore[attr-defined]
    train(whole, range(1, 9))
    train(begun, range(1, 5))
    resumed.load_state("weight", {name: tensor.clone() for name, tensor in begun.full_state("weight").items()})
    resumed.restore_scalar_state(begun.scalar_state())
    train(resumed, range(5, 9))

    assert resumed.scalar_state() == whole.scalar_state()
    for name, tensor in whole.full_state("weight").items():
        found = resumed.full_state("weight")[name]
        assert torch.equal(found, tensor) if first == second else torch.allclose(found, tensor, atol=1e-6)


@pytest.mark.usefixtures("anywhere")
def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    one = engine("auto")
    train(one, range(1, 3))
    before = {name: tensor.clone() for name, tensor in one.full_state("weight").items()}
    one.backward(one.parameters["weight"].float().sum() * torch.nan, last=True)

    assert not one.update(3, apply=True)[1]

    assert all(torch.equal(one.full_state("weight")[name], tensor) for name, tensor in before.items())
    assert one.scalar_state() == {"steps": {"weight": 2}}
    assert one.parameters["weight"].grad is None
