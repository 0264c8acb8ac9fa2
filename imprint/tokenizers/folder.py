"""The tokenizer of a model folder, selected by the fields of config.json and the files present."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from imprint.files.reading import read_model_file
from imprint.messages import Bilingual, UserError
from imprint.tokenizers.chatglm import VOCABULARY_FILE, read_chatglm
from imprint.tokenizers.chatglm2 import ChatGLM2Tokenizer, read_chatglm2
from imprint.tokenizers.glm4 import GLM4Tokenizer, is_ranks, read_glm4
from imprint.tokenizers.hf import TOKENIZER_JSON, read_hf_tokenizer
from imprint.tokenizers.tokenizer import Tokenizer

TOKENIZER_MODEL: Final = "tokenizer.model"
WORDPIECE_FILE: Final = "vocab.txt"
MERGES_FILE: Final = "merges.txt"
SAME_RELEASE: Final = "Take both files from the same release of the model."
SAME_RELEASE_CHINESE: Final = "请从同一版本的模型中取这两个文件。"


def read_tokenizer(folder: Path, config: Mapping[str, object]) -> Tokenizer | None:
    """Read the tokenizer of a model folder; None if the folder has none.

    `config`: fields of the folder's config.json. Raises UserError for a broken file, and for one that does not match `config`.
    """
    expected = tokenizer_file(config)
    if (folder / expected).exists():
        return _read_file(folder / expected, config)
    for name, family in ((VOCABULARY_FILE, "ChatGLM-6B's"), (TOKENIZER_MODEL, "ChatGLM2's, ChatGLM3's or GLM-4's")):
        if name != expected and (folder / name).exists() and config.get("model_type") == "chatglm":
            raise UserError(
                Bilingual(
                    f"{folder / name} is {family}, but {folder / 'config.json'} needs {expected}. {SAME_RELEASE}",
                    f"{folder / name}：按 config.json 需要 {expected}。{SAME_RELEASE_CHINESE}",
                )
            )
    for name in (VOCABULARY_FILE, TOKENIZER_JSON):
        if (folder / name).exists():
            return _read_file(folder / name, config)
    return None


def tokenizer_file(config: Mapping[str, object]) -> str:
    """Name of the vocabulary file of a config.json's family."""
    if config.get("model_type", "chatglm") != "chatglm":
        return TOKENIZER_JSON
    return TOKENIZER_MODEL if "multi_query_group_num" in config else VOCABULARY_FILE


def missing_tokenizer_error(folder: Path | str, file: str) -> UserError:
    """The error of a folder without the tokenizer that text needs; vocabularies of other forms are named."""
    if (Path(folder) / WORDPIECE_FILE).is_file():
        return UserError(
            Bilingual(
                f"{folder}: its tokenizer is BERT's {WORDPIECE_FILE} (WordPiece), as many Chinese GPT-2 folders have it. It is not "
                "supported, because it drops spaces, line breaks, capitals and rare characters of a text. The network itself can be used "
                "from Python with ids of your own.",
                f"{folder}："
                f"该目录的分词器是 BERT 的 {WORDPIECE_FILE}（WordPiece），会丢失空格、换行、大小写和生僻字，不支持；网络本身可用 id 调用。",
            )
        )
    if (Path(folder) / MERGES_FILE).is_file():
        return UserError(
            Bilingual(
                f"{folder}: has GPT-2's vocab.json and {MERGES_FILE}, but no {file}. Make it once: "
                f"python -c \"from transformers import AutoTokenizer as A; A.from_pretrained('{folder}').save_pretrained('{folder}')\".",
                f"{folder}：该目录有 GPT-2 的 vocab.json 与 {MERGES_FILE}，缺少 {file}：请用上面的命令生成一次。",
            )
        )
    return UserError(
        Bilingual(
            f"{folder}: has no tokenizer ({file}). Copy the official file into the folder.",
            f"{folder}：缺少分词器：请把官方的 {file} 放入该目录。",
        )
    )


def _read_file(file: Path, config: Mapping[str, object]) -> Tokenizer:
    if file.name == VOCABULARY_FILE:
        return read_chatglm(file, config)
    if file.name == TOKENIZER_JSON:
        return read_hf_tokenizer(file, config)
    tokenizer = read_glm4(file) if is_ranks(read_model_file(file, "a vocabulary")) else read_chatglm2(file)
    _refuse_mismatch(file, config, tokenizer)
    return tokenizer


def _refuse_mismatch(file: Path, config: Mapping[str, object], tokenizer: ChatGLM2Tokenizer | GLM4Tokenizer) -> None:
    """Raise UserError if the ids do not fit config.json; both vocabularies have the same file name and architecture."""
    size, needed = config.get("padded_vocab_size"), max(tokenizer.controls.values()) + 1
    if isinstance(size, int) and needed > size:
        raise UserError(
            Bilingual(
                f"{file} needs {needed} ids, but config.json allows {size} (padded_vocab_size). {SAME_RELEASE}",
                f"{file}：词表与 config.json 不匹配：{SAME_RELEASE_CHINESE}",
            )
        )
    name = "<|endoftext|>" if isinstance(tokenizer, GLM4Tokenizer) else "</s>"
    end, expected = tokenizer.controls[name], config.get("eos_token_id")
    if expected is not None and end not in (expected if isinstance(expected, list) else [expected]):
        raise UserError(
            Bilingual(
                f'{file} does not belong to config.json: {name} is {end} in the one, "eos_token_id" {expected} in the other. '
                f"{SAME_RELEASE}",
                f"{file}：词表与 config.json 不匹配：{SAME_RELEASE_CHINESE}",
            )
        )
