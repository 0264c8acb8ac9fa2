"""Choice of the template of a model folder: by its tokenizer and tokenizer_config.json, or by a recipe."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError
from imprint.templates.chat_template import chat_template_of
from imprint.templates.chatglm import ChatGLMTemplate
from imprint.templates.chatglm2 import ChatGLM2Template
from imprint.templates.conversation import Template
from imprint.templates.plain import PlainTemplate
from imprint.templates.roles import RoleTemplate
from imprint.tokenizers import (
    TOKENIZER_JSON,
    ChatGLM2Tokenizer,
    ChatGLMTokenizer,
    GLM4Tokenizer,
    HFTokenizer,
    Tokenizer,
    read_chat_template,
    read_tokenizer,
)

TemplateName = Literal["auto", "chatglm", "chatglm2", "chatglm3", "glm4", "own", "plain", "bare"]
TEMPLATE_HELP: Final = (
    "Template of a conversation; auto detects it from the folder. If it cannot: chatglm2 or chatglm3; for other families own (the chat "
    "template of the folder), plain (lines with 问： and 答：) or bare."
)
DATE_FUNCTION: Final = "strftime_now"
"""What chat templates call for today's date."""
ROLE_TOKEN_KEYS: Final = ("chat_template", "additional_special_tokens", "added_tokens_decoder")


def choose_template(tokenizer: Tokenizer, folder: Path, wanted: TemplateName = "auto") -> Template:
    """The template of a tokenizer. Raises UserError if `wanted` is a template of another family."""
    possible = _allowed_names(tokenizer, folder)
    name = possible[0] if wanted == "auto" else wanted
    if name not in possible:
        raise UserError(
            Bilingual(
                f"template: {wanted} does not fit the tokenizer of {folder}; possible are auto and {', '.join(sorted(possible))}.",
                "template：该模型的分词器不能使用此模板。",
            )
        )
    if isinstance(tokenizer, HFTokenizer):
        return chat_template_of(tokenizer) if name == "own" else _plain(tokenizer, folder, "bare" if name == "bare" else "plain")
    if isinstance(tokenizer, ChatGLM2Tokenizer):
        return RoleTemplate(tokenizer) if name == "chatglm3" else ChatGLM2Template(tokenizer)
    if isinstance(tokenizer, GLM4Tokenizer):
        return RoleTemplate(tokenizer)
    assert isinstance(tokenizer, ChatGLMTokenizer)
    return ChatGLMTemplate(tokenizer)


def read_template(folder: Path, config: Mapping[str, object], wanted: TemplateName = "auto", *, date: str | None = None) -> Template | None:
    """The template of a model folder with the fields `config` of its config.json; None if the folder has no tokenizer.

    `date`: year-month-day that a chat template writes as today's date; None is the day of each rendering. Raises UserError as
    `read_tokenizer` and `choose_template` do.
    """
    tokenizer = read_tokenizer(folder, config)
    if isinstance(tokenizer, HFTokenizer) and date is not None:
        tokenizer.special_tokens = replace(tokenizer.special_tokens, moment=datetime.fromisoformat(date))
    return None if tokenizer is None else choose_template(tokenizer, folder, wanted)


def writes_date(folder: Path, wanted: TemplateName = "auto") -> bool:
    """Whether the template of a model folder writes today's date."""
    return wanted in ("auto", "own") and (folder / TOKENIZER_JSON).is_file() and DATE_FUNCTION in (read_chat_template(folder) or "")


def _allowed_names(tokenizer: Tokenizer, folder: Path) -> tuple[TemplateName, ...]:
    """The templates that fit a tokenizer; the first is that of `auto`."""
    if isinstance(tokenizer, ChatGLM2Tokenizer):
        return ("chatglm3", "chatglm2") if mentions_role_tokens(folder) else ("chatglm2", "chatglm3")
    if isinstance(tokenizer, GLM4Tokenizer):
        return ("glm4",)
    if isinstance(tokenizer, HFTokenizer):
        return ("own", "plain", "bare") if tokenizer.special_tokens.chat_template else ("plain", "bare")
    return ("chatglm",)


def mentions_role_tokens(folder: Path) -> bool:
    """Whether tokenizer_config.json mentions role tokens such as <|user|>, as ChatGLM3's does and ChatGLM2's does not.

    Their config.json and vocabulary are the same.
    """
    try:
        settings = read_json(folder / "tokenizer_config.json")
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and any("<|" in str(settings.get(name, "")) for name in ROLE_TOKEN_KEYS)


def _plain(tokenizer: HFTokenizer, folder: Path, name: Literal["plain", "bare"]) -> PlainTemplate:
    if not tokenizer.special_tokens.eos_ids:
        raise UserError(
            Bilingual(
                f'{folder}: nothing ends a text: "eos_token" is in neither tokenizer_config.json nor config.json. '
                "Take both from the official folder.",
                f"{folder}：配置中没有结束符（eos_token）：请使用官方目录中的 tokenizer_config.json 和 config.json。",
            )
        )
    return PlainTemplate(tokenizer, name)
