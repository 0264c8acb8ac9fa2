"""Saves and loads adapters: Imprint's adapter folder, peft's LoRA folder, and the original's prefix file."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imprint.files.atomic import atomic_folder, find_folder, write_json
from imprint.files.typed_json import read_typed, typed
from imprint.messages import Bilingual, UserError
from imprint.models.checkpoint import PREFIX_PART, load_pickle, read_tensors
from imprint.models.families import listing
from imprint.models.network import Network
from imprint.tune.adapter import FORMAT, METADATA, Adapter, AdapterMetadata, fp32_tensors
from imprint.tune.fingerprint import fingerprint, same_base
from imprint.tune.lora.files import read_lora
from imprint.tune.peft_files import (
    CONFIG_FILE,
    PICKLE_FILE,
    load_safetensors,
    read_peft_fields,
    read_peft_tensors,
    refuse_broken,
    refuse_lora_without_configuration,
)
from imprint.tune.peft_files import TENSORS_FILE as PEFT_TENSORS_FILE
from imprint.tune.peft_prefix import read_peft_prefix
from imprint.tune.prefix import TENSORS_FILE, PrefixEncoder, prefix_from_tensors

METADATA_FILE = "adapter.json"
ORIGINAL_FILE = "pytorch_model.bin"
COPY_AGAIN = Bilingual("Copy the complete adapter folder again.", "请重新完整复制适配器目录。")
INDEX_FILES = ("pytorch_model.bin.index.json", "model.safetensors.index.json")


def save_adapter(folder: Path, adapter: Adapter, metadata: AdapterMetadata, *, original: bool = False) -> None:
    """Write an adapter folder atomically; with `original`, a prefix also as the original's file."""
    content = asdict(metadata)
    with atomic_folder(folder) as temporary:
        adapter.save_files(temporary, metadata.base)
        if original:
            save_original(temporary, adapter)
        write_json(temporary / METADATA_FILE, {"method": metadata.method, **content.pop("method_metadata"), **content})


def save_original(folder: Path, adapter: Adapter) -> None:
    """Write a prefix as the original's pytorch_model.bin into a folder that exists."""
    torch.save(fp32_tensors(adapter), folder / ORIGINAL_FILE)


def load_adapter(path: Path, network: Network) -> tuple[Adapter, AdapterMetadata]:
    """Load the adapter at `path`; a LoRA is attached to the network.

    The path is an adapter folder of Imprint, a LoRA or prefix folder of peft, an original prefix file of any name, or a folder with the
    original's pytorch_model.bin. Raises UserError where there is no adapter, or it is damaged or belongs to another base.
    """
    folder = find_folder(path)
    if folder is not None and (folder / METADATA_FILE).is_file():
        return _load_own(folder, network)
    if folder is not None and (folder / CONFIG_FILE).is_file():
        base_fingerprint = fingerprint(network)  # before a LoRA is attached
        fields = read_peft_fields(folder)
        adapter = read_lora(folder, network) if fields["peft_type"] == "LORA" else read_peft_prefix(folder, fields, network)
        return adapter, AdapterMetadata("", base_fingerprint, adapter.metadata("peft"), "chatglm")
    if folder is not None and holds_all_weights(folder):
        tensors = {name: tensor for name, tensor in read_tensors(folder) if PREFIX_PART in name or ".lora_" in name}
        return _original_prefix(tensors, network, folder)
    if folder is not None and any((folder / name).is_file() for name in (PEFT_TENSORS_FILE, PICKLE_FILE)):
        return _original_prefix(read_peft_tensors(folder), network, folder)
    if folder is not None and not (folder / ORIGINAL_FILE).is_file():
        raise UserError(
            Bilingual(
                f"{path}: holds no adapter; found {listing(folder)}. Allowed: {METADATA_FILE} with {TENSORS_FILE}, peft's {CONFIG_FILE} "
                f"with its tensors, or the original's {ORIGINAL_FILE}.",
                f"{path}：没有适配器：需要 {METADATA_FILE} 与 {TENSORS_FILE}、peft 的 {CONFIG_FILE} 及其张量，或原项目的 {ORIGINAL_FILE}。",
            )
        )
    file = path if folder is None else folder / ORIGINAL_FILE
    if not file.is_file():
        raise UserError(
            Bilingual(
                f"{path}: there is no such file or folder. Give an adapter folder, a run folder's adapter/, or a prefix .bin file.",
                f"{path}：没有这个文件或目录：请给出适配器目录、训练结果目录中的 adapter/，或前缀的 .bin 文件。",
            )
        )
    return _original_prefix(load_pickle(file), network, file)


def holds_all_weights(folder: Path) -> bool:
    """Whether a folder holds a full model in shards or safetensors; early versions of the original saved the prefix inside one."""
    return any((folder / name).is_file() for name in (*INDEX_FILES, "model.safetensors"))


def _original_prefix(tensors: dict[str, Tensor], network: Network, path: Path) -> tuple[PrefixEncoder, AdapterMetadata]:
    """A prefix in the original's format, with metadata made from its shape."""
    refuse_lora_without_configuration(path, tensors)
    refuse_broken(path, {name: tensor for name, tensor in tensors.items() if "prefix_encoder." in name})
    encoder = prefix_from_tensors(tensors, network, str(path))
    return encoder, AdapterMetadata("", fingerprint(network), encoder.metadata("original"), "chatglm")


def _load_own(folder: Path, network: Network) -> tuple[Adapter, AdapterMetadata]:
    metadata = read_adapter_metadata(folder)
    if not same_base(metadata.base_fingerprint, fingerprint(network)):
        raise UserError(
            Bilingual(
                f"{folder}: was tuned on another base, {metadata.base!r}: the fingerprints differ. "
                "Load it together with the base it was trained on.",
                f"{folder}：该适配器是在另一个底座 {metadata.base!r} 上训练的（指纹不同）：请与其训练时的底座一起使用。",
            )
        )
    if metadata.method == "lora":
        return read_lora(folder, network), metadata
    tensors = load_safetensors(folder / TENSORS_FILE)
    refuse_broken(folder / TENSORS_FILE, tensors)
    return prefix_from_tensors(tensors, network, str(folder / TENSORS_FILE)), metadata


def read_adapter_metadata(folder: Path) -> AdapterMetadata:
    """Read a folder's adapter.json. Raises UserError where it is damaged, or of another version or method."""
    path = folder / METADATA_FILE
    content = read_typed(path, dict[str, Any], COPY_AGAIN)
    if content.get("format") != FORMAT:
        raise UserError(
            Bilingual(
                f'{path}: "format" is {content.get("format")!r}, this version reads {FORMAT}. Use the version of Imprint that wrote it.',
                f"{path}：适配器格式不同，本版本只读 {FORMAT}：请使用写出它的 Imprint 版本。",
            )
        )
    method = content.pop("method", None)
    if not isinstance(method, str) or method not in METADATA:
        raise UserError(
            Bilingual(
                f'{path}: "method" is {method!r}, this version loads only {", ".join(METADATA)} adapters.',
                f'{path}："method" 为 {method!r}，本版本只能读取 {"、".join(METADATA)} 适配器。',
            )
        )
    of_method = {field.name: content.pop(field.name) for field in fields(METADATA[method]) if field.name in content}
    return typed({**content, "method_metadata": of_method}, AdapterMetadata, str(path), COPY_AGAIN)
