from datetime import date

import pytest

from imprint.data.badrows import clip, describe_value, quote


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "null"),
        (True, "a truth value (true)"),
        (7.5, "a number (7.5)"),
        ("你\n好", 'a string ("你\\n好")'),
        ([1, "二"], 'a list ([1, "二"])'),
        (("问", "答"), 'a list (["问", "答"])'),
        ({"a": date(2023, 3, 14)}, 'an object ({"a": "2023-03-14"})'),
        (b"\xff", "a bytes (b'\\xff')"),
    ],
)
def test_a_value_is_told_by_its_kind_and_its_beginning(value: object, told: str) -> None:
    assert describe_value(value) == told


def test_an_excerpt_stays_on_one_line_and_ends_somewhere() -> None:
    assert quote("字" * 41) == '"' + "字" * 40 + '..."'
    assert clip("a\tb\ud800\u2028") == "a\\tb\\ud800\\u2028"
