from datetime import date

import pytest

from imprint.data.readers.bad_rows import BadRowError, BadRows, clip, describe_value, quote
from imprint.messages import Bilingual, UserError


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
    assert describe_value(value) == description


def test_an_excerpt_stays_on_one_line_and_ends_somewhere() -> None:
    assert quote("字" * 41) == '"' + "字" * 40 + '..."'
    assert clip("a\tb\ud800\u2028") == "a\\tb\\ud800\\u2028"


def test_one_bad_row_is_reported_alone_and_many_are_listed_and_counted() -> None:
    problems = BadRows("a.jsonl")
    problems.raise_if_any(Bilingual("Fix {}.", "请修正。"))
    problems.good = 5
    for line in range(1, 13):
        problems.add(f"a.jsonl:{line}", BadRowError("is bad."))
        with pytest.raises(UserError) as error:
            problems.raise_if_any(Bilingual("Fix {}.", "请修正。"))
        if line == 1:
            assert str(error.value) == "a.jsonl:1: is bad. Fix this row.\n请修正。"
    lines = str(error.value).splitlines()
    assert (lines[0], lines[-3:-1]) == ("a.jsonl: 12 of 17 rows are bad. Fix them.", ["a.jsonl:10: is bad.", "and 2 more."])
    assert lines[-1] == "12 行有问题。请修正。"
