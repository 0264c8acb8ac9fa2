from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.tokenizers import (
    ChatGLM2Tokenizer,
    ChatGLMTokenizer,
    GLM4Tokenizer,
    HFTokenizer,
    missing_tokenizer_error,
    read_tokenizer,
    tokenizer_file,
)
from tests.families import SECOND, chatglm2_folder, fields_of, folder_of, glm4_folder, published_folder, ranks
from tests.vocabulary import bare_pieces, configuration, vocabulary


def test_the_fields_and_the_files_tell_the_family(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "a", configuration(pieces=bare_pieces()), {"ice_text.model": vocabulary()})
    folders = [first, chatglm2_folder(tmp_path / "b"), glm4_folder(tmp_path / "c"), published_folder(tmp_path / "d")]
    kinds = [type(read_tokenizer(folder, fields_of(folder))) for folder in folders]
    assert kinds == [ChatGLMTokenizer, ChatGLM2Tokenizer, GLM4Tokenizer, HFTokenizer]


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path, {}) is None
    assert read_tokenizer(tmp_path, SECOND) is None
    assert read_tokenizer(tmp_path, {"model_type": "bloom"}) is None


def test_what_is_missing_is_named_after_the_family() -> None:
    assert [tokenizer_file(fields) for fields in ({}, SECOND, {"model_type": "bloom"})] == [
        "ice_text.model",
        "tokenizer.model",
        "tokenizer.json",
    ]
    assert str(missing_tokenizer_error("base", "tokenizer.model")).splitlines()[0] == (
        "base: has no tokenizer (tokenizer.model). Copy the official file into the folder."
    )


def test_the_vocabulary_of_another_generation_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, SECOND, {"ice_text.model": vocabulary()})
    with pytest.raises(UserError) as error:
        read_tokenizer(tmp_path, SECOND)
    assert str(error.value).splitlines()[0] == (
        f"{tmp_path / 'ice_text.model'} is ChatGLM-6B's, but {tmp_path / 'config.json'} needs tokenizer.model. "
        "Take both files from the same release of the model."
    )
    (tmp_path / "ice_text.model").rename(tmp_path / "tokenizer.model")
    with pytest.raises(UserError, match=r"tokenizer.model is ChatGLM2's, ChatGLM3's or GLM-4's, but .* needs ice_text.model"):
        read_tokenizer(tmp_path, {"model_type": "chatglm"})


def test_a_vocabulary_larger_than_the_weights_is_refused(tmp_path: Path) -> None:
    glm4_folder(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.model needs 282 ids, but config.json allows 281 \(padded_vocab_size\)"):
        read_tokenizer(tmp_path, {**SECOND, "padded_vocab_size": 281})


def test_a_vocabulary_that_ends_texts_otherwise_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, SECOND, {"tokenizer.model": ranks()})
    with pytest.raises(UserError) as error:
        read_tokenizer(tmp_path, {**SECOND, "padded_vocab_size": 65024, "eos_token_id": 2})
    assert str(error.value).splitlines()[0] == (
        f'{tmp_path / "tokenizer.model"} does not belong to config.json: <|endoftext|> is 268 in the one, "eos_token_id" 2 in the other. '
        "Take both files from the same release of the model."
    )


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("vocab.txt", "its tokenizer is BERT's vocab.txt (WordPiece), as many Chinese GPT-2 folders have it. It is not supported, because"),
        ("merges.txt", "has GPT-2's vocab.json and merges.txt, but no tokenizer.json. Make it once: python -c"),
    ],
)
def test_a_vocabulary_of_another_form_is_named(tmp_path: Path, file: str, sentence: str) -> None:
    (tmp_path / file).write_text("[PAD]")

    assert sentence in str(missing_tokenizer_error(tmp_path, "tokenizer.json"))
