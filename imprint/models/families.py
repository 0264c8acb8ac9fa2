"""From a config.json to the network it describes; decided by its fields, never by a folder's name."""

import json
from pathlib import Path
from typing import Any

from imprint.errors import UserError
from imprint.models.bloom import Bloom, BloomConfig
from imprint.models.chatglm import ChatGLM, ChatGLMConfig
from imprint.models.chatglm2 import ChatGLM2, ChatGLM2Config
from imprint.models.network import Network

NATIVE = (
    'ChatGLM-6B (config.json with "model_type": "chatglm" and "inner_hidden_size"), ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their '
    'original layout ("chatglm" and "multi_query_group_num"), BLOOM ("bloom"), and causal language models of transformers'
)


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a model folder's config.json."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give the folder that holds the model's config.json and weights.")
    if not path.is_file():
        raise UserError(
            f"{folder}: config.json is missing; found {listing(folder)}. Give the folder that holds config.json and the weights."
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Download the file again.") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: must hold one JSON object, found {type(fields).__name__}. Download the file again.")
    return fields


def build_network(fields: dict[str, Any], folder: Path) -> Network:
    """The network for these fields, its weights not yet there (on the meta device when the caller says so)."""
    kind = fields.get("model_type")
    if kind == "chatglm" and "multi_query_group_num" in fields:
        return ChatGLM2(ChatGLM2Config.read(fields))
    if kind == "chatglm" and "inner_hidden_size" in fields:
        return ChatGLM(ChatGLMConfig.read(fields))
    if kind == "bloom":
        return Bloom(BloomConfig.read(fields))
    from imprint.models import hf  # transformers takes seconds to import

    if hf.knows(kind):
        return hf.build(fields, folder)
    remote = ' Its "auto_map" asks for code from the folder, which is never run.' if "auto_map" in fields else ""
    raise UserError(f'{folder}/config.json: "model_type" is {kind!r}, an architecture that is not known here.{remote} Known: {NATIVE}.')


def listing(folder: Path) -> str:
    """A folder's content in a few words, for a sentence."""
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:6]) or "nothing"
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
