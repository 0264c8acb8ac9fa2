"""Bounds of the sizes in a config.json, so that an absurd one is a sentence and not minutes of building or all of the memory."""

import re
from collections.abc import Iterator, Mapping
from math import inf, isnan
from typing import Any

from imprint.models.configs.fields import field_error

LAYERS = re.compile(r"(.*_)?(layers?|blocks?|experts|cycles|loops|functions|types|layers_per_\w+)")
"""Names of what is built, or gone through, so many times; `attention_types` of GPT-Neo has numbers in lists."""
MAX_LAYERS = 300
"""More than twice as many as the deepest published language model has; as many are built in a few seconds."""
SIZES = re.compile(r".*(size|dim|width|heads?|hidden|inner|ffn|embd|embed|channels|rank|group_num|groups|d_model).*")
NO_SIZES = re.compile(r".*(position|seq|window|chunk|token|image|theta|_id|ids|index).*")
POSITIONS = re.compile(
    r"rope_(theta|ratio|local_base_freq)|rotary_(pct|emb_base)|((attention|partial_rotary|low_freq|high_freq|long|short)_)?factor"
)
"""Names of what rotary positions are computed from, with which every model has positive numbers."""
MAX_SIZE = 2**22
"""Sixteen times the largest published vocabulary."""
MAX_EXPERTS = 4096
MAX_NAME = 100
"""Most characters of a name that is looked at: no field that is read has a longer one, and the time to match one grows with its square."""
MAX_DIGITS = 16
"""Digits of a number that are shown."""
MAX_DEPTH = 4
"""Levels of sections and lists in a config.json that are looked at."""


def refuse_absurd(fields: Mapping[str, Any]) -> None:
    """Raise UserError for NaN, for rotary positions below 0, and for a number of layers, or a size, that no model has."""
    for name, value in _numbers(fields, MAX_DEPTH):
        if isinstance(value, float) and isnan(value):
            raise field_error(f'"{name}" is no number (NaN).', f'"{name}" 不是数（NaN）。')
        if POSITIONS.fullmatch(name) and not 0 <= value < inf:
            raise field_error(
                f'"{name}" is {value!s:.{MAX_DIGITS}}, which no positions have.',
                f'"{name}" 为 {value!s:.{MAX_DIGITS}}，没有这样的位置编码。',
            )
        layers = LAYERS.fullmatch(name) is not None
        limit = MAX_EXPERTS if name.endswith("experts") else MAX_LAYERS if layers else MAX_SIZE
        sized = layers or (SIZES.fullmatch(name) and not NO_SIZES.fullmatch(name))
        if sized and value > limit:
            shown = text if len(text := str(value)) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}..."
            raise field_error(
                f'"{name}" is {shown}, which no model has; at most {limit} is read.', f'"{name}" 为 {shown}，没有这样的模型；最多 {limit}。'
            )


def _numbers(fields: Mapping[str, Any], depth: int) -> Iterator[tuple[str, float]]:
    """Name and value of every number, those of sections included, and those of lists under the names of these."""
    for name, value in fields.items():
        if len(name) > MAX_NAME:
            continue
        if isinstance(value, dict) and depth > 1:
            yield from _numbers(value, depth - 1)
        elif isinstance(value, list) and depth > 1:
            for one in value:
                yield from _numbers({name: one}, depth - 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
