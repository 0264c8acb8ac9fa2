"""Imprint teaches a Chinese chat model your own words: `imprint.load(folder)` for Python, `imprint --help` for the shell."""

from importlib import import_module
from typing import TYPE_CHECKING

from imprint.messages import UserError

if TYPE_CHECKING:
    from imprint import data, metrics
    from imprint.export.quantized import quantize
    from imprint.loading.load import load

__all__ = ["UserError", "__version__", "data", "load", "metrics", "quantize"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import what is heavy when it is asked for (PEP 562), so that `import imprint` and `imprint --help` are quick."""
    if name == "load":
        return import_module("imprint.loading.load").load
    if name == "quantize":
        return import_module("imprint.export.quantized").quantize
    if name in ("data", "metrics"):
        return import_module(f"imprint.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
