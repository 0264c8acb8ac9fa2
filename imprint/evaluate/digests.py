"""Short digests by which results of an earlier command are known again."""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

LENGTH: Final = 16
"""Hexadecimal digits of a digest."""


def text_digest(text: str) -> str:
    """The digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def settings_digest(settings: Mapping[str, object]) -> str:
    """The digest of settings, whatever their order; each result has it as its key."""
    return text_digest(json.dumps(settings, sort_keys=True))
