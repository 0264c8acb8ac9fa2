from typing import get_type_hints

import torch
from torch import nn

from imprint.engine.ddp import Ddp
from imprint.engine.strategy import MOMENTS, VALUE, Strategy, UpdateArguments
from imprint.engine.world import SINGLE


def test_ddp_implements_the_protocol() -> None:
    weight = nn.Parameter(torch.ones(2))
    strategy: Strategy = Ddp(nn.ParameterList([weight]), {"a": weight}, [{"params": [weight]}], SINGLE, rate=0.1, decay=0.0)
    assert all(hasattr(strategy, name) for name in get_type_hints(Strategy))
    strategy.backward(weight.sum(), last=True)
    norm, applied = strategy.update(UpdateArguments(rate=0.1, scale=1.0, clip=10.0, apply=True))
    assert (round(norm, 4), applied) == (1.4142, True)
    assert set(strategy.full_state("a")) == {VALUE, *MOMENTS}
    assert strategy.scalar_state() == {"steps": {"a": 1}}
