"""Checked fields of a config.json, as every architecture reads them."""

from collections.abc import Mapping
from typing import Any

from imprint.errors import UserError
from imprint.quant.formats import BITS

SOURCE = "Take config.json from the official folder."
"""The advice at the end of an error message about a field."""


def positive_int(fields: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these fields that is set, an integer of at least 1. Raises UserError for anything else, or if none is set."""
    value = next((fields[name] for name in names if fields.get(name) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        quoted = " or ".join(f'"{name}"' for name in names)
        raise UserError(f"config.json: {quoted} must be a whole number of at least 1, got {value!r}. {SOURCE}")
    return value


def positive_float(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A field that is a finite number above 0. Raises UserError for anything else."""
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UserError(f'config.json: "{name}" must be a number above 0, got {value!r}. {SOURCE}')
    return float(value)


def quantization_bits(fields: Mapping[str, Any], columns: Mapping[str, int]) -> int | None:
    """The field `quantization_bit`; None where it is 0, null or missing.

    `columns` are the widths of the weights by the names of their fields. Raises UserError for other formats, and for odd widths at 4 bits.
    """
    bits = fields.get("quantization_bit") or None
    if bits is not None and (isinstance(bits, bool) or bits not in BITS):
        raise UserError(
            f'config.json: "quantization_bit" must be 8, 4 or null, got {bits!r}. These are the two formats of the official folders.'
        )
    for name, width in columns.items():
        if bits == 4 and width % 2:
            raise UserError(f'config.json: "{name}" {width} is odd, but at 4 bits two columns share a byte.')
    return bits


def end_ids(fields: Mapping[str, Any], file: str = "config.json") -> frozenset[int]:
    """The field `eos_token_id`: one id, a list of ids, or none. Raises UserError for anything else; `file` is named in the message."""
    value = fields.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise UserError(f'{file}: "eos_token_id" must be an id or a list of ids, got {value!r}. Take {file} from the official folder.')
    return frozenset(ids)
