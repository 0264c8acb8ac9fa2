import math

import pytest

from imprint.config.syntax import parse, parse_scalar, render
from imprint.messages import UserError
from tests.bounded import cpu_time

SCALARS = [
    ("1e-3", 1e-3), ("2e-2", 0.02), ("1.5", 1.5), (".5", 0.5), ("-3", -3), ("+7", 7), ("010", 10), ("1e5", 1e5), ("-.inf", -math.inf),
    ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
    ("yes", "yes"), ("no", "no"), ("on", "on"), ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("0x1F", "0x1F"), ("1_000", "1_000"),
    ("-", "-"), (".", "."), ("e5", "e5"), ("1.2.3", "1.2.3"), ("你好", "你好"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_a_scalar_is_read_as_people_expect(text: str, value: object) -> None:
    assert parse_scalar(text, "here") == value
    if text != "-":  # alone on a line it is an item of a list
        assert parse(f"key: {text}", "here") == {"key": value}


def test_an_override_is_one_scalar_unless_it_opens_a_bracket_or_a_quote() -> None:
    assert parse_scalar("a: b # c", "here") == "a: b # c"
    assert parse_scalar("'5'", "here") == "5"
    assert parse_scalar("[1, {a: 2e-2}]", "here") == [1, {"a": 0.02}]


@pytest.mark.parametrize("text", [text for text, _value in SCALARS] + ["多行\n文本\n", "'quoted'", " ", "a: b"])
def test_text_is_written_so_that_it_stays_text(text: str) -> None:
    assert parse(render({"key": text}), "here") == {"key": text}


def test_keys_keep_their_order_and_chinese_stays_readable() -> None:
    assert render({"b": 1e-5, "a": "中文"}) == "b: 1.0e-05\na: 中文\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1\n", r"here:2:1: this is not valid YAML: expected ',' or '\]'"),
        ("a:\n  b: 1\n  b: 2", "here:3:3: this is not valid YAML: the key 'b' occurs twice"),
        ("a: !!python/object:os.system x", "here:1:4: this is not valid YAML: could not determine a constructor"),
        ("a: \x00", "here: this is not valid YAML: unacceptable character"),
        ("? [a, b]\n: 1", "here:1:3: this is not valid YAML: found unhashable key"),
        ("a: !!map xy", "here:1:4: this is not valid YAML: expected a mapping node"),
        *(
            (f"a: !!{kind} x", "here:1:4: this is not valid YAML: could not determine a constructor")
            for kind in ("binary", "timestamp", "set")
        ),
        ("a: !!bool maybe", "here: this is not valid YAML: 'maybe'"),
        ("a: !!float ''", "here: this is not valid YAML: "),
        ("a: " + "9" * 5000, "here:1:4: this is not valid YAML: a number of 5,000 digits, more than 100."),
        ("[" * 600, "here: this is nested too deeply for a recipe"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(text, "here")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a: &a [x, x]\nb: &b [" + "*a," * 99 + "]\nc: &c [" + "*b," * 99 + "]\nd: [" + "*c," * 99 + "]",
            "stand for more than 100,000 values",
        ),
        ("a: " + "1" * 101, "recipe.yaml:1:4: this is not valid YAML: a number of 101 digits, more than 100."),
        ("a: " + "x" * 200_000, "has 200,003 characters, more than 200,000, which no recipe has."),
        ("[" * 90_000, "nested too deeply"),
        (
            "a0: &a0 {x: 1}\n" + "\n".join(f'a{i}: &a{i} {{? !!merge "<<" : [{", ".join([f"*a{i - 1}"] * 10)}]}}' for i in range(1, 10)),
            "recipe.yaml:2:12: this is not valid YAML: merges are not part of YAML 1.2",
        ),
        ("a: &a " + "x" * 50_000 + "\nb: [" + "*a," * 30_000 + "]", "stand for more than 100,000 values"),
        ("a: &a " + "x" * 50_000 + "\nb: [" + "{*a : 1}," * 10_000 + "]", "stand for more than 100,000 values"),
        ("a: !!float " + "1:" * 1000 + "1", "recipe.yaml: this is not valid YAML"),
    ],
)
def test_texts_without_end_are_refused_at_once(text: str, sentence: str) -> None:
    with cpu_time(at_most=20):
        with pytest.raises(UserError) as error:
            parse(text, "recipe.yaml")

        assert sentence in str(error.value)
        assert len(str(error.value)) < 1000


def test_an_alias_is_a_value_that_is_written_once() -> None:
    assert parse("a: &a {b: [1]}\nc: *a", "recipe.yaml") == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_a_number_of_many_digits_and_a_letter_is_a_text_at_once() -> None:
    with cpu_time(at_most=20):
        assert parse("a: " + "1" * 100_000 + "x", "recipe.yaml") == {"a": "1" * 100_000 + "x"}
