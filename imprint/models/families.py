"""Builds the network that a config.json describes; its fields decide the architecture, never the folder's name."""

from functools import cache
from pathlib import Path
from typing import Any

from imprint.files.reading import read_json_object
from imprint.messages import Bilingual, UserError
from imprint.models.bloom import Bloom
from imprint.models.chatglm import ChatGLM
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.configs.bloom import BloomConfig
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.configs.fields import field_error
from imprint.models.configs.limits import refuse_absurd
from imprint.models.configs.unread import unread_notice
from imprint.models.network import Network
from imprint.terminal import say_once
from imprint.tokenizers.special_tokens import GENERATION_CONFIG

SUPPORTED = (
    'ChatGLM-6B (config.json with "model_type": "chatglm" and "inner_hidden_size"), ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their '
    'original layout ("chatglm" and "multi_query_group_num"), BLOOM ("bloom"), and causal language models of transformers'
)


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a model folder's config.json. Raises UserError where there is none, or it is not a JSON object."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(
            Bilingual(
                f"{folder}: there is no such folder. Give the folder that holds the model's config.json and weights, or a model of the hub "
                "by owner and name, such as Qwen/Qwen3-4B, which is downloaded.",
                f"{folder}：没有这个目录。请给出含有 config.json 和权重的模型目录；"
                "或写模型站上的“所有者/名字”，例如 Qwen/Qwen3-4B，会自动下载。",
            )
        )
    if not path.is_file():
        raise UserError(
            Bilingual(
                f"{folder}: config.json is missing; found {listing(folder)}. Give the folder that holds config.json and the weights.",
                f"{folder}：缺少 config.json：请给出含有 config.json 和权重的模型目录。",
            )
        )
    return read_json_object(path)


def build_network(fields: dict[str, Any], folder: Path) -> Network:
    """The network for the fields of the folder's config.json, without weights; under `torch.device("meta")` they take no memory.

    Raises UserError for missing or impossible fields and for an unsupported architecture.
    """
    generation = read_json_object(path) if (path := folder / GENERATION_CONFIG).is_file() else {}
    try:
        refuse_absurd(fields)
        network = _build(fields, generation)
    except UserError as error:  # names the file without its folder
        raise error.prefixed(f"{folder}/") from error
    except Exception as error:  # of fields that go together badly; transformers may raise anything
        reason = " ".join(str(error).split())[:200]
        raise field_error(
            f"no network can be built from these fields ({type(error).__name__}: {reason}).", f"无法按这些字段构建网络（{reason}）。"
        ).prefixed(f"{folder}/") from error
    if notice := unread_notice(f"{folder}/config.json", fields, network.config_fields):
        print_notice(notice)
    return network


@cache
def print_notice(notice: Bilingual) -> None:
    """Print a notice, once in a process: a folder is opened several times."""
    say_once(notice.line)


def _build(fields: dict[str, Any], generation: dict[str, Any]) -> Network:
    model_type = fields.get("model_type")
    if model_type == "chatglm" and "multi_query_group_num" in fields:
        return ChatGLM2(ChatGLM2Config.read(fields))
    if model_type == "chatglm" and "inner_hidden_size" in fields:
        return ChatGLM(ChatGLMConfig.read(fields))
    if model_type == "bloom":
        return Bloom(BloomConfig.read(fields))
    from imprint.models import hf  # transformers takes seconds to import

    if hf.is_supported(model_type):
        return hf.build(fields, generation)
    remote = ' Its "auto_map" asks for code from the folder, which is never run.' if "auto_map" in fields else ""
    raise UserError(
        Bilingual(
            f'config.json: "model_type" is {model_type!r}, an architecture that is not supported.{remote} Supported: {SUPPORTED}.',
            f'config.json："model_type" 为 {model_type!r}，不支持这种架构{"；目录自带的代码从不运行" if remote else ""}。',
        )
    )


def listing(folder: Path) -> str:
    """The first names in a folder, for an error message."""
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:6]) or "nothing"
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
