"""The step that turns gradients into weights, whatever the strategy that spreads them over processes."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from imprint.engine.crew import ALONE, Crew
from imprint.engine.replicas import Replicas
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.engine.shards import Shards
from imprint.engine.strategy import RATIO, Numbers, Step, Strategy
from imprint.engine.zero import Zero
from imprint.engine.zerofile import deepspeed_settings, ignored


class Engine:
    """Processes, devices and the optimizer of one run."""

    def __init__(self, device: torch.device, crew: Crew = ALONE, section: EngineSection | None = None) -> None:
        self.device = device
        self.crew = crew
        self.knobs = section or EngineSection()
        self.rate_scale = 1.0
        """What the schedule's rate is multiplied by: less than 1 after the guard has stepped in."""
        self.scale = 1.0
        """What makes the mean of a step's summed loss; to be set before its first backward pass."""
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # fp32 weights, as in full tuning, use TF32 units

    shapes: dict[str, torch.Size]
    """Of each parameter that learns, by its name; however it is shared between processes."""

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.crew.count

    @property
    def here(self) -> int:
        """How many of them are on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.processes > 1 else 1

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return self.crew.rank

    @property
    def module(self) -> nn.Module:
        """What is called for the loss."""
        return self.strategy.module

    @property
    def whole(self) -> bool:
        """Whether each process holds all weights; where not, all of them must make each forward pass together."""
        return self.strategy.whole

    def prepare(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        section: OptimizerSection,
        steps: int,
        ratios: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Take the module and the parameters that learn, by name; a frozen parameter never gets a gradient.

        `ratios` says of some parameters, by name, by what their learning rate is multiplied.
        """
        self.section, self.steps = section, steps
        self.parameters = dict(parameters)
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        groups = _groups(parameters, ratios, apart=bool(section.weight_decay))
        self.strategy: Strategy = self._start(module, groups)

    def _start(self, module: nn.Module, groups: list[dict[str, Any]]) -> Strategy:
        """The strategy that the knobs ask for."""
        knobs, section, parameters, crew = self.knobs, self.section, self.parameters, self.crew
        rate, decay, dtype = section.learning_rate, section.weight_decay, most_common_type(module)
        if knobs.deepspeed is not None:
            settings = deepspeed_settings(knobs, section, dtype, crew.count)
            return Zero(module, parameters, groups, crew, settings, rate=rate, decay=decay)
        if knobs.fsdp:
            return Shards(module, parameters, groups, crew, dtype, rate=rate, decay=decay)
        return Replicas(module, parameters, groups, crew, rate=rate, decay=decay)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add this micro-batch's gradients; processes exchange theirs at the `last` one of a step only."""
        self.strategy.backward(loss * self.scale if self.strategy.scales_loss else loss, last=last)

    def update(self, step: int, *, apply: bool) -> tuple[float, bool]:
        """Clip and apply the gradients, times `scale`, as optimizer step `step` (from 1).

        Returns the norm before clipping, and whether it was applied: not where the caller says so, or where the norm is not finite.
        """
        return self.strategy.update(Step(self.rate(step), 1.0 if self.strategy.scales_loss else self.scale, self.section.clip, apply))

    def forget_gradients(self) -> None:
        """Throw away what the backward passes have left."""
        self.strategy.forget()

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 1."""
        return self.rate_scale * self.section.rate(step, self.steps)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return self.crew.total(value)

    @property
    def nothing(self) -> float:
        """By what a loss is multiplied whose gradients `forget_gradients` shall throw away."""
        return self.strategy.nothing

    @property
    def try_again(self) -> bool:
        """Whether the latest update failed by float16's scale alone, and the same step may be tried again."""
        return self.strategy.try_again

    def full(self, tensor: Tensor) -> Tensor:
        """A weight of the network, gathered for the leader; all processes ask together."""
        return self.strategy.full(tensor)

    def answering(self) -> AbstractContextManager[None]:
        """Inside this block the network may be called by itself, by all processes together."""
        return self.strategy.answering()

    def exact(self) -> AbstractContextManager[None]:
        """Inside this block the parameters that learn are as exact as they are known, to be saved."""
        return self.strategy.exact()

    def remarks(self) -> list[str]:
        """What a person should know of the strategy before it begins."""
        return [] if self.knobs.file is None else ignored(self.knobs.file)

    def numbers(self, name: str) -> dict[str, Tensor]:
        """All numbers of a parameter that learns, gathered; all processes ask together."""
        return self.strategy.numbers(name)

    def place(self, name: str, numbers: Numbers) -> None:
        """Put them back, all processes together."""
        self.strategy.place(name, numbers)

    def counters(self) -> dict[str, Any]:
        """What else the optimizer needs to go on."""
        return self.strategy.counters()

    def restore_counters(self, counters: Mapping[str, Any]) -> None:
        """Go on from them, after all numbers are placed."""
        self.strategy.restore_counters(counters)


def _groups(parameters: Mapping[str, nn.Parameter], ratios: Mapping[str, float], *, apart: bool) -> list[dict[str, Any]]:
    """Parameters that learn at one rate; vectors, which do not decay, `apart` from matrices."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        ratio, decays = ratios.get(name, 1.0), parameter.dim() >= 2 or not apart
        kept = ({RATIO: ratio} if ratio != 1 else {}) | ({} if decays else {"weight_decay": 0.0})
        groups.setdefault((ratio, not decays), {"params": [], **kept})["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def most_common_type(module: nn.Module) -> torch.dtype:
    """The floating-point type of most numbers of a module: what it computes in, whatever else learns beside it."""
    counts: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    return max(counts, key=lambda dtype: counts[dtype])
