"""What every way of spreading the weights over processes can do; the engine asks, and does not know which one it has."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

VALUE = "value"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's mean and mean of squares, by torch's names for them."""
RATIO = "ratio"
"""By what the learning rate of a group of parameters is multiplied, among what the optimizer keeps of it."""

Numbers = Mapping[str, Tensor]
"""Everything that belongs to one parameter that learns: its `VALUE` in fp32 where that is kept, and its `MOMENTS`."""


@dataclass(frozen=True)
class Step:
    """What an update needs to know."""

    rate: float
    """Learning rate."""
    scale: float
    """What makes the gradients of the mean loss of those that are there."""
    clip: float
    """Largest norm of the gradient."""
    apply: bool
    """Whether the loss was finite."""


class Strategy(Protocol):
    """One way of spreading weights, gradients and the optimizer's numbers over the processes."""

    module: nn.Module
    """What is called for the loss."""
    whole: bool
    """Whether each process holds all weights; where not, all of them must make each forward pass together."""
    scales_loss: bool
    """Whether a summed loss becomes a mean before its backward pass, and not its gradients behind it."""

    nothing: float
    """By what a loss is multiplied whose gradients `forget` shall throw away."""
    try_again: bool
    """Whether the latest update was not applied because float16 was scaled too high: the same step at the lower scale may be."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients to those of the step, of which it is the last one or not."""

    def update(self, step: Step) -> tuple[float, bool]:
        """Apply the gradients; returns their norm before clipping and whether they were applied. None is left."""

    def forget(self) -> None:
        """Throw the gradients away, which are those of losses times `nothing`."""

    def numbers(self, name: str) -> dict[str, Tensor]:
        """All numbers of a parameter, gathered; all processes ask together. Without moments before the first step."""

    def place(self, name: str, numbers: Numbers) -> None:
        """Put them back; all processes together, each given all of them."""

    def counters(self) -> dict[str, Any]:
        """What else the optimizer remembers, as plain values."""

    def restore_counters(self, counters: Mapping[str, Any]) -> None:
        """Go on from them, after all numbers are placed."""

    def full(self, tensor: Tensor) -> Tensor:
        """A weight of the network, gathered; all processes ask together, and the leader alone needs to get it."""

    def answering(self) -> AbstractContextManager[None]:
        """Inside this block the network may be called by itself, by all processes together."""

    def exact(self) -> AbstractContextManager[None]:
        """Inside this block the parameters that learn are as exact as they are known, to be saved."""
