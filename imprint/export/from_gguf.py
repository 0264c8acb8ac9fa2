"""`imprint import FILE.gguf OUT`: write a GGUF file as a model folder in 16 bits, which every other command takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from imprint.export.destination import refuse_destination, with_file_name
from imprint.files.atomic import atomic_folder, write_json
from imprint.loading.licence import IMPORTED
from imprint.loading.load import load_base
from imprint.models.checkpoint import save_weights
from imprint.models.gguf import read_fields_and_tensors, read_metadata
from imprint.terminal import say
from imprint.tokenizers.gguf import generation_config, write_tokenizer


def import_gguf(file: Path, out: Path) -> Path:
    """Write the model of a GGUF file to the folder `out`: config.json, bfloat16 weights, tokenizer and chat template.

    The folder appears complete, read back and opened once, or not at all. Raises UserError for a file that is not a GGUF model, an
    architecture that is not supported, and an unusable output path or disk.
    """
    metadata = read_metadata(file)
    out = with_file_name(out)
    refuse_destination(
        out, [file], written_before=lambda folder: (folder / IMPORTED).is_file(), otherwise="was not written by imprint import"
    )
    say(f"reading {file}: {_description(metadata)} / 正在读取")
    fields, tensors = read_fields_and_tensors(file, metadata, torch.bfloat16)
    with atomic_folder(out) as temporary:
        write_json(temporary / "config.json", fields)
        write_json(temporary / "generation_config.json", generation_config(metadata))
        write_tokenizer(metadata, temporary)
        save_weights(temporary, tensors, torch.bfloat16)
        write_json(temporary / IMPORTED, {"file": file.name, "licence": str(metadata.get("general.license", ""))})
        size = sum(tensor.nbytes for tensor in tensors.values())
        del tensors
        template = load_base(temporary, dtype=torch.bfloat16, device="cpu", warns_of_bos=False).template.name
    say(f"{out}: {size / 1e9:.2f} GB in 16 bits, read back and opened; template {template} / 已写入并校验")
    say(f"next: `imprint chat {out}`, or model.path={out} in a recipe / 接下来可直接对话，或在配方中使用")
    return out


def _description(metadata: Mapping[str, Any]) -> str:
    """Name, architecture and licence, as far as the file has them."""
    known = {name: metadata.get(f"general.{name}") for name in ("name", "architecture", "license")}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value)
