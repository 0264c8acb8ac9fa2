import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import imprint
from imprint.engine.engine import Engine
from imprint.engine.master_weights import MasterAdamW
from imprint.engine.section import OptimizerSection
from imprint.messages import UserError
from imprint.pack import pack
from imprint.tune.section import FullSection
from imprint.tune.tuner import Tuner
from tests.cases import prompt
from tests.tiny import tiny_base

SMALL = OptimizerSection(learning_rate=1e-4, schedule="constant", warmup_steps=0)


def engine_of(weight: nn.Parameter, section: OptimizerSection = SMALL) -> Engine:
    return Engine.start(nn.ParameterList([weight]), {"weight": weight}, section, 100, device=torch.device("cpu"))


def push(engine: Engine, weight: nn.Parameter, gradient: Tensor, steps: int) -> None:
    """Train `steps` steps with this gradient."""
    for step in range(1, steps + 1):
        engine.backward((weight.float() * gradient).sum(), last=True)
        assert engine.update(step, apply=True)[1]


def test_steps_too_small_for_16_bit_add_up() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    push(engine_of(weight), weight, torch.ones(4), 100)  # a hundredth in all, in steps of a ten-thousandth
    assert torch.equal(weight.detach(), torch.full((4,), 0.99, dtype=torch.bfloat16))
    plain = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0)
    for _ in range(100):
        plain.grad = torch.ones_like(plain)
        optimizer.step()
    assert torch.equal(plain.detach(), torch.ones(4, dtype=torch.bfloat16))  # without master weights all of it is lost


def test_the_copies_move_as_fp32_weights_do() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(64).bfloat16(), torch.randn(64).bfloat16().float()
    half, full = nn.Parameter(start.clone()), nn.Parameter(start.float())
    section = OptimizerSection(learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.1, clip=0.5)
    one, two = engine_of(half, section), engine_of(full, section)
    push(one, half, gradient, 5)
    push(two, full, gradient, 5)
    for kind, tensor in two.full_state("weight").items():
        assert one.full_state("weight")[kind].dtype == torch.float32
        assert torch.allclose(one.full_state("weight")[kind], tensor, atol=1e-6), kind
    assert torch.equal(half.detach(), one.full_state("weight")["value"].bfloat16())


def test_a_run_goes_on_from_the_copies_and_not_from_the_rounded_weights() -> None:
    gradient = torch.linspace(-1, 1, 16)
    ends = []
    for stop in (None, 3):
        weight = nn.Parameter(torch.linspace(0.5, 2, 16).bfloat16())
        engine = engine_of(weight)
        if stop:
            push(engine, weight, gradient, stop)
            saved = {kind: tensor.clone() for kind, tensor in engine.full_state("weight").items()}
            scalar_state = engine.scalar_state()
            weight = nn.Parameter(torch.zeros(16).bfloat16())
            engine = engine_of(weight)
            engine.load_state("weight", saved)
            engine.restore_scalar_state(scalar_state)
        push(engine, weight, gradient, 8 - (stop or 0))
        ends.append(engine.full_state("weight"))
    assert all(torch.equal(ends[0][kind], ends[1][kind]) for kind in ends[0])


def test_a_gradient_that_is_not_finite_moves_no_copy() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    engine = engine_of(weight)
    engine.backward(weight.float().sum() * torch.nan, last=True)
    assert not engine.update(1, apply=True)[1]
    assert torch.equal(engine.full_state("weight")["value"], torch.ones(4))
    assert weight.grad is None


def test_gradients_of_many_micro_batches_are_as_exact_as_those_of_one(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    exact = accumulated(base, torch.float32, 64)
    errors = {size: float((accumulated(base, torch.bfloat16, size) - exact).norm() / exact.norm()) for size in (64, 1)}
    assert 0.005 < errors[64] < 0.03
    assert errors[1] < 1.5 * errors[64]


def accumulated(base: Path, dtype: torch.dtype, size: int) -> Tensor:
    """The gradient of 64 rows, accumulated `size` rows at a time."""
    network = imprint.load(base, dtype=dtype, device="cpu").network.requires_grad_()
    tuner = Tuner(network, FullSection(method="full"), None, checkpointing=False).train()
    rng = random.Random(0)
    rows = [[*prompt(network, 5, 6, 7), *(rng.randrange(5, 60) for _ in range(8))] for _ in range(64)]
    for start in range(0, 64, size):
        batch = rows[start : start + size]
        tuner(pack(batch, network, [[-100] * (len(row) - 8) + row[-8:] for row in batch])).backward()
    return torch.cat(
        [parameter.grad.flatten().float() for parameter in tuner.trainable_parameters().values() if parameter.grad is not None]
    )


def test_buckets_hold_every_parameter_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.engine.master_weights.BUCKET_SIZE", 10)
    weights = [nn.Parameter(torch.ones(size, dtype=torch.bfloat16)) for size in (4, 5, 20, 1)]
    optimizer = MasterAdamW([{"params": weights}], rate=0.1, decay=0.0, fused=False)
    assert [[len(weight) for weight, _master in bucket] for bucket in optimizer.buckets] == [[4, 5], [20], [1]]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    assert float(optimizer.norm()) == pytest.approx(30**0.5)
    optimizer.step(1.0)
    assert all(torch.allclose(weight.float(), torch.tensor(0.9), atol=4e-3) for weight in weights)


def test_float16_is_refused_where_nothing_scales_the_loss() -> None:
    with pytest.raises(UserError, match=r'model\.dtype: full tuning is not possible in "float16"'):
        engine_of(nn.Parameter(torch.ones(4, dtype=torch.float16)))
