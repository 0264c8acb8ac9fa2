"""PyTorch's FSDP2 (fully_shard): weights, gradients and optimizer state are sharded; a layer is gathered when it is used.

Shards and optimizer state are fp32; a layer is gathered in the network's compute dtype, and gradients are reduced in fp32.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imprint.engine.strategy import LR_RATIO, MOMENTS, VALUE, ParameterState, UpdateArguments, blocks_of
from imprint.engine.world import World


class Fsdp:
    """Every process holds a shard of weights, gradients and optimizer state."""

    replicated = False
    independent_passes = False
    scales_loss = False
    retry = False
    discard_scale = 0.0

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[dict[str, Any]],
        world: World,
        dtype: torch.dtype,
        *,
        rate: float,
        decay: float,
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        paths = {parameter: path for path, parameter in module.named_parameters()}
        device = next(module.parameters()).device
        mesh = init_device_mesh(device.type, (world.size,))
        policy = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
        submodules: list[Any] = [*blocks_of(module), module]
        for submodule in submodules:  # one by one: the whole network might not fit in both precisions
            for parameter in submodule.parameters():
                if parameter.dtype != torch.float32:
                    parameter.data = parameter.data.float()
            fully_shard(submodule, mesh=mesh, mp_policy=policy)
            if device.type == "cpu":
                submodule.set_force_sum_reduction_for_comms(True)  # gloo cannot average
        self.world = world
        self.module: nn.Module = module
        sharded = dict(module.named_parameters())
        self.parameters = {name: sharded[paths[parameter]] for name, parameter in parameters.items()}
        sharded_groups = [{**group, "params": [sharded[paths[parameter]] for parameter in group["params"]]} for group in groups]
        self.optimizer = torch.optim.AdamW(sharded_groups, lr=rate, weight_decay=decay, fused=device.type == "cuda")

    def backward(self, loss: Tensor, *, last: bool) -> None:  # noqa: ARG002
        """See Strategy; gradients are reduced after every micro-batch, since unsharded ones would not fit."""
        (loss * self.world.size).backward()  # FSDP averages over processes

    def update(self, arguments: UpdateArguments) -> tuple[float, bool]:
        """See Strategy."""
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(arguments.scale)
        found = _gathered(nn.utils.clip_grad_norm_(self.parameters.values(), arguments.clip))
        arguments.meanwhile()
        norm = float(found)
        applied = bool(arguments.apply) and math.isfinite(norm)
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = arguments.rate * group.get(LR_RATIO, 1.0)
            self.optimizer.step()
        self.discard_gradients()
        return norm, applied

    def discard_gradients(self) -> None:
        """See Strategy."""
        self.optimizer.zero_grad()

    def full_state(self, name: str) -> dict[str, Tensor]:
        """See Strategy."""
        parameter = self.parameters[name]
        state = self.optimizer.state[parameter]
        return {VALUE: _gathered(parameter.detach())} | {kind: _gathered(state[kind]) for kind in MOMENTS if kind in state}

    def load_state(self, name: str, saved: ParameterState) -> None:
        """See Strategy."""
        parameter = self.parameters[name]
        self._load_shard(parameter.detach(), saved[VALUE])
        state = self.optimizer.state[parameter]
        state.clear()
        for kind in MOMENTS:
            if kind in saved:
                state[kind] = torch.zeros_like(parameter.detach())
                self._load_shard(state[kind], saved[kind])

    def _load_shard(self, sharded: Any, value: Tensor) -> None:
        """Copy this process's rows of a full tensor into its shard."""
        local, rows = sharded.to_local(), -(-len(value) // self.world.size)
        local.copy_(value[rows * self.world.rank : rows * self.world.rank + len(local)])

    def scalar_state(self) -> dict[str, Any]:
        """See Strategy."""
        states = {name: self.optimizer.state[parameter] for name, parameter in self.parameters.items()}
        return {"steps": {name: int(state["step"]) for name, state in states.items() if "step" in state}}

    def restore_scalar_state(self, scalar_state: Mapping[str, Any]) -> None:
        """See Strategy."""
        for name, steps in scalar_state["steps"].items():
            parameter = self.parameters[name]
            on_gpu = parameter.device.type == "cuda"
            self.optimizer.state[parameter]["step"] = torch.tensor(float(steps), device=parameter.device if on_gpu else "cpu")

    def gather(self, tensor: Tensor) -> Tensor:
        """See Strategy."""
        return _gathered(tensor.detach())

    @contextmanager
    def generation_mode(self) -> Iterator[None]:
        """See Strategy: parameters outside the blocks stay gathered; blocks gather their own."""
        module: Any = self.module
        module.unshard()
        try:
            yield
        finally:
            module.reshard()

    def full_precision(self) -> AbstractContextManager[None]:
        """See Strategy."""
        return nullcontext()


def _gathered(tensor: Any) -> Tensor:
    """The full tensor of a sharded one; any other unchanged."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full
