"""AdamW for bfloat16 weights in one pass over memory: the fp32 master copy is the weight itself with 16 more bits beside it.

Masters and moments move as those of `MasterAdamW` do, up to rounding, and are saved in the same form. A master halfway between two numbers
of bfloat16 is rounded away from zero, not to the even one: then 16 bits hold all that is left.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imprint.engine.master_weights import gradient_norm
from imprint.engine.strategy import MOMENTS
from imprint.kernels import available
from imprint.kernels.split import AdamWScalars, Update, joined, split


def splits_weights(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the kernel can update these parameters."""
    return all(
        parameter.dtype == torch.bfloat16 and parameter.is_cuda and parameter.is_contiguous() for parameter in parameters
    ) and available.usable(parameters[0].device.index, torch.bfloat16)


class SplitAdamW:
    """AdamW over the parameters in `groups`. `update` updates one parameter; the Triton kernel where it is None."""

    def __init__(self, groups: Sequence[dict[str, Any]], *, rate: float, decay: float, update: Update | None = None) -> None:
        parameters = [parameter for group in groups for parameter in group["params"]]
        self.inner = torch.optim.AdamW(list(groups), lr=rate, weight_decay=decay, fused=False)
        """Holds groups and states; it never makes a step."""
        self.param_groups = self.inner.param_groups
        self.low = {parameter: torch.zeros_like(parameter, dtype=torch.int16) for parameter in parameters}
        """The lower bits of the master of each parameter."""
        self._update = update or _kernel()

    def norm(self) -> Tensor:
        """The joint norm of all gradients, computed in fp32."""
        return gradient_norm(self.low)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update weights and masters with the gradients times `factor`, and clear the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._started(parameter)
                state["step"] += 1
                mean, square = (state[moment] for moment in MOMENTS)
                scalars = _scalars(group, int(state["step"]), factor)
                self._update(parameter.data, self.low[parameter], parameter.grad.contiguous(), mean, square, scalars)
                parameter.grad = None

    def zero_grad(self) -> None:
        """Clear all gradients."""
        self.inner.zero_grad()

    def value(self, parameter: nn.Parameter) -> Tensor:
        """The master of a parameter."""
        return joined(parameter.detach(), self.low[parameter])

    @torch.no_grad()
    def set_value(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set the master of a parameter, and its weight."""
        weight, low = split(value.to(parameter.device, torch.float32))
        parameter.copy_(weight)
        self.low[parameter].copy_(low)

    def state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Moments and step count of a parameter, under torch's names."""
        state: dict[str, Any] = self.inner.state[parameter]
        return state

    def _started(self, parameter: nn.Parameter) -> dict[str, Any]:
        state = self.state(parameter)
        if not state:
            state["step"] = torch.zeros(())
            state.update({moment: torch.zeros_like(parameter, dtype=torch.float32) for moment in MOMENTS})
        return state


def _kernel() -> Update:
    from imprint.kernels.adamw import update

    return update


def _scalars(group: dict[str, Any], step: int, factor: float) -> AdamWScalars:
    rate, (beta1, beta2) = group["lr"], group["betas"]
    return AdamWScalars(
        factor=factor,
        decay_factor=1 - rate * group["weight_decay"],
        mean_share=1 - beta1,
        beta2=beta2,
        square_share=1 - beta2,
        step_size=rate / (1 - beta1**step),
        correction=(1 - beta2**step) ** 0.5,
        eps=group["eps"],
    )
