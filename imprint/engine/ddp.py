"""Training in a single process, or in several that each hold all weights and sum their gradients."""

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imprint.engine.async_scalar import AsyncScalar
from imprint.engine.master_weights import MasterAdamW, MasterOptimizer
from imprint.engine.split_weights import SplitAdamW, splits_weights
from imprint.engine.strategy import LR_RATIO, MOMENTS, VALUE, ParameterState, UpdateArguments
from imprint.engine.world import World
from imprint.messages import Bilingual, UserError
from imprint.quant.names import KernelChoice

FOUND_INF = "found_inf"
"""Attribute of torch's fused optimizers: a tensor on the device; where it is 1, a step changes nothing."""
NORM_EPSILON = 1e-6
"""Added to a norm before it divides, as in torch's clip_grad_norm_."""
SENT_ALONE = 2**20
"""Elements from which a gradient is summed over processes by itself, instead of copied into one message with others."""


class Ddp:
    """AdamW on fp32 parameters, or on fp32 copies of 16-bit ones."""

    replicated = True
    scales_loss = False  # gradients of the summed loss are larger, so fewer underflow in 16 bits
    retry = False
    discard_scale = 0.0

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[dict[str, Any]],
        world: World,
        *,
        rate: float,
        decay: float,
        kernels: KernelChoice = "auto",
    ) -> None:
        self.parameters = dict(parameters)
        self.world = world
        first = next(iter(self.parameters.values()))
        if any(parameter.dtype == torch.float16 for parameter in self.parameters.values()):
            raise UserError(
                Bilingual(
                    'model.dtype: full tuning is not possible in "float16": its range is too small. Set it to float32 or bfloat16, or let '
                    "DeepSpeed scale the loss (engine.deepspeed=zero2).",
                    "model.dtype：float16 范围太小，"
                    "不能全参数微调：请设为 float32 或 bfloat16，或由 DeepSpeed 缩放损失（engine.deepspeed=zero2）。",
                )
            )
        fused = first.device.type == "cuda"
        self.optimizer: torch.optim.Optimizer | MasterOptimizer
        if kernels == "auto" and world.size == 1 and splits_weights(list(self.parameters.values())):
            self.optimizer, fused = SplitAdamW(groups, rate=rate, decay=decay), False
        elif any(parameter.dtype.itemsize == 2 for parameter in self.parameters.values()):
            self.optimizer = MasterAdamW(groups, rate=rate, decay=decay, fused=fused)
        else:
            self.optimizer = torch.optim.AdamW(list(groups), lr=rate, weight_decay=decay, fused=fused)
        self.step_device = first.device if fused else torch.device("cpu")
        """Where step counts are."""
        self.decides_on_device = fused and isinstance(self.optimizer, torch.optim.Optimizer)
        """Whether the optimizer's kernel takes a tensor that says whether it changes anything."""
        self.module: nn.Module = module
        self.independent_passes = world.size == 1 or len(self.parameters) < len(list(module.parameters()))
        """A frozen base has few gradients, all of them complete at the end of a pass only: nothing is won by sending them in between."""
        if world.size > 1 and self.independent_passes:
            for parameter in self.parameters.values():
                torch.distributed.broadcast(parameter.detach(), src=0)
        elif world.size > 1:
            devices = [first.device] if first.device.type == "cuda" else None
            renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
            # buffers are equal in every process
            no_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
            self.module = DistributedDataParallel(module, devices, gradient_as_bucket_view=True, **no_buffers)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See Strategy; DistributedDataParallel reduces gradients at the last micro-batch only."""
        if not isinstance(self.module, DistributedDataParallel):
            loss.backward()
            return
        with nullcontext() if last else self.module.no_sync():
            (loss * self.world.size).backward()  # DDP averages over processes; the loss is a share of one sum

    def update(self, arguments: UpdateArguments) -> tuple[float, bool]:
        """See Strategy."""
        if self.world.size > 1 and self.independent_passes:
            sum_over_processes([parameter.grad for parameter in self.parameters.values() if parameter.grad is not None])
        if isinstance(self.optimizer, torch.optim.Optimizer):
            return self._update_fp32(self.optimizer, arguments)
        found = AsyncScalar(self.optimizer.norm())
        arguments.meanwhile()
        norm = float(found) * arguments.scale
        applied = bool(arguments.apply) and math.isfinite(norm)
        if applied:
            self._set_rate(arguments)
            self.optimizer.step(arguments.scale * min(1.0, arguments.clip / (norm + NORM_EPSILON)))
        self.discard_gradients()
        return norm, applied

    def _update_fp32(self, optimizer: torch.optim.Optimizer, arguments: UpdateArguments) -> tuple[float, bool]:
        """The update of parameters without masters; where the device itself can leave it out, it is queued before the norm is known."""
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(arguments.scale)
        found = nn.utils.clip_grad_norm_(self.parameters.values(), arguments.clip)
        read, decided = AsyncScalar(found), arguments.apply if isinstance(arguments.apply, bool) else AsyncScalar(arguments.apply)
        queued = self.decides_on_device and all(map(optimizer.state.get, self.parameters.values()))
        self._set_rate(arguments)
        if queued:
            setattr(optimizer, FOUND_INF, (~(found.isfinite() & arguments.apply)).float())
            optimizer.step()
            setattr(optimizer, FOUND_INF, None)
        arguments.meanwhile()
        norm = float(read)
        applied = bool(float(decided)) and math.isfinite(norm)
        if applied and not queued:
            optimizer.step()
        self.discard_gradients()
        return norm, applied

    def _set_rate(self, arguments: UpdateArguments) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = arguments.rate * group.get(LR_RATIO, 1.0)

    def discard_gradients(self) -> None:
        """See Strategy."""
        self.optimizer.zero_grad()

    def _state(self, name: str) -> dict[str, Any]:
        """Moments and step count of a parameter."""
        parameter = self.parameters[name]
        if isinstance(self.optimizer, torch.optim.Optimizer):
            state: dict[str, Any] = self.optimizer.state[parameter]
            return state
        return self.optimizer.state(parameter)

    def full_state(self, name: str) -> dict[str, Tensor]:
        """See Strategy."""
        parameter, state = self.parameters[name], self._state(name)
        value = parameter.detach() if isinstance(self.optimizer, torch.optim.Optimizer) else self.optimizer.value(parameter)
        return {VALUE: value, **{moment: state[moment] for moment in MOMENTS if moment in state}}

    def load_state(self, name: str, saved: ParameterState) -> None:
        """See Strategy."""
        parameter, state = self.parameters[name], self._state(name)
        if isinstance(self.optimizer, torch.optim.Optimizer):
            parameter.data.copy_(saved[VALUE])
        else:
            self.optimizer.set_value(parameter, saved[VALUE])
        state.clear()
        for moment in MOMENTS:
            if moment in saved:
                state[moment] = saved[moment].to(parameter.device, torch.float32, copy=True)

    def scalar_state(self) -> dict[str, Any]:
        """See Strategy: step counts by parameter."""
        states = {name: self._state(name) for name in self.parameters}
        return {"steps": {name: int(state["step"]) for name, state in states.items() if "step" in state}}

    def restore_scalar_state(self, scalar_state: Mapping[str, Any]) -> None:
        """See Strategy."""
        for name, steps in scalar_state["steps"].items():
            self._state(name)["step"] = torch.tensor(float(steps), device=self.step_device)

    def gather(self, tensor: Tensor) -> Tensor:
        """See Strategy."""
        return tensor

    def generation_mode(self) -> AbstractContextManager[None]:
        """See Strategy."""
        return nullcontext()

    def full_precision(self) -> AbstractContextManager[None]:
        """See Strategy: an adapter is in fp32 here."""
        return nullcontext()


def sum_over_processes(gradients: Sequence[Tensor]) -> None:
    """Replace gradients by their sums over all processes, which call this with as many of the same shapes."""
    for gradient in gradients:
        if gradient.numel() >= SENT_ALONE:
            torch.distributed.all_reduce(gradient)
    small = [gradient for gradient in gradients if gradient.numel() < SENT_ALONE]
    for dtype in {gradient.dtype: None for gradient in small}:
        alike = [gradient for gradient in small if gradient.dtype == dtype]
        message = torch.cat([gradient.flatten() for gradient in alike])
        torch.distributed.all_reduce(message)
        for gradient, total in zip(alike, message.split([gradient.numel() for gradient in alike]), strict=True):
            gradient.copy_(total.view_as(gradient))
