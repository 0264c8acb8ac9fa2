import io

import pytest

from imprint.terminal import Style, bar, clip_columns, pad_left, pad_right, style_for, table_lines, width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("中文", 4),
        ("a，b", 4),
        ("é", 1),
        ("e\u0301", 1),
        ("Ａ", 2),
        ("ｱ", 1),
        ("👍", 2),
        ("\x1b[31m红\x1b[0m", 2),
        ("\x1b[31mred\x1b[0m", 3),
        ("…─█", 3),
        ("\u200b", 0),
    ],
)
def test_a_text_takes_the_columns_that_a_terminal_gives_it(text: str, columns: int) -> None:
    assert width(text) == columns


def test_columns_line_up_with_chinese_in_them() -> None:
    assert {width(pad_right(text, 8)) for text in ("abc", "中文", "")} == {8}
    assert pad_left("中文", 6) == "  中文"
    assert pad_right("too long", 3) == "too long"


def test_a_long_text_is_cut_to_its_columns_and_stays_on_one_line() -> None:
    assert clip_columns("简约而不简单", 8) == "简约而…"
    assert clip_columns("a\nb\0", 20) == "a\\nb\\x00"
    assert clip_columns("中文", 4) == "中文"
    assert all(width(clip_columns("简约 and 简单" * 9, columns)) <= columns for columns in range(2, 40))


def test_a_bar_grows_by_eighths_and_never_vanishes() -> None:
    assert bar(1, 3) == "███"
    assert bar(0.5, 3) == "█▌"
    assert bar(1e-9, 3) == "▏"
    assert bar(0, 3) == ""


def test_colour_is_for_terminals_that_want_it() -> None:
    assert style_for(Terminal(), {}) == Style(coloured=True)
    assert style_for(Terminal(), {"NO_COLOR": "1"}) == Style(coloured=False)
    assert style_for(Terminal(), {"TERM": "dumb"}) == Style(coloured=False)
    assert style_for(io.StringIO(), {}) == Style(coloured=False)


def test_without_colour_a_text_is_itself() -> None:
    assert Style(coloured=False)("错", "red", "bold") == "错"
    assert Style(coloured=True)("错", "red", "bold") == "\x1b[31;1m错\x1b[0m"
    assert Style(coloured=True)("", "red") == ""


def test_columns_are_aligned_with_chinese_and_control_characters_are_shown() -> None:
    assert list(table_lines([["训练", "x"], ["a\x1b[31m", "y"]])) == ["训练       x", "a\\x1b[31m  y"]
