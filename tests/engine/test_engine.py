import copy
import math

import pytest
import torch
from torch import nn

from imprint.engine.ddp import Ddp
from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection

STEPS = 12
WARMUP = 2


def engine_of(parameter: nn.Parameter, section: OptimizerSection, steps: int = STEPS) -> Engine:
    """An engine that trains one parameter on the CPU."""
    return Engine.start(nn.ParameterList([parameter]), {"weight": parameter}, section, steps, device=torch.device("cpu"))


def section_of(schedule: str = "constant", *, clip: float = 1e9, weight_decay: float = 0.0) -> OptimizerSection:
    fields = {"learning_rate": 0.5, "schedule": schedule, "warmup_steps": WARMUP, "clip": clip, "weight_decay": weight_decay}
    return OptimizerSection.model_validate(fields)


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))


@pytest.mark.parametrize(
    ("schedule", "first", "third", "middle", "last"),
    [
        ("constant", 0.5 / 3, 0.5, 0.5, 0.5),
        ("linear", 0.5 / 3, 0.5, 0.25, 0.05),
        ("cosine", 0.5 / 3, 0.5, 0.25, 0.25 - 0.25 * math.cos(math.pi * 0.1)),
    ],
)
def test_the_rate_rises_to_its_peak_and_falls_by_the_schedule(
    schedule: str, first: float, third: float, middle: float, last: float, weight: nn.Parameter
) -> None:
    engine = engine_of(weight, section_of(schedule))
    assert [engine.learning_rate(step) for step in (1, 3, 8, STEPS)] == pytest.approx([first, third, middle, last])
    rates = [engine.learning_rate(step) for step in range(1, STEPS + 1)]
    assert max(rates) == 0.5
    assert all(rate > 0 for rate in rates)
    assert rates[WARMUP:] == sorted(rates[WARMUP:], reverse=True)


def test_a_warm_up_takes_half_of_a_short_run_at_most(weight: nn.Parameter) -> None:
    engine = engine_of(weight, section_of("linear"), steps=4)
    assert 0 < engine.learning_rate(1) < engine.learning_rate(2) < engine.learning_rate(3) == 0.5
    assert 0 < engine.learning_rate(4) < 0.5


def test_the_scale_is_that_of_the_gradients_before_they_are_clipped(weight: nn.Parameter) -> None:
    engine = engine_of(weight, section_of())
    engine.backward((weight * torch.tensor([1.0, -1.0, 2.0])).sum() * 8, last=True)
    engine.mean_factor = 1 / 8
    assert engine.update(1, apply=True)[0] == pytest.approx(math.sqrt(6))


def test_an_update_uses_the_learning_rate_of_its_step(weight: nn.Parameter) -> None:
    engine, before = engine_of(weight, section_of()), weight.detach().clone()
    engine.backward((weight * torch.tensor([1.0, -1.0, 2.0])).sum(), last=True)
    norm, applied = engine.update(1, apply=True)
    assert applied
    assert norm == pytest.approx(math.sqrt(6))
    assert torch.allclose(before - weight.detach(), torch.tensor([1.0, -1.0, 1.0]) * 0.5 / 3, atol=1e-6)  # Adam's first step: the sign
    assert weight.grad is None


def test_gradients_accumulate_until_the_last_micro_batch(weight: nn.Parameter) -> None:
    engine = engine_of(weight, section_of())
    engine.backward(weight.sum(), last=False)
    engine.backward(2 * weight.sum(), last=True)
    assert engine.update(1, apply=True)[0] == pytest.approx(3 * math.sqrt(3))


def test_a_large_gradient_is_clipped_and_its_norm_returned_unclipped(weight: nn.Parameter, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(weight, section_of(clip=0.1))
    norms: list[float] = []
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda optimizer: norms.append(float(weight.grad.norm())) if weight.grad is not None else 0
    )
    engine.backward((weight * 40).sum(), last=True)
    assert engine.update(1, apply=True)[0] == pytest.approx(40 * math.sqrt(3))
    assert norms == [pytest.approx(0.1, rel=1e-4)]


def test_a_step_that_is_not_applied_changes_nothing_and_clears_the_gradients(weight: nn.Parameter) -> None:
    engine, before = engine_of(weight, section_of(weight_decay=0.1)), weight.detach().clone()
    engine.backward(weight.square().sum(), last=True)
    state = repr((engine.full_state("weight"), engine.scalar_state()))
    assert not engine.update(1, apply=False)[1]
    assert torch.equal(weight, before)
    assert weight.grad is None
    assert repr((engine.full_state("weight"), engine.scalar_state())) == state


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_never_applied(bad: float, weight: nn.Parameter) -> None:
    engine, before = engine_of(weight, section_of()), weight.detach().clone()
    engine.backward((weight * torch.tensor([1.0, bad, 1.0])).sum(), last=True)
    norm, applied = engine.update(1, apply=True)
    assert not math.isfinite(norm)
    assert not applied
    assert torch.equal(weight, before)
    engine.backward(weight.sum(), last=True)
    assert engine.update(2, apply=True)[1]
    assert torch.isfinite(weight).all()


def test_an_optimizer_resumes_from_the_state_of_another(weight: nn.Parameter) -> None:
    other = nn.Parameter(weight.detach().clone())
    one, two = engine_of(weight, section_of()), engine_of(other, section_of())
    for step in range(1, 5):
        one.backward(weight.pow(3).sum(), last=True)
        one.update(step, apply=True)
        if step == 2:
            two.load_state("weight", copy.deepcopy(one.full_state("weight")))
            two.restore_scalar_state(one.scalar_state())
        if step > 2:
            two.backward(other.pow(3).sum(), last=True)
            two.update(step, apply=True)
    assert torch.equal(weight, other)


def test_all_sum_of_a_single_process_is_its_value(weight: nn.Parameter) -> None:
    engine = engine_of(weight, section_of())
    assert (engine.world_size, engine.rank, engine.all_sum(1.5)) == (1, 0, 1.5)


def test_weight_decay_applies_to_matrices_but_not_to_vectors(weight: nn.Parameter) -> None:
    matrix, before = nn.Parameter(weight.detach()[None].clone()), weight.detach().clone()
    section = OptimizerSection(learning_rate=0.5, schedule="constant", warmup_steps=0, weight_decay=0.1)
    engine = Engine.start(
        nn.ParameterList([weight, matrix]), {"bias": weight, "weight": matrix}, section, STEPS, device=torch.device("cpu")
    )
    engine.backward((weight * 0).sum() + (matrix * 0).sum(), last=True)
    engine.update(1, apply=True)
    assert torch.equal(weight.detach(), before)
    assert torch.allclose(matrix.detach()[0], before * 0.95)


def trained(weights: list[nn.Parameter], *, on_device: bool) -> tuple[list[tuple[float, bool]], list[object]]:
    """Six steps by the fused optimizer, of which the second has an infinite gradient and the fourth a loss that is no number."""
    engine = Engine.start(
        nn.ParameterList(weights), {str(i): one for i, one in enumerate(weights)}, section_of(clip=2.0), STEPS, device=torch.device("cpu")
    )
    strategy = engine.strategy
    assert isinstance(strategy, Ddp)
    strategy.optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=0.1, fused=True)
    strategy.decides_on_device = on_device
    told, states = [], list[object]()
    for step in range(1, 7):
        engine.backward(sum((one * (torch.inf if step == 2 else 1 + step)).pow(2).sum() for one in weights), last=True)  # type: ignore[arg-type]
        loss = torch.tensor(torch.nan if step == 4 else 1.0)
        told.append(engine.update(step, apply=loss.isfinite(), meanwhile=lambda: states.append("meanwhile")))
        states.append(repr((strategy.scalar_state(), [strategy.full_state(str(i)) for i in range(len(weights))])))
    assert all(one.grad is None for one in weights)
    return told, states


def test_an_update_that_the_device_decides_on_is_the_one_that_is_waited_for_to_the_last_bit() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(7))]
    others = [nn.Parameter(one.detach().clone()) for one in weights]

    (told, states), (other_told, other_states) = trained(weights, on_device=True), trained(others, on_device=False)

    assert [applied for _, applied in told] == [applied for _, applied in other_told] == [True, False, True, False, True, True]
    assert repr(told) == repr(other_told)
    assert states == other_states
    assert states.count("meanwhile") == 6
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))


def test_a_first_step_that_is_left_out_leaves_no_state(weight: nn.Parameter) -> None:
    engine = engine_of(weight, section_of())
    assert isinstance(engine.strategy, Ddp)
    engine.strategy.optimizer = torch.optim.AdamW([weight], lr=1.0, fused=True)
    engine.strategy.decides_on_device = True
    engine.backward(weight.sum() * torch.inf, last=True)
    assert not engine.update(1, apply=torch.tensor(1.0).isfinite())[1]
    assert engine.scalar_state() == {"steps": {}}
