"""Metrics of every task under named protocols with confidence intervals, and rates of degenerate answers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imprint.metrics.means import score

__all__ = ["score"]


def __getattr__(name: str) -> object:
    """Import `score` lazily (PEP 562): the recipe's sections need the protocol names without their libraries."""
    if name == "score":
        return import_module("imprint.metrics.means").score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
