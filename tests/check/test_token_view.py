from pathlib import Path

import pytest

from imprint.check.settings import CheckSettings, read_settings
from imprint.check.token_view import TokenMark, mark_legend, token_lines, view_tokens
from imprint.data.sample import Sample
from imprint.terminal import Style, width
from tests.families import FOLDERS

PLAIN = Style(coloured=False)
TURNS = (("哪条围巾最暖？", "羊毛的。"), ("贵吗？", "不贵。"))


def settings(*overrides: str) -> CheckSettings:
    return read_settings(None, list(overrides))


def shown(sample: Sample, *overrides: str) -> list[tuple[str, TokenMark]]:
    used = settings(*overrides)
    return [(view.text, view.mark) for view in view_tokens(used.tokenizer, used.encode(sample), used.encode_untruncated(sample))]


def text(views: list[tuple[str, TokenMark]], mark: TokenMark) -> str:
    return "".join(view for view, its in views if its is mark)


def test_what_is_read_and_what_is_learned_are_those_of_the_training_row() -> None:
    views = shown(Sample("贵吗？", "不贵。", None, ""))
    assert text(views, TokenMark.READ).endswith("[gMASK]<sop>")
    assert text(views, TokenMark.LEARNED).endswith("不贵。<eop>")
    assert text(views, TokenMark.CUT) == ""


def test_the_original_learns_sop_too() -> None:
    views = shown(Sample("贵吗？", "不贵。", None, ""), "truncation=original")
    assert text(views, TokenMark.READ).endswith("[gMASK]")
    assert text(views, TokenMark.LEARNED).startswith("<sop>")


def test_the_end_of_an_answer_is_shown_as_cut_before_its_end_token() -> None:
    views = shown(Sample("贵吗？", "不贵，而且很暖和。", None, ""), "max_target_length=5")
    marks = [mark for _piece, mark in views]
    assert views[-1] == ("<eop>", TokenMark.LEARNED)
    assert marks[-2] is TokenMark.CUT
    assert text(views, TokenMark.CUT).endswith("暖和。")


def test_old_turns_and_the_middle_of_a_question_are_shown_where_they_stood() -> None:
    turns = shown(Sample("再便宜一点呢？", "有。", TURNS, ""), "max_source_length=40")
    assert "羊毛" in text(turns, TokenMark.CUT)
    assert text(turns, TokenMark.READ).endswith("[gMASK]<sop>")
    question = shown(Sample("红" * 9 + "白" * 9 + "黑" * 9, "有。", None, ""), "max_source_length=12")
    assert "白" in text(question, TokenMark.CUT)
    assert "白" not in text(question, TokenMark.READ)
    assert text(question, TokenMark.READ).replace("[gMASK]<sop>", "").strip("▁红") == "黑" * 5


@pytest.mark.parametrize("limits", [(), ("max_source_length=12", "max_target_length=4"), ("max_source_length=40",)])
@pytest.mark.parametrize("truncation", ["oldest_first", "original"])
def test_every_token_of_the_row_is_shown_once_and_in_order(truncation: str, limits: tuple[str, ...]) -> None:
    used = settings(f"truncation={truncation}", *limits)
    sample = Sample("再便宜一点呢？", "有棉的，也很暖和。", TURNS, "")
    row, whole = used.encode(sample), used.encode_untruncated(sample)
    views = view_tokens(used.tokenizer, row, whole)
    kept = [view for view in views if view.mark is not TokenMark.CUT]
    assert len(kept) == len(row.ids)
    assert [view.mark is TokenMark.LEARNED for view in kept] == [label != -100 for label in row.labels]
    assert len(views) - len(kept) >= len(whole.ids) - len(row.ids)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_family_shows_its_special_tokens_and_what_is_learned(name: str, tmp_path: Path) -> None:
    FOLDERS[name](tmp_path)
    used = read_settings(str(tmp_path), ["max_target_length=200", "max_source_length=2000"])
    row = used.encode(Sample("a  b\n", "好。", TURNS, "", "你是店员。"))
    views = view_tokens(used.tokenizer, row, row)
    names = {token: control for control, token in used.tokenizer.controls.items()}
    assert [view.text for view in views if view.special] == [names[token] for token in row.ids if token in names]
    assert [view.mark is TokenMark.LEARNED for view in views] == [label != -100 for label in row.labels]
    assert views[-1].text == names[used.template.end_id]
    assert not any(letter in view.text for view in views for letter in " \n")


def test_whitespace_and_bytes_can_be_seen() -> None:
    seen = [view for view, _mark in shown(Sample("a\n\tb   c", "\U0001f9ff。", None, ""))]
    assert {"⏎", "⇥", "␣×3", "<0xF0>"} <= set(seen)


def test_a_typed_special_token_is_text() -> None:
    used = settings()
    sample = Sample("什么是<eop>？", "标记。", None, "")
    assert sum(view.special for view in view_tokens(used.tokenizer, used.encode(sample), used.encode_untruncated(sample))) == 3


def test_lines_stay_within_their_columns_and_say_what_becomes_of_their_tokens() -> None:
    used = settings("max_target_length=20")
    sample = Sample("再便宜一点呢？" * 5, "有棉的，也很暖和。" * 9, None, "")
    output = list(token_lines(view_tokens(used.tokenizer, used.encode(sample), used.encode_untruncated(sample)), PLAIN, 60))
    assert all(width(line) <= 60 for line in output)
    assert [line.split(" ")[0] for line in output if not line.startswith(" ")] == ["read", "learn", "cut", "learn"]
    assert all(mark.value.line in mark_legend(PLAIN) for mark in TokenMark)
    assert any(
        width(line) < len(line)
        for line in token_lines(view_tokens(used.tokenizer, used.encode(sample), used.encode(sample)), Style(coloured=True), 60)
    )
