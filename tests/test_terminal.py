import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import imprint
from imprint.terminal import CONTROLS, Style, bar, clip_columns, pad_left, pad_right, say, say_json, style_for, table_lines, width

OUTPUTS = (
    "sys.stdout",
    "sys.stderr",
    "sys.__stdout__",
    "sys.__stderr__",
    "sys.stdout.buffer",
    "sys.stderr.buffer",
    "os",
    "answers",
    "notes",
)
HOSTILE = "a\x1b]0;title\x07b\x9b31mc\r\x08d\u202ee\u2066f\x7f\x00g\udce4"


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
        pytest.param(Style(coloured=True)("红", "red"), 2, id="coloured-chinese"),  # its marks are others in every process
        pytest.param(Style(coloured=True)("red", "red"), 3, id="coloured-english"),
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
    assert Style(coloured=True)("", "red") == ""


def test_columns_are_aligned_with_chinese_and_control_characters_are_shown() -> None:
    assert list(table_lines([["训练", "x"], ["a\x1b[31m", "y"]])) == ["训练       x", "a\\x1b[31m  y"]


def test_what_is_said_cannot_steer_a_terminal_or_reorder_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    say(HOSTILE, Style(coloured=True)(HOSTILE, "red", "bold"), "一\r\n\t二 \u200f", stream=out)
    harmless_line = "a\ufffd]0;title\ufffdb\ufffd31mc\ufffd\ufffdd\ufffde\ufffdf\ufffd\ufffdg\ufffd"
    assert out.getvalue() == f"{harmless_line}\n\x1b[31;1m{harmless_line}\x1b[0m\n一\n\t二 \u200f\n"


def test_marks_of_colours_in_a_file_colour_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    say("".join(map(chr, range(0xFDD0, 0xFDF0))) + "x", end="")
    say("错误", stream=sys.stderr)
    assert capsys.readouterr() == ("x", "错误\n")


def test_marks_of_colours_in_a_file_colour_nothing_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out, marks = Terminal(), "".join(map(chr, range(0xFDD0, 0xFDF0)))
    say(f"{marks}x", Style(coloured=True)(f"y{marks}", "red"), f"{marks * 20}z", stream=out)
    assert out.getvalue() == "x\n\x1b[31my\x1b[0m\nz\n"


def test_json_stays_json_with_all_its_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"name": HOSTILE + "\ufdd0", "中": ["文"]})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": HOSTILE + "\ufdd0", "中": ["文"]}
    assert "中" in printed
    assert not CONTROLS.search(printed)


def test_what_libraries_say_about_a_file_is_harmless_too(capfd: pytest.CaptureFixture[str]) -> None:
    command = (
        "import logging, sys, warnings; from imprint.terminal import prepare_output; prepare_output(); text = '\\x1b[31m\\u202e'; "
        "logging.warning('key %s', text); warnings.warn(text); raise ValueError(text)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 1
    printed = capfd.readouterr().err
    assert printed.count("\ufffd[31m\ufffd") == 3
    assert not CONTROLS.search(printed)


def test_nothing_prints_but_through_the_one_function() -> None:
    """`print` is found by ruff; streams that are written to, and Rich's and prompt_toolkit's own ways to print, are found here."""
    package = Path(imprint.__file__).parent
    found = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _prints(node.func):
                found.append(f"{file.relative_to(package)}:{node.lineno}")
    assert [place.partition(":")[0] for place in found] == ["progress.py"], found


def _prints(function: ast.expr) -> bool:
    """Whether a call of this is `print(...)`, `CONSOLE.print(...)`, `sys.stdout.write(...)` or the like."""
    if isinstance(function, ast.Name):
        return function.id in ("print", "print_formatted_text", "pprint")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    return isinstance(function, ast.Attribute) and (
        function.attr in ("print", "print_exc", "print_exception")
        or (function.attr in ("write", "writelines") and owner.removeprefix("self.").lstrip("_") in OUTPUTS)
    )
