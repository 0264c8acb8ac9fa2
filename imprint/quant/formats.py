"""The weight formats, and which of them a name or a config.json means."""

from collections.abc import Mapping
from typing import Any

from imprint.messages import Bilingual, UserError
from imprint.quant.fp8 import Fp8
from imprint.quant.group_int4 import METHOD, GroupInt4
from imprint.quant.names import FormatName
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import WeightFormat

FORMATS: tuple[WeightFormat, ...] = (RowInt(8), RowInt(4), GroupInt4(), Fp8())
OLDER_FORMS: tuple[WeightFormat, ...] = (Fp8(plain_ends=0),)
"""What folders may have that were written before; they are read as they are."""
BITS_FIELD, CONFIG_FIELD = "quantization_bit", "quantization_config"
QUANTIZATION_FIELDS = (BITS_FIELD, "quantization_embeddings", CONFIG_FIELD)
"""The fields of a config.json that say how weights are quantized."""


def find_format(name: FormatName, knob: str = "quantize", *, optional: bool = False) -> WeightFormat:
    """The format of this name. Raises UserError, which names the `knob`, for a name that none has; `optional`: None was allowed, too."""
    found = next((one for one in FORMATS if type(one.name) is type(name) and one.name == name), None)
    if found is None:
        *names, last = [*(str(one.name) for one in FORMATS), *(["None"] if optional else [])]
        allowed, chinese = f"{', '.join(names)} or {last}", f"{'、'.join(names)} 或 {last}"
        raise UserError(Bilingual(f"{knob}: must be {allowed}, got {name!r}.", f"{knob} 只能是 {chinese}。"))
    return found


def stored_format(fields: Mapping[str, Any]) -> WeightFormat | None:
    """The format that the fields of a config.json name; None where the weights are plain, or quantized by another program.

    Raises UserError for a format that is not known, and for two.
    """
    bits, config = fields.get(BITS_FIELD) or None, fields.get(CONFIG_FIELD)
    if bits is not None and _is_own(config):
        raise UserError(
            Bilingual(
                f'config.json: "{BITS_FIELD}" and "{CONFIG_FIELD}" name two formats. Take config.json from the folder of the weights.',
                f'config.json："{BITS_FIELD}" 与 "{CONFIG_FIELD}" 是两种格式，只能有一种：请使用与权重同一目录的 config.json。',
            )
        )
    if config is not None and _is_own(config):
        return _own_format(config)
    found = next((one for one in FORMATS if bits is not None and type(bits) is int and one.fields.get(BITS_FIELD) == bits), None)
    if bits is not None and found is None:
        raise UserError(
            Bilingual(
                f'config.json: "{BITS_FIELD}" must be 8, 4 or null, got {bits!r}. These are the two formats of the official folders.',
                f'config.json："{BITS_FIELD}" 只能是 8、4 或 null，实际为 {bits!r}；官方目录只有这两种格式。',
            )
        )
    return found


def has_foreign_config(fields: Mapping[str, Any]) -> bool:
    """Whether the fields of a config.json say that another program has quantized the weights."""
    return bool(fields.get(CONFIG_FIELD)) and not _is_own(fields[CONFIG_FIELD])


def _is_own(config: object) -> bool:
    return isinstance(config, dict) and config.get("quant_method") == METHOD


def _own_format(config: Mapping[str, Any]) -> WeightFormat:
    """The format of a `quantization_config` that Imprint has written."""
    found = next((one for one in (*FORMATS, *OLDER_FORMS) if one.fields.get(CONFIG_FIELD) == config), None)
    if found is None:
        known = ", ".join(one.title for one in FORMATS if CONFIG_FIELD in one.fields)
        raise UserError(
            Bilingual(
                f'config.json: "{CONFIG_FIELD}" is {dict(config)!r}, which this version does not know; of its own it has {known}. '
                "Use the version that wrote the folder, or quantize the original folder again.",
                f'config.json："{CONFIG_FIELD}" 的格式是此版本不认识的（自有格式：{known}）：请使用写出该目录的版本，或重新量化。',
            )
        )
    return found
