"""The protocol that every parallel strategy (DDP, FSDP, DeepSpeed ZeRO) implements for the engine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

VALUE = "value"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's first and second moment, under torch's names."""
LR_RATIO = "ratio"
"""Key in an optimizer's parameter group: the factor of its learning rate."""

ParameterState = Mapping[str, Tensor]
"""State of one trainable parameter: its `VALUE`, in fp32 where there is a master copy, and its `MOMENTS`."""


@dataclass(frozen=True)
class UpdateArguments:
    """Arguments of one optimizer step."""

    rate: float
    """Learning rate."""
    scale: float
    """Factor that turns the summed gradients into those of the mean loss."""
    clip: float
    """Largest gradient norm."""
    apply: bool | Tensor
    """Whether to apply the step: false where the loss was not finite. A tensor may not be computed yet."""
    meanwhile: Callable[[], None] = lambda: None
    """Called once while the device computes, before its results are waited for."""


class Strategy(Protocol):
    """One way of distributing weights, gradients and optimizer state over the processes."""

    module: nn.Module
    """The wrapped module whose forward pass computes the loss."""
    replicated: bool
    """Whether every process holds all weights; where not, a forward pass is collective."""
    independent_passes: bool
    """Whether forward and backward passes wait for no other process, so that one may repeat its own."""
    scales_loss: bool
    """Whether the loss is scaled before the backward pass, instead of the gradients after it."""

    discard_scale: float
    """Factor of a memory probe's loss that lets `discard_gradients` drop its gradients."""
    retry: bool
    """Whether the latest step failed only because of the float16 loss scale and may be repeated at the lower scale."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch; `last` marks the last one of a step."""

    def update(self, arguments: UpdateArguments) -> tuple[float, bool]:
        """Clip, apply and clear the gradients; returns their norm before clipping and whether the step was applied."""

    def discard_gradients(self) -> None:
        """Clear the gradients of a memory probe, whose loss was multiplied by `discard_scale`."""

    def full_state(self, name: str) -> dict[str, Tensor]:
        """Value and moments of a parameter, gathered; collective. No moments before the first step."""

    def load_state(self, name: str, saved: ParameterState) -> None:
        """Restore value and moments of a parameter; collective, every process gets all of them."""

    def scalar_state(self) -> dict[str, Any]:
        """The remaining optimizer state as plain values: step counts, loss scale."""

    def restore_scalar_state(self, scalar_state: Mapping[str, Any]) -> None:
        """Restore the scalar state, after every parameter's `load_state`."""

    def gather(self, tensor: Tensor) -> Tensor:
        """A weight of the network, gathered to the main process; collective."""

    def generation_mode(self) -> AbstractContextManager[None]:
        """Inside this block all processes may call the bare network, to generate text."""

    def full_precision(self) -> AbstractContextManager[None]:
        """Inside this block the parameters of an adapter are in fp32, to be saved."""


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network: the items of its outermost module lists."""
    blocks: list[nn.Module] = []
    for child in module.children():
        blocks += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return blocks
