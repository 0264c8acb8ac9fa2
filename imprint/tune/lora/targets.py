"""Which linears peft would give a LoRA, by the lists in adapter_config.json, and which ones no adapter can have.

Source of the rule: `check_target_module_exists` in peft.tuners.tuners_utils.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from imprint.messages import Bilingual, UserError
from imprint.models.network import Network
from imprint.tune.lora.patterns import BoundedPattern
from imprint.tune.peft_files import damaged_error

ANY_LIST = r".*?\.[^.]*"
"""What stands before the number of a layer in the name of a linear, as peft finds it without `layers_pattern`."""
ALL = "all-linear"
"""The word that takes every linear but the head."""


class TargetRule:
    """Which linears an adapter_config.json names; tensors of others peft passes over without a word."""

    def __init__(self, path: Path, fields: Mapping[str, Any], end: float) -> None:
        """Raises UserError for fields of another type, for a regular expression that cannot be used, and after the time `end`."""
        self._path, self._fields = path, fields
        targets, excluded, layers = (fields.get(field) for field in ("target_modules", "exclude_modules", "layers_to_transform"))
        if isinstance(targets, str) and targets.lower() == ALL:
            targets = None
        self._targets, self._excluded = (
            BoundedPattern(path, field, named, end, r"(?:{})\Z") if isinstance(named, str) and named else _texts(path, field, named)
            for field, named in (("target_modules", targets), ("exclude_modules", excluded))
        )
        self._numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
        lists = fields.get("layers_pattern") or []
        forms = [(str(one), r"(?:^|.*?\.){}\.(?P<number>\d+)\.") for one in (lists if isinstance(lists, list) else [lists])]
        forms = forms or [(ANY_LIST, r"{}\.(?P<number>\d+)\.")]
        self._numbered = [BoundedPattern(path, "layers_pattern", pattern, end, form) for pattern, form in forms]

    def refuse_untargeted(self, names: Iterable[str]) -> None:
        """Raise UserError for tensors of a linear that the fields leave out; `names`: the linears' names in the tensor file."""
        for name in names:
            field = self.left_out_by(name)
            if field is not None:
                raise UserError(
                    Bilingual(
                        f"{self._path}: {field!r} is {str(self._fields[field])[:80]}, which leaves out {name!r}, but the file of tensors "
                        f"has a LoRA for it; peft would pass it over. Take the configuration of the same training, or correct {field!r}.",
                        f"{self._path}：{field!r} 不包括 {name!r}，但张量文件中有它的 LoRA（peft 会忽略）：请使用同一训练的配置。",
                    )
                )

    def named(self, names: Iterable[str]) -> list[str]:
        """Those of these linears that the fields name; none where they leave open which they are."""
        return [name for name in names if self.left_out_by(name) is None] if self._targets else []

    def left_out_by(self, name: str) -> str | None:
        """The field that leaves out a linear; None if none does."""
        if self._excluded and _is_named(name, self._excluded):
            return "exclude_modules"
        if not self._targets:
            return None
        if not _is_named(name, self._targets):
            return "target_modules"
        if isinstance(self._targets, BoundedPattern) or name in self._targets or not self._numbers or self._layer(name) in self._numbers:
            return None
        return "layers_to_transform"

    def _layer(self, name: str) -> int | None:
        """The number of the layer of a linear; None without one."""
        found = next((match for pattern in self._numbered if (match := pattern.match(name))), None)
        number = None if found is None else found.groupdict().get("number")  # a pattern may match without it, as `layers|h` does
        return None if number is None else int(number)


def _texts(path: Path, field: str, names: object) -> frozenset[str]:
    """The texts of a list, none for a field that is left open. Raises UserError for anything else."""
    if not names:
        return frozenset()
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise damaged_error(path, f"{field!r} must be a text or a list of texts, got {str(names)[:80]}")
    return frozenset(names)


def _is_named(name: str, targets: BoundedPattern | frozenset[str]) -> bool:
    """Whether a regular expression matches all of a name, or a list has it or what follows a dot in it."""
    if isinstance(targets, BoundedPattern):
        return targets.match(name) is not None
    parts = name.split(".")
    return any(".".join(parts[begin:]) in targets for begin in range(len(parts)))


def refuse_head(names: Iterable[str], network: Network, where: str) -> None:
    """Raise UserError if one of these linears is the LM head, which computes from its weight alone; `where` begins the message."""
    for name in names:
        if is_head(name, network):
            raise UserError(
                Bilingual(
                    f"{where}: a LoRA on {name!r}, the LM head, is not supported. Take it out of the linears that are tuned; one "
                    "that was trained already is merged by peft (merge_and_unload), and the merged model loads here.",
                    f"{where}：不支持词表输出层 {name!r} 上的 LoRA：请去掉它；已训练好的请用 peft 的 merge_and_unload 合并后再加载。",
                )
            )


def is_head(name: str, network: Network) -> bool:
    """Whether a linear is the LM head."""
    if f"{name}." in network.tied:
        return True
    linear = dict(network.named_modules()).get(name)
    return isinstance(linear, nn.Linear) and linear.weight is network.head
