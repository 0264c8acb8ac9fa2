"""Scores of every task under a named protocol, with intervals, and rates that a mean score hides."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imprint.metrics.means import score

__all__ = ["score"]


def __getattr__(name: str) -> object:
    """Import `score` when it is asked for (PEP 562): the recipe's sections need the names of the protocols, not their libraries."""
    if name == "score":
        return import_module("imprint.metrics.means").score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
