"""Saving and loading adapters: Imprint's adapter folder, peft's LoRA folder, and the original's prefix file."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from imprint.errors import UserError
from imprint.files import atomic_folder, find_folder, write_json
from imprint.models.checkpoint import PREFIX_PART, load_pickle, read_tensors
from imprint.models.families import listing
from imprint.models.network import Network
from imprint.tune.adapter import FACTS, FORMAT, Adapter, Description, fp32_tensors
from imprint.tune.fingerprint import fingerprint, same_base
from imprint.tune.lora.files import read_lora
from imprint.tune.lora.lora import CONFIG_FILE
from imprint.tune.prefix import TENSORS_FILE, PrefixEncoder, prefix_from_tensors

DESCRIPTION_FILE = "adapter.json"
ORIGINAL_FILE = "pytorch_model.bin"
INDEX_FILES = ("pytorch_model.bin.index.json", "model.safetensors.index.json")


def save_adapter(folder: Path, adapter: Adapter, description: Description, *, original: bool = False) -> None:
    """Write an adapter folder, atomically; a prefix with `original` also as the original's file."""
    content = asdict(description)
    with atomic_folder(folder) as part:
        adapter.save_files(part, description.base)
        if original:
            save_original(part, adapter)
        write_json(part / DESCRIPTION_FILE, {"method": description.method, **content.pop("facts"), **content})


def save_original(folder: Path, adapter: Adapter) -> None:
    """Write a prefix as the original's pytorch_model.bin into a folder that exists."""
    torch.save(fp32_tensors(adapter), folder / ORIGINAL_FILE)


def load_adapter(path: Path, network: Network) -> tuple[Adapter, Description]:
    """Load the adapter at `path`; a LoRA is attached to the network.

    The path is an adapter folder of Imprint's, a LoRA folder of peft's, an original `.bin` file of any name, or a folder with the
    original's pytorch_model.bin.
    """
    folder = find_folder(path)
    if folder is not None and (folder / DESCRIPTION_FILE).is_file():
        return _load_own(folder, network)
    if folder is not None and (folder / CONFIG_FILE).is_file():
        base_fingerprint = fingerprint(network)  # of the base without the LoRA
        lora = read_lora(folder, network)
        return lora, Description("", base_fingerprint, lora.facts("peft"), "chatglm")
    if folder is not None and holds_all_weights(folder):
        tensors = {name: tensor for name, tensor in read_tensors(folder) if PREFIX_PART in name}
        return _original_prefix(tensors, network, folder)
    if folder is not None and not (folder / ORIGINAL_FILE).is_file():
        raise UserError(
            f"{path}: holds no adapter; found {listing(folder)}. Allowed: {DESCRIPTION_FILE} with {TENSORS_FILE}, peft's {CONFIG_FILE} "
            f"with its tensors, or the original's {ORIGINAL_FILE}."
        )
    file = path if folder is None else folder / ORIGINAL_FILE
    if not file.is_file():
        raise UserError(f"{path}: there is no such file or folder. Give an adapter folder, a run folder's adapter/, or a prefix .bin file.")
    return _original_prefix(load_pickle(file), network, file)


def holds_all_weights(folder: Path) -> bool:
    """Whether a folder is a whole model in another form than one `.bin` file; early versions of the original saved a prefix this way."""
    return any((folder / name).is_file() for name in (*INDEX_FILES, "model.safetensors"))


def _original_prefix(tensors: dict[str, Tensor], network: Network, path: Path) -> tuple[PrefixEncoder, Description]:
    """A prefix of the original, which has no description of its own."""
    encoder = prefix_from_tensors(tensors, network, str(path))
    return encoder, Description("", fingerprint(network), encoder.facts("original"), "chatglm")


def _load_own(folder: Path, network: Network) -> tuple[Adapter, Description]:
    description = read_description(folder)
    if not same_base(description.base_fingerprint, fingerprint(network)):
        raise UserError(
            f"{folder}: was tuned on another base, {description.base!r}: the fingerprints differ. "
            "Load it together with the base it was trained on."
        )
    if description.method == "lora":
        return read_lora(folder, network), description
    try:
        tensors: dict[str, Tensor] = load_file(folder / TENSORS_FILE)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / TENSORS_FILE}: cannot be read ({error}). Copy the adapter folder again, whole.") from error
    return prefix_from_tensors(tensors, network, str(folder / TENSORS_FILE)), description


def read_description(folder: Path) -> Description:
    """Read a folder's adapter.json."""
    path = folder / DESCRIPTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise UserError(
                f'{path}: "format" is {content.get("format")!r}, this version reads {FORMAT}. Use the version of Imprint that wrote it.'
            )
        method = content.pop("method")
        if method not in FACTS:
            raise UserError(f'{path}: "method" is {method!r}, this version loads adapters of the methods {", ".join(FACTS)} only.')
        numbers = content["base_fingerprint"]
        if not isinstance(numbers, list) or not all(isinstance(number, float | int) and not isinstance(number, bool) for number in numbers):
            raise TypeError('"base_fingerprint" must be a list of numbers')
        facts = FACTS[method]
        return Description(facts=facts(**{field.name: content.pop(field.name) for field in fields(facts)}), **content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{path}: is not the description of an adapter ({error}). Copy the adapter folder again, whole.") from error
