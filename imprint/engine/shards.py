"""PyTorch's own FSDP (fully_shard): weights, gradients and the optimizer's numbers shared, a layer gathered when its turn comes.

The shards are fp32, the optimizer's numbers too; a layer is gathered in the type that the network computes in, and gradients are added up
in fp32.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imprint.engine.crew import Crew
from imprint.engine.strategy import MOMENTS, RATIO, VALUE, Numbers, Step
from imprint.engine.zero import blocks_of


class Shards:
    """Every process holds a share of everything."""

    whole = False
    scales_loss = False
    try_again = False
    nothing = 0.0

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[dict[str, Any]],
        crew: Crew,
        dtype: torch.dtype,
        *,
        rate: float,
        decay: float,
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        paths = {parameter: path for path, parameter in module.named_parameters()}
        device = next(module.parameters()).device
        mesh = init_device_mesh(device.type, (crew.count,))
        policy = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
        parts: list[Any] = [*blocks_of(module), module]
        for part in parts:  # one layer after the other: both types of the whole might not fit
            for parameter in part.parameters():
                if parameter.dtype != torch.float32:
                    parameter.data = parameter.data.float()
            fully_shard(part, mesh=mesh, mp_policy=policy)
            if device.type == "cpu":
                part.set_force_sum_reduction_for_comms(True)  # gloo has no mean
        self.crew = crew
        self.module: nn.Module = module
        now = dict(module.named_parameters())
        self.parameters = {name: now[paths[parameter]] for name, parameter in parameters.items()}
        shared = [{**group, "params": [now[paths[parameter]] for parameter in group["params"]]} for group in groups]
        self.optimizer = torch.optim.AdamW(shared, lr=rate, weight_decay=decay, fused=device.type == "cuda")

    def backward(self, loss: Tensor, *, last: bool) -> None:  # noqa: ARG002
        """See Strategy; each micro-batch's gradients are exchanged at once, for whole ones would not fit."""
        (loss * self.crew.count).backward()  # it averages over processes

    def update(self, step: Step) -> tuple[float, bool]:
        """See Strategy."""
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(step.scale)
        total = nn.utils.clip_grad_norm_(self.parameters.values(), step.clip)
        norm = float(_whole(total))
        applied = step.apply and math.isfinite(norm)
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = step.rate * group.get(RATIO, 1.0)
            self.optimizer.step()
        self.forget()
        return norm, applied

    def forget(self) -> None:
        """See Strategy."""
        self.optimizer.zero_grad()

    def numbers(self, name: str) -> dict[str, Tensor]:
        """See Strategy."""
        parameter = self.parameters[name]
        state = self.optimizer.state[parameter]
        return {VALUE: _whole(parameter.detach())} | {kind: _whole(state[kind]) for kind in MOMENTS if kind in state}

    def place(self, name: str, numbers: Numbers) -> None:
        """See Strategy."""
        parameter = self.parameters[name]
        self._take(parameter.detach(), numbers[VALUE])
        state = self.optimizer.state[parameter]
        state.clear()
        for kind in MOMENTS:
            if kind in numbers:
                state[kind] = torch.zeros_like(parameter.detach())
                self._take(state[kind], numbers[kind])

    def _take(self, shared: Any, value: Tensor) -> None:
        """Put this process's rows of a tensor into its share."""
        mine, rows = shared.to_local(), -(-len(value) // self.crew.count)
        mine.copy_(value[rows * self.crew.rank : rows * self.crew.rank + len(mine)])

    def counters(self) -> dict[str, Any]:
        """See Strategy."""
        states = {name: self.optimizer.state[parameter] for name, parameter in self.parameters.items()}
        return {"steps": {name: int(state["step"]) for name, state in states.items() if "step" in state}}

    def restore_counters(self, counters: Mapping[str, Any]) -> None:
        """See Strategy."""
        for name, steps in counters["steps"].items():
            parameter = self.parameters[name]
            on_gpu = parameter.device.type == "cuda"
            self.optimizer.state[parameter]["step"] = torch.tensor(float(steps), device=parameter.device if on_gpu else "cpu")

    def full(self, tensor: Tensor) -> Tensor:
        """See Strategy."""
        return _whole(tensor.detach())

    @contextmanager
    def answering(self) -> Iterator[None]:
        """See Strategy: what lies outside the layers is whole meanwhile; the layers gather their own."""
        module: Any = self.module
        module.unshard()
        try:
            yield
        finally:
            module.reshard()

    def exact(self) -> AbstractContextManager[None]:
        """See Strategy."""
        return nullcontext()


def _whole(tensor: Any) -> Tensor:
    """A tensor gathered from its shares; one that is not shared as it is."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found
