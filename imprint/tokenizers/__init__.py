"""Tokenizers, one file for each kind of published vocabulary; and the rendering of a folder's own chat template."""

from imprint.tokenizers.added_tokens import BRACKETED
from imprint.tokenizers.chatglm import (
    BYTE_PIECES,
    EDITIONS,
    SPECIAL_PIECES,
    VOCABULARY_FILE,
    WHITESPACE,
    ChatGLMSpecialIds,
    ChatGLMTokenizer,
)
from imprint.tokenizers.chatglm2 import ChatGLM2Tokenizer
from imprint.tokenizers.folder import missing_tokenizer_error, read_tokenizer, tokenizer_file
from imprint.tokenizers.glm4 import GLM4Tokenizer
from imprint.tokenizers.hf import ESCAPE_MARK, THOUGHTS, TOKENIZER_JSON, HFTokenizer
from imprint.tokenizers.prompt_limit import TooManyTokensError, at_most_tokens, refuse_more_tokens
from imprint.tokenizers.render_template import render_chat_template, rendering_within
from imprint.tokenizers.special_tokens import read_chat_template
from imprint.tokenizers.tokenizer import SPACE, TextStream, Tokenizer, text_as_read

__all__ = [
    "BRACKETED",
    "BYTE_PIECES",
    "EDITIONS",
    "ESCAPE_MARK",
    "SPACE",
    "SPECIAL_PIECES",
    "THOUGHTS",
    "TOKENIZER_JSON",
    "VOCABULARY_FILE",
    "WHITESPACE",
    "ChatGLM2Tokenizer",
    "ChatGLMSpecialIds",
    "ChatGLMTokenizer",
    "GLM4Tokenizer",
    "HFTokenizer",
    "TextStream",
    "Tokenizer",
    "TooManyTokensError",
    "at_most_tokens",
    "missing_tokenizer_error",
    "read_chat_template",
    "read_tokenizer",
    "refuse_more_tokens",
    "render_chat_template",
    "rendering_within",
    "text_as_read",
    "tokenizer_file",
]
