"""The two files of a peft adapter, adapter_config.json and its tensors, read without trusting them, and what broken saves leave there.

Source of the format: peft, `save_pretrained`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from imprint.files.reading import read_json, refuse_lfs_pointer
from imprint.messages import Bilingual, UserError
from imprint.models.checkpoint import load_pickle
from imprint.models.families import listing
from imprint.models.network import Network
from imprint.models.stored_weights import empty_error, plain_name, refuse_empty, refuse_endless_names, refuse_other_type
from imprint.models.weight_values import is_finite, nearly_equal

CONFIG_FILE, TENSORS_FILE, PICKLE_FILE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
"""peft's file names."""
LORA_MATRICES = (".lora_A.", ".lora_B.")
PEFT_TYPES = ("LORA", "PREFIX_TUNING", "CARTRIDGE")
"""Kinds of adapters that are read here."""


def damaged_error(path: Path, problem: str) -> UserError:
    """The error for a file of an adapter folder that cannot be used."""
    return UserError(
        Bilingual(
            f"{path}: {problem}. Copy the complete adapter folder again.", f"{path}：文件缺失、损坏或内容不符：请重新完整复制适配器目录。"
        )
    )


def read_peft_fields(folder: Path) -> dict[str, Any]:
    """The fields of a folder's adapter_config.json. Raises UserError where it is damaged, or describes an unsupported kind of adapter."""
    path = folder / CONFIG_FILE
    try:
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise TypeError(f"holds {type(fields).__name__}, not an object")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise damaged_error(path, f"cannot be read as peft's configuration ({error})") from error
    if fields.get("peft_type") not in PEFT_TYPES:
        raise UserError(
            Bilingual(
                f'{path}: "peft_type" is {str(fields.get("peft_type"))[:40]!r}; of peft\'s adapters {", ".join(PEFT_TYPES)} are supported. '
                "If peft can merge it into its base (merge_and_unload), load the merged model.",
                f'{path}："peft_type" 为 {str(fields.get("peft_type"))[:40]!r}；peft 的适配器只支持 {"、".join(PEFT_TYPES)}。'
                "若 peft 能将其合并（merge_and_unload），请加载合并后的模型。",
            )
        )
    return fields


def refuse_unknown(path: Path, fields: Mapping[str, Any], known: Iterable[str], supported: Bilingual) -> None:
    """Raise UserError for a field that is set and not known: it may change numbers. `supported` says what is."""
    unknown = sorted(name for name in fields.keys() - set(known) if not _is_off(fields[name]))
    if unknown:
        raise UserError(
            Bilingual(
                f"{path}: {unknown[0]!r} is {str(fields[unknown[0]])[:60]}, which is not supported. Supported: {supported.english}. "
                "If peft can merge the adapter into its base (merge_and_unload), load the merged model.",
                f"{path}：不支持 {unknown[0]!r}；支持{supported.chinese}。若 peft 能将其合并（merge_and_unload），请加载合并后的模型。",
            )
        )


def _is_off(value: object) -> bool:
    """Whether a field has the value of a feature that is not used; 0 is a number, which may mean anything."""
    return value is None or value is False or value in ("", [], {})


def load_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file. Raises UserError where it is damaged, or names more than any model; the names are read first."""
    refuse_lfs_pointer(file)
    try:
        with safe_open(file, framework="pt") as opened:
            refuse_endless_names(file, opened.keys())
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise damaged_error(file, f"cannot be read ({error})") from error
    return tensors


def read_peft_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, by names without the prefixes of wrappers. Raises UserError where there are none, or they are broken."""
    if (file := folder / TENSORS_FILE).is_file():
        tensors = load_safetensors(file)
    elif (file := folder / PICKLE_FILE).is_file():
        tensors = load_pickle(file)
    else:
        raise damaged_error(folder, f"has {CONFIG_FILE} but neither {TENSORS_FILE} nor {PICKLE_FILE}; found {listing(folder)}")
    if not tensors:
        raise empty_error(file)
    refuse_broken(file, tensors)
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if plain.setdefault(plain_name(name), tensor) is not tensor:
            raise UserError(
                Bilingual(
                    f"{file}: holds {plain_name(name)!r} twice, with and without the prefix of a wrapper: which one is right is unknown. "
                    "Take one of the two out.",
                    f"{file}：{plain_name(name)!r} 出现两次（带与不带包装前缀），无法判断哪个正确：请去掉其中一个。",
                )
            )
    return plain


def without_base_weights(folder: Path, tensors: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The tensors without copies of the base's own weights, as peft's `save_embedding_layers` adds them.

    Raises UserError for one that differs from the base's: it was trained, or resized for new tokens.
    """
    own = network.state_dict()
    kept = {}
    for stored, tensor in tensors.items():
        name = network.network_name(stored.replace(".base_layer.", "."))
        name = next((original + name.removeprefix(copy) for copy, original in network.tied.items() if name.startswith(copy)), name)
        if name not in own:
            kept[stored] = tensor
        elif not nearly_equal(tensor, own[name]):
            raise UserError(
                Bilingual(
                    f"{folder}: brings a weight of its own, {stored!r} {tuple(tensor.shape)}, that is not the base's "
                    f"{tuple(own[name].shape)}: it was trained too, or resized for new tokens. Merge the adapter into its base with peft "
                    "(merge_and_unload), and load the merged model.",
                    f"{folder}："
                    f"适配器自带的 {stored!r} 与底座的不同：它也经过训练，或为新词元改过大小；请用 peft 的 merge_and_unload 合并后再加载。",
                )
            )
    return kept


def refuse_broken(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for tensors of an adapter that ZeRO-3 left empty, or that are not finite in float32, in which adapters are kept."""
    for name, tensor in tensors.items():
        refuse_empty(file, name, tensor)
        refuse_other_type(file, name, tensor)
        if not is_finite(tensor.float() if tensor.dtype == torch.float64 else tensor):
            raise UserError(
                Bilingual(
                    f"{file}: {name!r} holds NaN or infinite values: the training that wrote it broke. Take an earlier checkpoint, or "
                    "train again with a smaller learning rate, or in bfloat16 instead of float16.",
                    f"{file}：{name!r} 含有 NaN 或无穷大：写出它的训练已发散；请使用更早的检查点，或减小学习率、改用 bfloat16 重新训练。",
                )
            )


def refuse_lora_without_configuration(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for tensors of a LoRA that has no adapter_config.json: no file says by what their product is multiplied."""
    rank = next((len(tensor) for name, tensor in tensors.items() if LORA_MATRICES[0] in f"{name}." and tensor.dim()), None)
    if rank is None and not any(LORA_MATRICES[1] in f"{name}." for name in tensors):
        return
    refuse_broken(path, tensors)
    raise UserError(
        Bilingual(
            f"{path}: is a LoRA without its {CONFIG_FILE}, which says by how much it is multiplied. Put that file of the training into a "
            f"folder together with the tensors, named {TENSORS_FILE} or {PICKLE_FILE}. If it is lost, write it: "
            f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": ALPHA}} with the lora_alpha of the training\'s script.',
            f"{path}："
            f"这是缺少 {CONFIG_FILE} 的 LoRA，不知道应乘以多少：请把训练时的该文件与张量（{TENSORS_FILE} 或 {PICKLE_FILE}）放进同一目录；"
            f'若已丢失，请写出 {{"peft_type": "LORA", "r": {rank}, "lora_alpha": ...}}，数值取自训练脚本。',
        )
    )
