"""Golden rows of ChatGLM-6B's own script and its tokenizer, where they are beside this checkout, and rows like them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from imprint.data.sample import Sample
from imprint.tokenizers import ChatGLMTokenizer, read_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden" / "chatglm1-text" / "text.json"
TURNS = (("白色上衣", "这件上衣的颜色是白色。"), ("黑色长裙", "这件长裙的颜色是黑色。"), ("红色外套", "这件外套的颜色是红色。"))

official = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden rows of ChatGLM-6B's own script are not beside this checkout")


@cache
def golden(part: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))[part]
    return rows


@cache
def official_tokenizer() -> ChatGLMTokenizer:
    folder = SHARED / "tokenizers" / "chatglm-6b"
    tokenizer = read_tokenizer(folder, json.loads((folder / "config.json").read_text()))
    assert isinstance(tokenizer, ChatGLMTokenizer)
    return tokenizer


def sample(query: str = "类型#上衣", answer: str = "这件上衣的颜色是白色。", history: tuple[tuple[str, str], ...] | None = None) -> Sample:
    return Sample(query, answer, history, "train.jsonl:1")
