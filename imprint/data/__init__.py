"""Samples from files, and rows of token ids from samples."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imprint.data.original import encode_original, encode_original_evaluation

__all__ = ["encode_original", "encode_original_evaluation"]


def __getattr__(name: str) -> object:
    """Import the public functions on first use (PEP 562), so that recipe sections import no PyTorch."""
    if name in __all__:
        return getattr(import_module("imprint.data.original"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
