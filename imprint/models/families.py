"""From a config.json to the network it describes; decided by its fields, never by a folder's name."""

from pathlib import Path
from typing import Any

from imprint.errors import UserError
from imprint.files import read_json_object
from imprint.models.bloom import Bloom
from imprint.models.chatglm import ChatGLM
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.configs.bloom import BloomConfig
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.network import Network
from imprint.tokenizers.hf import GENERATION_CONFIG

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
    return read_json_object(path)


def build_network(fields: dict[str, Any], folder: Path) -> Network:
    """The network for the fields of the folder's config.json, its weights not yet there (on the meta device when the caller says so).

    Raises UserError for fields that are missing, impossible, or of an architecture that is not known.
    """
    generation = read_json_object(path) if (path := folder / GENERATION_CONFIG).is_file() else {}
    try:
        return _build(fields, generation)
    except UserError as error:  # which names the file, and not where it is
        raise UserError(f"{folder}/{error}") from error


def _build(fields: dict[str, Any], generation: dict[str, Any]) -> Network:
    kind = fields.get("model_type")
    if kind == "chatglm" and "multi_query_group_num" in fields:
        return ChatGLM2(ChatGLM2Config.read(fields))
    if kind == "chatglm" and "inner_hidden_size" in fields:
        return ChatGLM(ChatGLMConfig.read(fields))
    if kind == "bloom":
        return Bloom(BloomConfig.read(fields))
    from imprint.models import hf  # transformers takes seconds to import

    if hf.knows(kind):
        return hf.build(fields, generation)
    remote = ' Its "auto_map" asks for code from the folder, which is never run.' if "auto_map" in fields else ""
    raise UserError(f'config.json: "model_type" is {kind!r}, an architecture that is not known here.{remote} Known: {NATIVE}.')


def listing(folder: Path) -> str:
    """A folder's content in a few words, for a sentence."""
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:6]) or "nothing"
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
