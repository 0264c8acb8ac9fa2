import json
from pathlib import Path

import pytest

from imprint.forgetting.probes import Probe, contains, is_correct, is_same, read_probes, read_texts
from imprint.messages import UserError


def test_questions_come_one_a_line_or_with_what_a_right_answer_holds(tmp_path: Path) -> None:
    plain, rows = tmp_path / "plain.txt", tmp_path / "rows.jsonl"
    plain.write_text("你是谁？\n\n几点了？\n", encoding="utf-8")
    rows.write_text('{"question": "a", "answer": "b"}\n{"question": "c", "answer": ["d", "e"]}\n{"question": "f"}\n')
    assert read_probes(plain) == [Probe("你是谁？"), Probe("几点了？")]
    assert read_probes(rows) == [Probe("a", ("b",)), Probe("c", ("d", "e")), Probe("f")]
    assert read_probes(rows, limit=1) == [Probe("a", ("b",))]
    plain.write_text("".join(f"{number}+1=?\n" for number in range(9)), encoding="utf-8")
    assert [probe.question for probe in read_probes(plain, limit=3)] == ["0+1=?", "3+1=?", "6+1=?"]  # from all over the file


@pytest.mark.parametrize("answer", [1, [], [""], ["a", 2], "", None])
def test_a_key_that_is_no_text_is_told_with_its_line(tmp_path: Path, answer: object) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "b"}\n' + json.dumps({"question": "c", "answer": answer}) + "\n")
    with pytest.raises(UserError, match=r'rows\.jsonl:2: "answer" must be a text or a list of texts, none empty, got'):
        read_probes(rows)


def test_texts_are_lines_and_a_file_without_any_is_told(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("一\n \n二\n", encoding="utf-8")
    assert read_texts(file) == ["一", "二"]
    file.write_text(" \n")
    with pytest.raises(UserError, match="holds no text"):
        read_texts(file)
    with pytest.raises(UserError, match="there is no such file"):
        read_texts(tmp_path / "gone.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_texts(tmp_path)
    file.write_bytes("你好\n你".encode() + b"\xff\xff\n" + "再见，明天见".encode())
    with pytest.raises(UserError, match=r"text\.txt:2: "):
        read_texts(file)


@pytest.mark.parametrize(
    ("answer", "key", "held"),
    [
        ("共有１２个月。", "12", True),
        ("112", "12", False),
        ("12.", "12", True),
        ("It is PARIS!", "Paris", True),
        ("Parisian", "Paris", False),
        ("等于\n42", "42", True),
        ("37+45=82。", "37+45=82。", True),
        ("我是小墨", "小墨", True),
        ("", "小墨", False),
        ("anything", " ", False),
        ("a  b", "A B", True),
    ],
)
def test_an_answer_holds_a_text_whatever_its_width_and_case_and_numbers_stand_alone(answer: str, key: str, *, held: bool) -> None:
    assert contains(answer, key) == held
    assert is_correct(answer, ["???", key]) == held


def test_answers_are_the_same_but_for_blanks_and_width() -> None:
    assert is_same("好的， OK\n", "好的, ok")
    assert not is_same("好的", "好的。")
