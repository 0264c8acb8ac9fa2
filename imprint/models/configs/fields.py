"""Checked fields of a config.json, as every architecture reads them."""

from collections.abc import Mapping
from typing import Any

from imprint.messages import Bilingual, UserError
from imprint.quant.formats import stored_format
from imprint.quant.weight_format import WeightFormat

MAX_ID = 2**31
"""Above every id."""


def field_error(english: str, chinese: str, file: str = "config.json") -> UserError:
    """The error for a field of `file`, with the advice to use the official file."""
    return UserError(Bilingual(f"{file}: {english} Take {file} from the official folder.", f"{file}：{chinese}请使用官方目录中的 {file}。"))


def positive_int(fields: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these fields that is set, an integer of at least 1. Raises UserError for anything else, or if none is set."""
    value = next((fields[name] for name in names if fields.get(name) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        quoted = " or ".join(f'"{name}"' for name in names)
        raise field_error(
            f"{quoted} must be an integer of at least 1, got {value!r}.", f"{quoted} 必须是不小于 1 的整数，实际为 {value!r}。"
        )
    return value


def positive_float(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A field that is a finite number above 0. Raises UserError for anything else."""
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise field_error(f'"{name}" must be a number above 0, got {value!r}.', f'"{name}" 必须是大于 0 的数，实际为 {value!r}。')
    return float(value)


def weight_format(fields: Mapping[str, Any], columns: Mapping[str, int]) -> WeightFormat | None:
    """The format of the weights of the blocks; None where they are not quantized.

    `columns`: field name -> width of a quantized weight. Raises UserError for an unknown format, and for widths that it cannot store.
    """
    found = stored_format(fields)
    for name, width in columns.items():
        if found and (problem := found.width_problem(width)):
            raise UserError(
                Bilingual(f'config.json: "{name}" {width} {problem.english}.', f'config.json："{name}" {width} {problem.chinese}。')
            )
    return found


def stop_ids(fields: Mapping[str, Any], file: str = "config.json") -> frozenset[int]:
    """The field `eos_token_id`: one id, a list of ids, or none. Raises UserError for anything else; `file` is named in the message."""
    value = fields.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < MAX_ID for token in ids):
        raise field_error(
            f'"eos_token_id" must be an id or a list of ids, got {value!r:.80}.',
            f'"eos_token_id" 必须是一个 id 或 id 列表，实际为 {value!r:.80}。',
            file,
        )
    return frozenset(ids)
