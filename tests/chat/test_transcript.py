import json
from pathlib import Path

import pytest

from imprint.chat.conversation import Conversation
from imprint.chat.section import SamplingSection
from imprint.chat.transcript import save
from imprint.messages import UserError

SPOKEN = (
    Conversation(SamplingSection(), "你是小印。")
    .ask("你好")
    .answered("你好呀！")
    .ask("嗯")
    .answered("")
    .ask("讲个\n故事")
    .answered("从前", stopped=True)
)


def test_json_lines_hold_the_conversation_and_mark_what_was_stopped_as_not_to_be_learned(tmp_path: Path) -> None:
    assert save(SPOKEN, f"{tmp_path}/say.jsonl") == (tmp_path / "say.jsonl", 1)
    assert json.loads((tmp_path / "say.jsonl").read_text(encoding="utf-8")) == {
        "conversations": [
            {"role": "system", "content": "你是小印。"},
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "你好呀！"},
            {"role": "user", "content": "讲个\n故事"},
            {"role": "assistant", "content": "从前", "loss": False},
        ]
    }


def test_what_is_saved_is_read_back_as_rows_to_learn_from(tmp_path: Path) -> None:
    from imprint.data.readers.rows import read_rows
    from imprint.data.shapes import Columns, detect_shape, samples_from_row

    save(SPOKEN.ask("再见").answered("再见！"), f"{tmp_path}/say.jsonl")
    ((place, row),) = read_rows(tmp_path / "say.jsonl")
    assert isinstance(row, dict)
    samples = samples_from_row(row, detect_shape(row, Columns()), place)
    assert [(sample.query, sample.answer, sample.system) for sample in samples] == [
        ("你好", "你好呀！", "你是小印。"),
        ("再见", "再见！", "你是小印。"),
    ]
    assert samples[1].history == (("你好", "你好呀！"), ("讲个\n故事", "从前"))


def test_markdown_is_for_reading(tmp_path: Path) -> None:
    save(SPOKEN, f"{tmp_path}/say.md")
    assert (tmp_path / "say.md").read_text(encoding="utf-8") == (
        "> 你是小印。\n\n**问 / Q:** 你好\n\n**答 / A:** 你好呀！\n\n**问 / Q:** 讲个\n故事\n\n**答 / A:** 从前 *(stopped / 已停止)*\n"
    )


def test_a_name_without_an_ending_and_one_of_the_own_folder_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert save(SPOKEN, "~/new folder/say")[0] == tmp_path / "new folder" / "say.jsonl"
    assert (tmp_path / "new folder" / "say.jsonl").is_file()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "^/save: give a file"),
        (".", "^/save: give a file"),
        ("..", "^/save: give a file"),
        ("a\0b.md", "^/save: give a file"),
        ("say.txt", r"^say\.txt: must end in \.jsonl"),
        ("~nobody-is-called-this/say.md", "there is no such home folder"),
        ("x" * 300 + ".md", "the name is too long for the disk"),
    ],
)
def test_a_name_that_cannot_be_written_is_reported(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        save(SPOKEN, name)


def test_a_file_that_is_there_stays_as_it_is_and_nothing_is_written_where_nothing_was_said(tmp_path: Path) -> None:
    (tmp_path / "say.md").write_text("mine")
    with pytest.raises(UserError, match=r"say\.md: is there already\. Choose another name; nothing was written\."):
        save(SPOKEN, f"{tmp_path}/say.md")
    assert (tmp_path / "say.md").read_text() == "mine"
    with pytest.raises(UserError, match=r"^/save: there is no answer to save yet"):
        save(Conversation(SamplingSection()).ask("嗯").answered(""), f"{tmp_path}/new.md")
    assert not (tmp_path / "new.md").exists()
