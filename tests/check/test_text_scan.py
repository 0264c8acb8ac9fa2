import json
import shlex
from pathlib import Path

import pytest

from imprint.check.command import check_command
from imprint.check.settings import holds_plain_text, read_settings
from imprint.check.show import show_command
from imprint.cli import main
from imprint.config import read_recipe
from imprint.data.section import TextsSection
from imprint.data.texts import load_texts
from imprint.messages import UserError
from imprint.training.recipe import Recipe
from tests.tinyrun import tiny_recipe

LINES = [f"纸鸢镇的窑火烧了三百年，这是第{number}篇。" for number in range(8)]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A folder of raw text in two encodings and a format of rows."""
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(LINES[:4]), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(LINES[4:6]), encoding="gb18030")
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES[6:]), encoding="utf-8")
    return folder


def check(*files: Path, overrides: tuple[str, ...] = (), dev: Path | None = None, fix: Path | None = None) -> int:
    return check_command([str(file) for file in files], dev=None if dev is None else str(dev), model=None, fix=fix, overrides=overrides)


def test_a_folder_of_texts_is_reported_by_its_documents_and_the_rows_they_make(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(books, overrides=("kind=texts", "blank_lines=true", "length=64")) == 0
    output = capsys.readouterr().out
    assert f"{books}: 3 files: plain text in UTF-8, plain text in GB18030, JSON lines in UTF-8.\n  3 个文件：纯文本，UTF-8 编码、" in output
    assert "8 documents, 0 bad / 8 篇文档，0 坏行" in output
    assert f"{sum(map(len, LINES))} characters," in output
    assert "0 documents take more than one row" in output
    assert "Chinese 中文 100.0 %" in output
    assert "✓ nothing is wrong" in output


def test_the_command_that_is_advised_learns_from_the_texts(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dev := tmp_path / "dev.txt").write_text("另一篇", encoding="utf-8")
    assert check(books, overrides=("blank_lines=true", "data.length=64"), dev=dev) == 0
    *_, override = shlex.split(capsys.readouterr().out.splitlines()[-1])
    data = read_recipe(tiny_recipe(tmp_path), [override], Recipe).data
    assert data == TextsSection(kind="texts", train=books, dev=dev, blank_lines=True, length=64)


def test_rows_are_counted_as_a_run_makes_them(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (books / "d.txt").write_text("很长。" * 200, encoding="utf-8")
    check(books, overrides=("kind=texts", "length=40"))
    output = capsys.readouterr().out
    settings = read_settings(None, ["kind=texts", "length=40"])
    assert settings.texts is not None
    section = settings.texts.model_copy(update={"train": books, "dev_share": 0.0})
    assert f"tokens in {len(load_texts(section, settings.tokenizer, tmp_path / 'tokens').train)} rows; 3 documents take" in output


def test_what_is_wrong_with_texts_is_found(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (books / "d.jsonl").write_text(
        '{"text": 3}\n{"text": "丢\ufffd了"}\n{"text": "<eop>好"}\n' + json.dumps({"text": LINES[0]}), encoding="utf-8"
    )
    (books / "dev.txt").write_text(LINES[1], encoding="utf-8")
    assert check(books, overrides=("kind=texts", "blank_lines=true"), dev=books / "dev.txt") == 1
    output = capsys.readouterr().out
    assert f'✗ {books}/d.jsonl:1: "text" must be a text, got a number (3).' in output
    assert "✗ 1  documents that have lost characters" in output
    assert "✗ 2  documents that the held-out file has too" in output  # the file itself lies in the folder
    assert "a.txt:3  is dev.txt:1" in output.replace("books/", "")
    assert "! 2  documents that repeat an earlier one" in output
    assert "! 1  documents with special tokens typed in them" in output
    assert "✗ something is wrong" in output


def test_plain_text_is_distinguished_from_rows_by_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, lines, table = tmp_path / "novel.txt", tmp_path / "lines.txt", tmp_path / "table.txt"
    text.write_text("It was the best of times, it was the worst of times,\nit was.\n", encoding="utf-8")
    lines.write_text('{"contnet": "a", "summary": "b"}\n', encoding="utf-8")
    table.write_text("content\tsummary\na\tb\n", encoding="utf-8")
    assert [holds_plain_text(str(file)) for file in (text, lines, table, tmp_path, tmp_path / "no.txt")] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert check(text) == 0
    assert "There is one document, so none can be held out" in capsys.readouterr().out
    assert check(lines) == 1
    assert check(table) == 0


@pytest.mark.parametrize(
    ("overrides", "fix", "sentence"),
    [
        (
            ["kind=texts", "prompt_column=q"],
            None,
            "prompt_column: is a knob of rows, and these are texts, which have text_column, blank_lines",
        ),
        (["kind=rows", "length=64"], None, "length: is a knob of texts, and these are rows"),
        (["kind=texts"], "out.jsonl", "--fix out.jsonl: repairs only rows of questions and answers"),
    ],
)
def test_what_does_not_go_with_texts_is_reported(books: Path, overrides: list[str], fix: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check(books, overrides=tuple(overrides), fix=None if fix is None else Path(fix))


def test_rows_of_texts_are_shown_as_tokens(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(books), "--limit", "2", "kind=texts", "blank_lines=true", "length=64"]) == 0
    output = capsys.readouterr().out
    heads = [line for line in output.splitlines() if "tokens / 词元:" in line]
    assert len(heads) == 2
    assert heads[0].startswith(f"{books}/a.txt:1  ")
    assert output.count("│[gMASK]│<sop>│") >= 3  # texts that share a row each have their own
    (books / "c.jsonl").write_text('{"text": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"c\.jsonl:1: .text. must be a text"):
        show_command(str(books / "c.jsonl"), model=None, limit=1, overrides=["kind=texts"])
