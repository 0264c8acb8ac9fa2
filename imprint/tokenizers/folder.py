"""From a model folder to its tokenizer; decided by the fields of config.json and the files that are there, never by names of folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from imprint.errors import UserError
from imprint.files import read_model_file
from imprint.tokenizers.chatglm import VOCABULARY_FILE, read_chatglm
from imprint.tokenizers.chatglm2 import ChatGLM2Tokenizer, read_chatglm2
from imprint.tokenizers.glm4 import GLM4Tokenizer, is_ranks, read_glm4
from imprint.tokenizers.hf import TOKENIZER_JSON, read_hf_tokenizer
from imprint.tokenizers.tokenizer import Tokenizer

TOKENIZER_MODEL: Final = "tokenizer.model"
SAME_RELEASE: Final = "Take both files from the same release of the model."


def read_tokenizer(folder: Path, config: Mapping[str, object]) -> Tokenizer | None:
    """Read the tokenizer of a model folder; None where the folder has none.

    `config` holds the fields of the folder's config.json. Raises UserError where a file is broken, or does not belong to `config`.
    """
    expected = tokenizer_file(config)
    if (folder / expected).exists():
        return _read_file(folder / expected, config)
    for name, whose in ((VOCABULARY_FILE, "ChatGLM-6B's"), (TOKENIZER_MODEL, "ChatGLM2's, ChatGLM3's or GLM-4's")):
        if name != expected and (folder / name).exists() and config.get("model_type") == "chatglm":
            raise UserError(f"{folder / name} is {whose}, but by {folder / 'config.json'} {expected} is needed. {SAME_RELEASE}")
    for name in (VOCABULARY_FILE, TOKENIZER_JSON):
        if (folder / name).exists():
            return _read_file(folder / name, config)
    return None


def tokenizer_file(config: Mapping[str, object]) -> str:
    """The file that the family of a config.json keeps its vocabulary in."""
    if config.get("model_type", "chatglm") != "chatglm":
        return TOKENIZER_JSON
    return TOKENIZER_MODEL if "multi_query_group_num" in config else VOCABULARY_FILE


def missing_tokenizer_error(folder: Path | str, file: str) -> UserError:
    """What to raise where text is needed and the folder has no tokenizer."""
    return UserError(f"{folder}: has no tokenizer ({file}). Copy the official file into the folder.")


def _read_file(file: Path, config: Mapping[str, object]) -> Tokenizer:
    if file.name == VOCABULARY_FILE:
        return read_chatglm(file, config)
    if file.name == TOKENIZER_JSON:
        return read_hf_tokenizer(file, config)
    tokenizer = read_glm4(file) if is_ranks(read_model_file(file, "a vocabulary")) else read_chatglm2(file)
    _refuse_mismatch(file, config, tokenizer)
    return tokenizer


def _refuse_mismatch(file: Path, config: Mapping[str, object], tokenizer: ChatGLM2Tokenizer | GLM4Tokenizer) -> None:
    """Both vocabularies have the same file name and architecture, so the numbers of config.json have to tell."""
    size, needed = config.get("padded_vocab_size"), max(tokenizer.special_ids.values()) + 1
    if isinstance(size, int) and needed > size:
        raise UserError(f"{file} needs {needed} ids, but config.json allows {size} (padded_vocab_size). {SAME_RELEASE}")
    name = "<|endoftext|>" if isinstance(tokenizer, GLM4Tokenizer) else "</s>"
    end, expected = tokenizer.special_ids[name], config.get("eos_token_id")
    if expected is not None and end not in (expected if isinstance(expected, list) else [expected]):
        raise UserError(
            f'{file} does not belong to config.json: {name} is {end} in the one, "eos_token_id" {expected} in the other. {SAME_RELEASE}'
        )
