"""The engine: backward pass, optimizer step and optimizer state of a run, with any parallel strategy."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from imprint.engine.ddp import Ddp
from imprint.engine.deepspeed_config import deepspeed_settings, ineffective_fields
from imprint.engine.deepspeed_errors import translate_config_errors
from imprint.engine.deepspeed_zero import DeepSpeedZero
from imprint.engine.fsdp import Fsdp
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.engine.strategy import LR_RATIO, ParameterState, Strategy, UpdateArguments
from imprint.engine.world import SINGLE, World
from imprint.quant.names import KernelChoice


class Engine:
    """Device, processes and optimizer of one training run. `Engine.start` makes one."""

    def __init__(
        self,
        strategy: Strategy,
        parameters: Mapping[str, nn.Parameter],
        shapes: Mapping[str, torch.Size],
        *,
        device: torch.device,
        world: World,
        engine: EngineSection,
        optimizer: OptimizerSection,
        steps: int,
    ) -> None:
        self.strategy = strategy
        self.parameters = parameters
        """The trainable parameters by name, as they were before sharding."""
        self.shapes = shapes
        """Their full shapes."""
        self.device = device
        self.world = world
        self.engine_section = engine
        self.optimizer_section = optimizer
        self.steps = steps
        self.rate_scale = 1.0
        """Factor of the scheduled learning rate; the guard lowers it."""
        self.mean_factor = 1.0
        """Factor that turns a step's summed loss into its mean; set before the first backward pass of a step."""

    @classmethod
    def start(
        cls,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        optimizer: OptimizerSection,
        steps: int,
        *,
        device: torch.device,
        world: World = SINGLE,
        engine: EngineSection | None = None,
        lr_ratios: Mapping[str, float] = MappingProxyType({}),
        kernels: KernelChoice = "auto",
    ) -> "Engine":
        """Distribute a module by the strategy that the engine section names, and make its optimizer.

        `parameters` are the trainable ones by name; no other gets a gradient. `lr_ratios` are factors of the learning rate by name;
        `kernels` as `model.kernels`.
        Raises UserError for a strategy, a DeepSpeed file or a dtype that cannot be used.
        """
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # fp32 weights, as in full tuning, use TF32 units
        section = engine or EngineSection()
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        groups = _parameter_groups(parameters, lr_ratios, split_vectors=bool(optimizer.weight_decay))
        strategy = _start_strategy(module, parameters, groups, section, optimizer, world, kernels)
        return cls(strategy, dict(parameters), shapes, device=device, world=world, engine=section, optimizer=optimizer, steps=steps)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.world.size

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.world.rank

    @property
    def module(self) -> nn.Module:
        """The wrapped module whose forward pass computes the loss."""
        return self.strategy.module

    @property
    def replicated(self) -> bool:
        """Whether every process holds all weights; where not, a forward pass is collective."""
        return self.strategy.replicated

    @property
    def independent_passes(self) -> bool:
        """Whether forward and backward passes wait for no other process, so that one may repeat its own."""
        return self.strategy.independent_passes

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch's summed loss; they are reduced over processes at the `last` one of a step."""
        self.strategy.backward(loss * self.mean_factor if self.strategy.scales_loss else loss, last=last)

    def update(self, step: int, *, apply: bool | Tensor, meanwhile: Callable[[], None] = lambda: None) -> tuple[float, bool]:
        """Clip the gradients, scaled by `mean_factor`, and apply them as optimizer step `step` (from 1), unless `apply` is false.

        Returns the gradient norm before clipping, and whether the step was applied: never where the norm is not finite. `meanwhile` is
        called while the device computes; a tensor `apply` need not be computed yet.
        """
        scale = 1.0 if self.strategy.scales_loss else self.mean_factor
        return self.strategy.update(UpdateArguments(self.learning_rate(step), scale, self.optimizer_section.clip, apply, meanwhile))

    def discard_gradients(self) -> None:
        """Clear the gradients of a memory probe, whose loss was multiplied by `discard_scale`."""
        self.strategy.discard_gradients()

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 1."""
        return self.rate_scale * self.optimizer_section.rate(step, self.steps)

    def all_sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        return self.world.all_sum(value)

    @property
    def discard_scale(self) -> float:
        """Factor of a memory probe's loss that lets `discard_gradients` drop its gradients."""
        return self.strategy.discard_scale

    @property
    def retry(self) -> bool:
        """Whether the latest step failed only because of the float16 loss scale and may be repeated at the lower scale."""
        return self.strategy.retry

    def gather(self, tensor: Tensor) -> Tensor:
        """A weight of the network, gathered to the main process; collective."""
        return self.strategy.gather(tensor)

    def generation_mode(self) -> AbstractContextManager[None]:
        """Inside this block all processes may call the bare network, to generate text."""
        return self.strategy.generation_mode()

    def full_precision(self) -> AbstractContextManager[None]:
        """Inside this block the parameters of an adapter are in fp32, to be saved."""
        return self.strategy.full_precision()

    def notices(self) -> list[str]:
        """Notices for the user before training: fields of a DeepSpeed file that have no effect."""
        return [] if self.engine_section.file is None else ineffective_fields(self.engine_section.file)

    def full_state(self, name: str) -> dict[str, Tensor]:
        """Value and moments of a trainable parameter, gathered; collective."""
        return self.strategy.full_state(name)

    def load_state(self, name: str, saved: ParameterState) -> None:
        """Restore value and moments of a trainable parameter; collective."""
        self.strategy.load_state(name, saved)

    def scalar_state(self) -> dict[str, Any]:
        """The remaining optimizer state as plain values: step counts, loss scale."""
        return self.strategy.scalar_state()

    def restore_scalar_state(self, scalar_state: Mapping[str, Any]) -> None:
        """Restore the scalar state, after every parameter's `load_state`."""
        self.strategy.restore_scalar_state(scalar_state)


def _start_strategy(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    groups: list[dict[str, Any]],
    section: EngineSection,
    optimizer: OptimizerSection,
    world: World,
    kernels: KernelChoice,
) -> Strategy:
    """The strategy that the engine section names, with its optimizer."""
    rate, decay, dtype = optimizer.learning_rate, optimizer.weight_decay, compute_dtype(module)
    if section.deepspeed is not None:
        settings = deepspeed_settings(section, optimizer, dtype, world.size)
        with translate_config_errors(section.file):
            return DeepSpeedZero(module, parameters, groups, world, settings, rate=rate, decay=decay)
    if section.fsdp:
        return Fsdp(module, parameters, groups, world, dtype, rate=rate, decay=decay)
    return Ddp(module, parameters, groups, world, rate=rate, decay=decay, kernels=kernels)


def _parameter_groups(
    parameters: Mapping[str, nn.Parameter], lr_ratios: Mapping[str, float], *, split_vectors: bool
) -> list[dict[str, Any]]:
    """Optimizer groups of equal learning rate; vectors, which do not decay, in groups of their own."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        ratio, decays = lr_ratios.get(name, 1.0), parameter.dim() >= 2 or not split_vectors
        options = ({LR_RATIO: ratio} if ratio != 1 else {}) | ({} if decays else {"weight_decay": 0.0})
        groups.setdefault((ratio, not decays), {"params": [], **options})["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of most parameters, in which the network computes; its adapter may have another."""
    counts: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    return max(counts, key=lambda dtype: counts[dtype])
