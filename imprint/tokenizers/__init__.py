"""Text to token ids and back, one file for each way in which a published model does it."""

from imprint.tokenizers.chat_template import render
from imprint.tokenizers.chatglm import (
    BYTE_PIECES,
    CONTROL_PIECES,
    EDITIONS,
    FILE_NAME,
    WHITESPACE,
    ChatGLMTokenizer,
    ControlIds,
)
from imprint.tokenizers.chatglm2 import ChatGLM2Tokenizer
from imprint.tokenizers.folder import missing_tokenizer, read_tokenizer, tokenizer_file
from imprint.tokenizers.glm4 import GLM4Tokenizer
from imprint.tokenizers.hf import PublishedTokenizer
from imprint.tokenizers.tokenizer import SPACE, TextStream, Tokenizer

__all__ = [
    "BYTE_PIECES",
    "CONTROL_PIECES",
    "EDITIONS",
    "FILE_NAME",
    "SPACE",
    "WHITESPACE",
    "ChatGLM2Tokenizer",
    "ChatGLMTokenizer",
    "ControlIds",
    "GLM4Tokenizer",
    "PublishedTokenizer",
    "TextStream",
    "Tokenizer",
    "missing_tokenizer",
    "read_tokenizer",
    "render",
    "tokenizer_file",
]
