"""Decoding and scoring: from prompt ids to answer ids, and log-probabilities of given answers.

`Decoder(model)` answers many requests at a time: `admit(Request(...))`, `step()`, `cancel(request_id)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imprint.inference.decoder import Decoder
    from imprint.inference.request import Request, Token

__all__ = ["Decoder", "Request", "Token"]


def __getattr__(name: str) -> object:
    """Import what is heavy when it is asked for (PEP 562), so that a command starts quickly."""
    if name in __all__:
        return getattr(import_module(f"imprint.inference.{'decoder' if name == 'Decoder' else 'request'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
