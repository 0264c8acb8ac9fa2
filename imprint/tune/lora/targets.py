"""Which linears peft would give a LoRA, by the lists in adapter_config.json, and which ones no adapter can have.

Source of the rule: `check_target_module_exists` in peft.tuners.tuners_utils.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from imprint.messages import Bilingual, UserError
from imprint.models.network import Network

FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The number of a layer in the name of a linear, as peft finds it."""


def refuse_untargeted(path: Path, fields: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise UserError for tensors of a linear that the configuration at `path` leaves out, since peft passes such tensors over.

    `names`: the linears' names in the tensor file. Only lists are looked at: peft writes what it matched, and a regular expression says
    nothing that the tensors do not.
    """
    for name in names:
        field = left_out_by(fields, name)
        if field is not None:
            raise UserError(
                Bilingual(
                    f"{path}: {field!r} is {str(fields[field])[:80]}, which leaves out {name!r}, but the file of tensors has a LoRA for "
                    f"it; peft would pass it over. Take the configuration of the same training, or correct {field!r}.",
                    f"{field!r} 不包括 {name!r}，但张量文件中有它的 LoRA（peft 会忽略）：请使用同一训练的配置。",
                )
            )


def left_out_by(fields: Mapping[str, Any], name: str) -> str | None:
    """The field that leaves out a linear; None if none does."""
    targets, excluded, layers = (fields.get(field) for field in ("target_modules", "exclude_modules", "layers_to_transform"))
    if isinstance(excluded, list) and _is_named(name, excluded):
        return "exclude_modules"
    if not isinstance(targets, list) or not targets or name in targets:
        return None
    if not _is_named(name, targets):
        return "target_modules"
    numbers = layers if isinstance(layers, list) else [layers]
    number = FIRST_NUMBER.match(name)
    if layers in (None, []) or number is None or fields.get("layers_pattern") or int(number[1]) in numbers:
        return None
    return "layers_to_transform"


def _is_named(name: str, ends: Iterable[object]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def refuse_head(names: Iterable[str], network: Network, where: str) -> None:
    """Raise UserError if one of these linears is the LM head, which computes from its weight alone; `where` begins the message."""
    for name in names:
        if f"{name}." in network.tied or _is_head(name, network):
            raise UserError(
                Bilingual(
                    f"{where}: a LoRA on {name!r}, the LM head, is not supported. Take it out of the linears that are tuned; one "
                    "that was trained already is merged by peft (merge_and_unload), and the merged model loads here.",
                    f"不支持词表输出层 {name!r} 上的 LoRA：请去掉它；已训练好的请用 peft 的 merge_and_unload 合并后再加载。",
                )
            )


def _is_head(name: str, network: Network) -> bool:
    linear = dict(network.named_modules()).get(name)
    return isinstance(linear, nn.Linear) and linear.weight is network.head_weight
