import ast
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

import imprint
from imprint.data.readers.bad_rows import (
    FIRST_OF_KIND,
    MAX_KINDS,
    OTHERS,
    BadRowError,
    BadRows,
    FirstOfEachKind,
    clip,
    describe_value,
    must_be,
    quote,
    turn_of,
)
from imprint.messages import Bilingual, UserError

CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (None, "null"),
        (True, "a boolean (true)"),
        (7.5, "a number (7.5)"),
        ("你\n好", 'a string ("你\\n好")'),
        ([1, "二"], 'a list ([1, "二"])'),
        (("问", "答"), 'a list (["问", "答"])'),
        ({"a": date(2023, 3, 14)}, 'an object ({"a": "2023-03-14"})'),
        (b"\xff", "a bytes (b'\\xff')"),
    ],
)
def test_a_value_is_described_by_its_type_and_its_beginning(value: object, description: str) -> None:
    assert describe_value(value).english == description


def test_an_excerpt_stays_on_one_line_and_ends_somewhere() -> None:
    assert quote("字" * 41) == '"' + "字" * 40 + '..."'
    assert clip("a\tb\ud800\u2028") == "a\\tb\\ud800\\u2028"


def test_one_bad_row_is_reported_alone_and_many_are_listed_and_counted() -> None:
    problems = BadRows("a.jsonl")
    problems.raise_if_any(Bilingual("Fix {}.", "请修正。"))
    problems.good = 5
    for line in range(1, 13):
        problems.add(f"a.jsonl:{line}", BadRowError(Bilingual("is bad.", "有误。")))
        with pytest.raises(UserError) as error:
            problems.raise_if_any(Bilingual("Fix {}.", "请修正。"))
        if line == 1:
            assert str(error.value) == "a.jsonl:1: is bad. Fix this row.\na.jsonl:1：有误。请修正。"
    lines = str(error.value).splitlines()
    assert lines[0] == "a.jsonl: 12 of 17 rows are bad. Fix them."
    assert lines[10:13] == ["a.jsonl:10: is bad.", "and 2 more: 2 × is bad", "12 行有问题。请修正。"]
    assert lines[-2:] == ["a.jsonl:10：有误。", "另有 2 行：2 × 有误"]


def test_of_each_kind_the_first_bad_rows_are_listed_however_late_they_come() -> None:
    problems = BadRows("a.jsonl")
    for line in range(1, 101):
        problems.add(f"a.jsonl:{line}", must_be("summary", "a text", "文本", line))
    for line in range(101, 106):
        problems.add(f"a.jsonl:{line}", must_be(turn_of(line, "messages"), "a text", "文本", 1))
    with pytest.raises(UserError) as error:
        problems.raise_if_any(Bilingual("Fix {}.", "请修正。"))
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0] for line in lines[1:14]] == [f"a.jsonl:{line}" for line in (*range(1, 11), 101, 102, 103)]
    assert lines[14] == 'and 92 more: 90 × "summary" must be a text; 2 × turn … of "messages" must be a text'
    assert lines[-1] == '另有 92 行：90 × "summary" 须为文本；2 × "messages" 第 … 轮须为文本'


def test_kinds_without_end_are_counted_together() -> None:
    first = FirstOfEachKind()
    shown = [first.shows(BadRowError(Bilingual(f"is {number}.", f"是 {number}。"))) for number in range(1000)]
    assert sum(shown) == MAX_KINDS + FIRST_OF_KIND
    assert (len(first.counts), first.counts[OTHERS]) == (MAX_KINDS + 1, 1000 - MAX_KINDS)


def test_every_reason_is_said_in_english_and_in_chinese() -> None:
    reasons = [call for file in sorted(Path(imprint.__file__).parent.rglob("*.py")) for call in reasons_in(file)]
    assert len(reasons) > 60
    for place, english, chinese in reasons:
        if re.search("[a-z]{2}", english):
            assert not CHINESE.search(english), place
            assert CHINESE.search(chinese), place


def reasons_in(file: Path) -> Iterator[tuple[str, str, str]]:
    """(place, English, Chinese) of the messages of a module that reports bad rows, without the values in them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    if not any(getattr(call.func, "id", "") in ("BadRowError", "must_be") for call in calls):
        return
    for call in calls:
        if getattr(call.func, "id", "") in ("Bilingual", "must_be") and len(call.args) >= 2:
            english, chinese = call.args[:2] if len(call.args) == 2 else call.args[1:3]
            yield f"{file}:{call.lineno}", words(english), words(chinese)


def words(message: ast.expr) -> str:
    """The texts of a message; of one that is computed elsewhere nothing."""
    parts = message.values if isinstance(message, ast.JoinedStr | ast.BoolOp) else [message]
    return "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
