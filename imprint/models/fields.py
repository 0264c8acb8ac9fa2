"""Fields of a config.json, checked: what every architecture asks of them, as values or a sentence."""

from collections.abc import Mapping
from typing import Any

from imprint.errors import UserError
from imprint.quant.formats import BITS

SOURCE = "Take config.json from the official folder."


def whole_number(fields: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these fields that is there, a whole number of at least 1. Raises UserError for anything else, and for none of them."""
    value = next((fields[name] for name in names if fields.get(name) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        called = " or ".join(f'"{name}"' for name in names)
        raise UserError(f"config.json: {called} must be a whole number of at least 1, got {value!r}. {SOURCE}")
    return value


def positive_number(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A number above 0. Raises UserError where it is something else."""
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UserError(f'config.json: "{name}" must be a number above 0, got {value!r}. {SOURCE}')
    return float(value)


def quantization_bits(fields: Mapping[str, Any], columns: Mapping[str, int]) -> int | None:
    """Bits of weights that have these `columns`, by the names of their fields; 0, null and a missing field say that none is quantised."""
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
    """What `eos_token_id` of a file says: one id, a list of them, or none. Raises UserError for anything else."""
    value = fields.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise UserError(f'{file}: "eos_token_id" must be an id or a list of ids, got {value!r}. Take {file} from the official folder.')
    return frozenset(ids)
