from dataclasses import dataclass
from pathlib import Path

import pytest

from imprint.files.typed_json import MAX_BYTES, read_typed, read_typed_lines, typed
from imprint.messages import Bilingual, UserError

ADVICE = Bilingual("Delete it.", "请删除它。")


@dataclass(frozen=True)
class Row:
    text: str
    names: tuple[str, ...]
    score: float | None = None
    count: int = 0


def test_a_value_comes_back_in_its_types(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text('{"text": "印", "names": ["a"], "score": 1}')
    (tmp_path / "rows.jsonl").write_text('{"text": "印", "names": []}\n{"text": "unfin')
    assert read_typed(tmp_path / "row.json", Row, ADVICE) == Row("印", ("a",), 1.0)
    assert read_typed_lines(tmp_path / "rows.jsonl", Row, ADVICE) == [Row("印", ())]
    assert typed([["a", "一"]], list[tuple[str, str]], "x", ADVICE) == [("a", "一")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("5", "is not what Imprint wrote (Input should be an object)"),
        ('{"text": 5, "names": []}', "is not what Imprint wrote (text: Input should be a valid string)"),
        ('{"text": "x"}', "(names: Field required)"),
        ('{"text": "x", "names": [1]}', "(names.0: Input should be a valid string)"),
        ('{"text": "x", "names": "ab"}', "(names: "),
        ('{"text": "x", "names": [], "count": "5"}', "(count: "),
        ('{"text": "x", "names": [], "count": 1.5}', "(count: "),
        ('{"text": "x", "names": [], "count": true}', "(count: "),
        ('{"text": "x", "names": [], "score": 1e999}', "(score: Input should be a finite number)"),
        ('{"text": "x", "names": [], "score": NaN}', "(score: Input should be a finite number)"),
        ('{"text": "x", "names": [], "more": 1}', "(more: Unexpected keyword argument)"),
        ('{"text": "\\ud800", "names": []}', "is not what Imprint wrote"),
    ],
)
def test_any_other_value_is_a_sentence_that_names_the_field(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "row.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_typed(path, Row, ADVICE)
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)
    assert "Delete it." in str(caught.value)
    assert "请删除它。" in str(caught.value)


def test_a_line_is_named_by_its_number_and_a_missing_or_huge_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "", "names": []}\n[]\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2: is not what Imprint wrote"):
        read_typed_lines(tmp_path / "rows.jsonl", Row, ADVICE)
    with pytest.raises(UserError, match=r"none\.json: cannot be read: No such file or directory\. Delete it\."):
        read_typed(tmp_path / "none.json", Row, ADVICE)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"huge\.json: is larger than 32 MiB\."):
        read_typed(tmp_path / "huge.json", Row, ADVICE)
    (tmp_path / "many.json").write_bytes(b"[" + b"[]," * 1_000_000 + b"0]")
    with pytest.raises(UserError, match=r"many\.json: is not JSON, or has more than a million values\."):
        read_typed(tmp_path / "many.json", Row, ADVICE)


def test_a_problem_is_short_though_the_file_is_not() -> None:
    with pytest.raises(UserError) as caught:
        typed({"text": "", "names": [], "x" * 100_000: 1}, Row, "row.json", ADVICE)
    assert len(str(caught.value)) < 500


def test_a_file_of_more_lines_or_bytes_than_its_kind_has_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "names": []}\n' * 5)
    assert len(read_typed_lines(file, Row, ADVICE, most=5)) == 5
    file.write_text(file.read_text() + "not JSON\n" * 3)
    with pytest.raises(UserError, match=r"rows\.jsonl: has more than 4 lines\."):
        read_typed_lines(file, Row, ADVICE, most=4)
    with pytest.raises(UserError, match=r"rows\.jsonl has more than 0 MiB, which no file of its kind has"):
        read_typed_lines(file, Row, ADVICE, limit=10)
