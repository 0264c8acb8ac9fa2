from pathlib import Path
from typing import Any

import pytest

from imprint.data.encode import encode_sample
from imprint.data.sample import Sample
from imprint.messages import UserError
from imprint.templates import Message, TemplateName, make_messages, read_template
from imprint.templates.plain import PlainTemplate
from imprint.tokenizers import hf
from tests.families import fields_of, piece_folder, piece_json, published_folder


def tiny(folder: Path, name: TemplateName = "auto", *, prefix: bool = False) -> PlainTemplate:
    published_folder(folder, chat_template=None, prefix=prefix)
    template = read_template(folder, fields_of(folder), name)
    assert isinstance(template, PlainTemplate)
    return template


def test_a_folder_without_a_chat_template_gets_lines(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    _, text = template.prompt(make_messages("再见", [("你好", "你好！")], "你是店员。"), "写：")
    assert template.name == "plain"
    assert template.tokenizer.decode(text.ids) == "写：你是店员。\n\n问：你好\n答：你好！\n问：再见\n答："


def test_braces_in_a_question_are_text(tmp_path: Path) -> None:
    _, text = tiny(tmp_path).prompt(make_messages("{query} {}"))
    assert tiny(tmp_path).tokenizer.decode(text.ids) == "问：{query} {}\n答："


def test_bare_puts_nothing_around_a_text(tmp_path: Path) -> None:
    template = tiny(tmp_path, "bare")
    assert [
        template.tokenizer.decode(template.prompt(messages)[1].ids)
        for messages in (make_messages("你好"), make_messages("b", [("a", "1")]))
    ] == [
        "你好",
        "a1\nb",
    ]


def test_what_begins_every_text_stands_in_front(tmp_path: Path) -> None:
    start, _ = tiny(tmp_path, prefix=True).prompt(make_messages("你好"))
    assert (start.ids, start.fixed) == ((1,), True)


def test_an_answer_ends_as_the_folder_says(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    assert (template.end_id, set(template.stop_ids)) == (2, {2})
    assert template.answer([], "好") == template.tokenizer.encode("好")
    assert (template.display_text(" 好\n"), template.stable_prefix("好,"), template.scored_text(" 好\n")) == ("好", "好,", " 好\n")


def test_tools_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The template plain does not support tools"):
        tiny(tmp_path).prompt([Message("user", "你好"), Message("observation", "晴")])


@pytest.mark.parametrize("name", ["plain", "bare"])
@pytest.mark.parametrize("prepends", [True, False])
def test_an_answer_has_the_ids_that_it_has_in_a_later_turn(tmp_path: Path, *, prepends: bool, name: TemplateName) -> None:
    piece_folder(tmp_path, None, piece_json("fox\n", "d\n", special=False, prepends=prepends))  # tokens that reach over an answer's end
    template = read_template(tmp_path, fields_of(tmp_path), name)
    assert isinstance(template, PlainTemplate)
    asked = make_messages("hello world", system="the system")
    for answer, question in (("the quick brown fox", "a"), ("hello world", "你好"), ("", "b")):
        row = [*template.prompt(asked)[1].ids, *template.answer(asked, answer)]
        asked = [*asked, Message("assistant", answer), Message("user", question)]
        later = template.prompt(asked)[1].ids
        assert list(later[: len(row)]) == row
        assert template.tokenizer.decode(later[len(row) :]).strip().startswith("问：" if name == "plain" else question)


@pytest.mark.parametrize(("name", "before"), [("plain", "问：hello world\n答："), ("bare", "hello world")])
@pytest.mark.parametrize("prepends", [True, False])
def test_an_answer_has_the_ids_that_it_has_in_the_whole_text(tmp_path: Path, name: TemplateName, before: str, *, prepends: bool) -> None:
    piece_folder(tmp_path, None, piece_json(prepends=prepends))
    template = read_template(tmp_path, fields_of(tmp_path), name)
    assert isinstance(template, PlainTemplate)
    asked = make_messages("hello world")
    for answer in ("the quick brown fox", " the fox", "好"):
        row = [*template.prompt(asked)[1].ids, *template.answer(asked, answer)]
        assert row == template.tokenizer.encode(before + answer)


@pytest.mark.parametrize("name", ["plain", "bare"])
def test_a_row_is_encoded_by_one_call_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: TemplateName) -> None:
    template, calls = tiny(tmp_path, name), list[str]()
    encode = hf._encode

    def counted(rust: Any, text: str) -> Any:
        calls.append(text)
        return encode(rust, text)

    monkeypatch.setattr(hf, "_encode", counted)
    row = encode_sample(template, Sample("你好", "好", None, "a:1"), max_source_length=64, max_target_length=64)
    assert len(calls) == 1
    assert list(row.ids[: len(row.ids) - 1]) == template.tokenizer.encode(calls[0])
    assert template.prompt(make_messages("你好"), "写：") != template.prompt(make_messages("你好"))
