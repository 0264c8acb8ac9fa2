from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.check import settings
from imprint.check.duplicates import duplicated
from imprint.check.scan import DataScan
from imprint.check.settings import CheckSettings, read_settings
from imprint.data import encode
from imprint.data.shapes import Columns, detect_shape
from imprint.messages import Bilingual
from imprint.tokenizers import Tokenizer
from tests.check.rows import SOUND, row
from tests.families import template_of

LIMITS = ("max_source_length=64", "max_target_length=64")
LONG = "这件上衣的版型很宽松，颜色是白色，适合夏天穿，也适合秋天穿，" * 6


def check(*values: object, overrides: tuple[str, ...] = ()) -> DataScan:
    scan = DataScan(read_settings(None, (*LIMITS, *overrides)))
    shape = detect_shape(SOUND[0], Columns())
    for line, value in enumerate(values, start=1):
        scan.add(f"a:{line}", value, shape)
    return scan


def found(*values: object) -> dict[str, int]:
    return {name: tally.count for name, tally in check(*values).findings.items()}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("lost", row("问\ufffd", "答。")),
        ("garbled", row("问", "浣犲ソ")),
        ("stray", row("问\0", "答。")),
        ("tokens", row("问", "答。<eop>")),
        ("blanks", row("问 ", "答。")),
        ("inside", row("什么是 <eop> 标记？", "答。")),
        ("inside", row("[Round 1]\n\n问：你好\n\n答：", "答。")),
        ("loops", row("问", "我喜欢苹果。" * 9)),
        ("breaks_off", row("问", "包括以下几点：")),
    ],
)
def test_each_kind_of_finding_is_found_in_its_row_and_nothing_else_is(kind: str, value: dict[str, object]) -> None:
    assert found(*SOUND, value) == {kind: 1}


def test_good_rows_show_nothing() -> None:
    assert found(*SOUND) == {}


def test_a_row_is_counted_once_however_often_it_shows_something() -> None:
    assert found({"content": "\0问\0", "summary": "答\0"}) == {"stray": 1}


def test_an_answer_that_the_limit_ends_in_mid_sentence_is_found() -> None:
    assert found(row("问", LONG + "完。"))["half"] == 1


def test_an_answer_that_the_limit_ends_behind_a_sentence_is_no_half_one() -> None:
    scan = check(row("问", "好。很好。"), overrides=("max_target_length=4",))
    assert scan.answer_lengths.cut == 1
    assert "half" not in scan.findings


def test_every_row_ends_in_its_end_token_whatever_is_cut() -> None:
    for truncation in ("oldest_first", "original"):
        scan = check(*SOUND, row(LONG, LONG), overrides=(f"truncation={truncation}", "max_target_length=9", "max_source_length=9"))
        assert "no_end_token" not in scan.findings
        assert scan.answer_lengths.cut == 11


def test_a_row_without_its_end_token_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = CheckSettings.encode
    monkeypatch.setattr(CheckSettings, "encode", lambda used, sample: replace(row := encode(used, sample), labels=(*row.labels[:-1], 7)))
    assert found(SOUND[0]) == {"no_end_token": 1}


@pytest.mark.long
def test_a_conversation_takes_time_in_proportion_to_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "LONG_CHARACTERS", 2000)
    monkeypatch.setattr(encode, "ESTIMATE_CHARACTERS", 500)
    monkeypatch.setattr(settings, "MEASURED_TOKENS", 64)
    used = read_settings(None, ["max_target_length=64"])
    read: list[int] = []
    tokenize = type(used.tokenizer).encode

    def counted(tokenizer: Tokenizer, text: str) -> list[int]:
        read.append(len(text))
        return tokenize(tokenizer, text)

    monkeypatch.setattr(type(used.tokenizer), "encode", counted)
    characters: dict[int, int] = {}
    for turns in (60, 120, 240):
        value = {"messages": [{"role": role, "content": LONG[:60]} for _ in range(turns) for role in ("user", "assistant")]}
        scan, shape = DataScan(used), detect_shape(value, Columns())
        read.clear()
        assert scan.add("a:1", value, shape) is None
        assert scan.choose_limits()
        scan.add_cut("a:1", value, shape)
        assert scan.prompt_lengths.total == turns
        assert scan.prompt_lengths.cut
        characters[turns] = sum(read)
    assert characters[240] - characters[120] < 2.2 * (characters[120] - characters[60]), characters


def test_lengths_are_counted_before_anything_is_cut() -> None:
    scan = check(*SOUND, row(LONG, LONG))
    assert scan.prompt_lengths.total == scan.answer_lengths.total == 11
    assert scan.prompt_lengths.cut == scan.answer_lengths.cut == 1
    assert scan.prompt_lengths.quantile(1) == scan.prompt_lengths.limit + scan.prompt_lengths.lost
    assert scan.answer_lengths.quantile(1) == scan.answer_lengths.limit + scan.answer_lengths.lost


def test_limits_that_are_not_given_leave_99_of_100_rows_whole_and_count_what_they_cut() -> None:
    scan, shape = DataScan(read_settings(None, [])), detect_shape(SOUND[0], Columns())
    values = [*(row(f"问{number}", "好。") for number in range(150)), row("问", LONG), row(LONG, LONG + "完。"), {"content": "no answer"}]
    for line, value in enumerate(values, start=1):
        scan.add(f"a:{line}", value, shape)
    before = (scan.prompt_lengths.cut, scan.answer_lengths.cut)
    assert scan.choose_limits()
    for line, value in enumerate(values, start=1):
        scan.add_cut(f"a:{line}", value, shape)
    assert before == (0, 0)
    assert (scan.prompt_lengths.cut, scan.answer_lengths.cut, scan.findings["half"].count) == (1, 1, 1)
    assert scan.answer_lengths.limit == scan.answer_lengths.quantile(0.99) < scan.needed.answer
    assert scan.answer_lengths.lost == scan.needed.answer - scan.answer_lengths.limit


def test_limits_that_cut_nothing_need_no_second_look() -> None:
    scan = DataScan(read_settings(None, ["max_source_length=200"]))
    scan.add("a:1", row(LONG, LONG), detect_shape(SOUND[0], Columns()))
    assert not scan.choose_limits()
    assert (scan.prompt_lengths.limit, scan.answer_lengths.limit) == (200, scan.needed.answer)


def english(reasons: Counter[Bilingual]) -> dict[str, int]:
    return {kind.english: count for kind, count in reasons.items()}


def test_bad_rows_are_counted_by_their_reasons_and_empty_ones_apart() -> None:
    scan = check({"content": "x"}, {"content": "y"}, row("问", 1.5), row("", "答"), row("问", " "), row("问", ""))
    assert scan.rows == scan.bad_rows == 6
    assert english(scan.bad_reasons) == {
        'there is no column "summary", which response_column names': 2,
        '"summary" must be a text': 1,
    }
    assert english(scan.empty_reasons) == {
        '"content" must not be empty': 1,
        '"summary" must not be empty': 2,
    }
    assert len(scan.digests.locations) == 1


def test_rows_that_are_equal_once_repaired_are_equal() -> None:
    scan = check(row("问", "答。"), row("问 ", "答。<eop>"), {"Content": "问", "summary": "答。"}, row("问", "别的。"))
    assert list(duplicated(scan.digests)) == [(1, 0), (2, 0)]


def test_rows_are_counted_by_language() -> None:
    scan = check(*SOUND, row("What is it?", "A shirt."), row("これは何ですか", "シャツです。"))
    assert dict(scan.languages) == {"zh": 10, "en": 1, "ja": 1}


def test_every_answer_of_a_conversation_is_measured_and_its_texts_are_looked_at_once() -> None:
    turns = [("user", "问\0"), ("assistant", "答。"), ("user", "再问"), ("assistant", "再答。")]
    value = {"messages": [{"role": role, "content": content} for role, content in turns]}
    scan = DataScan(read_settings(None, []))
    scan.add("a:1", value, detect_shape(value, Columns()))
    assert (scan.rows, scan.samples, scan.prompt_lengths.total) == (1, 2, 2)
    assert scan.findings["stray"].count == 1


def test_a_conversation_without_an_answer_to_learn_is_found() -> None:
    value = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "loss": False}]}
    scan = DataScan(read_settings(None, []))
    assert scan.add("a:1", value, detect_shape(value, Columns())) is None
    assert scan.findings["nothing"].count == 1


def test_calls_of_tools_are_rows_where_the_model_writes_them_and_bad_elsewhere(tmp_path: Path) -> None:
    call = {"role": "tool", "name": "weather", "parameters": {}, "observation": "晴"}
    value = {"messages": [{"role": "user", "content": "天气？"}, call, {"role": "assistant", "content": "晴。 "}]}
    assert template_of("glm4", tmp_path).supports_tools
    for model, samples, bad in ((str(tmp_path), 2, 0), (None, 0, 1)):
        scan = DataScan(read_settings(model, ()))
        scan.add("a:1", value, detect_shape(value, Columns()))
        assert (scan.samples, scan.bad_rows, len(scan.digests.locations)) == (samples, bad, 1 - bad)
