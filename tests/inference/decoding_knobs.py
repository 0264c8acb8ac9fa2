"""Every knob of decoding with a value that changes answers, for tests of what passes knobs on."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

CHANGED: Final[Mapping[str, Any]] = MappingProxyType(
    {"temperature": 0.5, "top_p": 0.6, "top_k": 7, "repetition_penalty": 1.2, "stop": ("终",)}
)
"""Knob -> value."""
