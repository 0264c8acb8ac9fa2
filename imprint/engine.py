"""The one door to Accelerate: devices, processes, mixed precision, and the step that turns gradients into weights."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from imprint.config import Field, Section

RATIO = "ratio"
"""By what the learning rate of a group of parameters is multiplied, among what the optimizer keeps of it."""


class OptimizerSection(Section):
    """AdamW and its schedule."""

    learning_rate: float = Field(5e-3, gt=0, le=10, description="Peak learning rate; the original's for a prefix is 2e-2.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the rate falls after the warm-up: to 0 by the last step, or not at all."
    )
    warmup_steps: int = Field(10, ge=0, description="Steps over which the rate rises from 0; at most half of the run.")
    warmup_share: float | None = Field(None, ge=0, le=1, description="The same as a share of the run, instead of `warmup_steps`.")
    warmup_from_zero: bool = Field(
        False, description="Rise as transformers does: the first step has the rate 0, and the warm-up may take more than half of the run."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of matrices; biases and norms have none.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient; a larger one is scaled down to it.")


class Engine:
    """Processes, devices and the optimizer of one run."""

    def __init__(self, device: torch.device) -> None:
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        self.device = device
        self.rate_scale = 1.0
        """What the schedule's rate is multiplied by: less than 1 after the guard has stepped in."""
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # fp32 weights, as in full tuning, use TF32 units

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return int(self.accelerator.process_index)

    def prepare(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        section: OptimizerSection,
        steps: int,
        ratios: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Take the module and the parameters that learn; a frozen parameter never gets a gradient.

        `ratios` says of some parameters, by name, by what their learning rate is multiplied.
        """
        self.section, self.steps = section, steps
        self.parameters = list(parameters.values())
        fused = self.device.type == "cuda"
        groups = _groups(parameters, ratios, apart=bool(section.weight_decay))
        optimizer = torch.optim.AdamW(groups, lr=section.learning_rate, weight_decay=section.weight_decay, fused=fused)
        self.module = self.accelerator.prepare(module) if self.processes > 1 else module
        self.optimizer: torch.optim.Optimizer = self.accelerator.prepare(optimizer)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add this micro-batch's gradients; processes exchange theirs at the `last` one of a step only."""
        if last:
            self.accelerator.backward(loss * self.processes)  # DDP averages over processes; the loss is a share of one sum
        else:
            with self.accelerator.no_sync(self.module):
                self.accelerator.backward(loss * self.processes)

    def update(self, step: int, *, apply: bool, scale: float = 1.0) -> tuple[float, bool]:
        """Scale, clip and apply the gradients as optimizer step `step` (from 1).

        Returns the norm before clipping, and whether it was applied: not where the caller says so, or where the norm is not finite.
        `scale` brings a sum to a mean here and not in the loss, so that a 16-bit backward pass works with the larger numbers.
        """
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.section.clip))
        applied = apply and math.isfinite(norm)
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(step) * group.get(RATIO, 1.0)
            self.optimizer.step()
        self.forget_gradients()
        return norm, applied

    def forget_gradients(self) -> None:
        """Throw away what the backward passes have left."""
        self.optimizer.zero_grad(set_to_none=True)

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 1."""
        section, done = self.section, step - 1
        peak = section.learning_rate * self.rate_scale
        warmup = section.warmup_steps if section.warmup_share is None else math.ceil(section.warmup_share * self.steps)
        if section.warmup_from_zero and done < warmup:
            return peak * done / warmup
        warmup = warmup if section.warmup_from_zero else min(warmup, self.steps // 2)
        if done < warmup:
            return peak * (done + 1) / (warmup + 1)
        left = 1 - (done - warmup) / max(self.steps - warmup, 1)
        shape = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
        return peak * shape[section.schedule]

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.processes == 1:
            return value
        return float(self.accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=self.device), "sum"))

    def optimizer_state(self) -> dict[str, Any]:
        """Everything the optimizer needs to go on."""
        return self.optimizer.state_dict()

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Go on from a saved optimizer state."""
        self.optimizer.load_state_dict(state)


def _groups(parameters: Mapping[str, nn.Parameter], ratios: Mapping[str, float], *, apart: bool) -> list[dict[str, Any]]:
    """Parameters that learn at one rate; vectors, which do not decay, `apart` from matrices."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        ratio, decays = ratios.get(name, 1.0), parameter.dim() >= 2 or not apart
        kept = ({RATIO: ratio} if ratio != 1 else {}) | ({} if decays else {"weight_decay": 0.0})
        groups.setdefault((ratio, not decays), {"params": [], **kept})["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
