from pathlib import Path

import pytest

from imprint.check.findings import KINDS
from imprint.check.report import all_findings, finding_lines, language_line, length_lines, location_shortener, percent
from imprint.check.scan import DataScan
from imprint.check.settings import read_settings
from imprint.data.shapes import Columns, detect_shape
from imprint.terminal import Style, width
from tests.check.rows import SOUND, row

PLAIN = Style(coloured=False)


def scanned(*values: object, file: str = "a.jsonl") -> DataScan:
    scan = DataScan(read_settings(None, ["max_source_length=64", "max_target_length=64"]))
    for line, value in enumerate(values, start=1):
        scan.add(f"{file}:{line}", value, detect_shape(SOUND[0], Columns()))
    return scan


def report(scan: DataScan, dev: DataScan | None = None) -> str:
    findings = all_findings(scan, dev, str)
    return "\n".join(
        [
            *length_lines(scan, PLAIN),
            *language_line(scan.languages, PLAIN),
            *finding_lines(findings, str, compared=dev is not None, style=PLAIN),
        ]
    )


@pytest.mark.parametrize("columns", [80, 100])
def test_lists_and_excerpts_keep_to_the_columns_of_the_terminal(columns: int) -> None:
    scan = scanned(*SOUND, row("问", "答" * 300 + "，"), {"x": "字" * 200}, file="文件夹/" * 4 + "a.jsonl")
    lines = list(finding_lines(all_findings(scan, None, str), str, compared=True, style=PLAIN, columns=columns))
    listed = [line for line in lines if line.startswith("   ") or "✓" in line]
    assert max(map(width, listed)) <= columns
    assert max(map(width, listed)) > columns - 15


def test_a_repeated_row_is_reported_with_the_one_that_it_repeats() -> None:
    assert "a.jsonl:11  repeats a.jsonl:3 / 重复" in report(scanned(*SOUND, SOUND[2]))


def test_another_answer_is_distinguished_from_a_repetition() -> None:
    output = report(scanned(*SOUND, row(SOUND[2]["content"], "别的。")))
    assert "! 1  " + KINDS["contradicting"].label.english in output
    assert "完全重复的行" in output.partition("其余均未发现")[2].replace("\n", "")


def test_held_out_rows_are_reported_by_row_and_by_question() -> None:
    dev = scanned(SOUND[4], row(SOUND[6]["content"], "别的。"), file="dev.jsonl")
    output = report(scanned(*SOUND), dev)
    assert "✗ 1  " + KINDS["leaked"].label.english in output
    assert "a.jsonl:5  is dev.jsonl:1 / 相同" in output
    assert "· --fix drops them / 去掉" in output
    assert "! 1  " + KINDS["leaked_questions"].label.english in output
    assert "a.jsonl:7  has the question of dev.jsonl:2 / 同问" in output


def test_bad_rows_of_the_held_out_file_count_too() -> None:
    findings = all_findings(scanned(*SOUND), scanned({"x": 1}, row("", "x"), file="dev.jsonl"), str)
    assert (findings["bad"].count, findings["empty"].count) == (1, 1)


def test_what_was_looked_for_without_a_match_is_listed_and_leaks_only_where_they_were_looked_for() -> None:
    alone, compared = report(scanned(*SOUND)), report(scanned(*SOUND), scanned(row("新", "新。"), file="dev.jsonl"))
    assert "乱码行" in alone
    assert KINDS["leaked"].label.chinese not in alone
    assert KINDS["leaked"].label.chinese in compared


def test_the_limits_that_would_cut_one_percent_and_nothing_can_be_copied() -> None:
    scan = scanned(*SOUND, row("这" * 300, "那" * 200))
    output = report(scan)
    assert f"data.max_source_length={scan.prompt_lengths.quantile(1)} data.max_target_length={scan.answer_lengths.quantile(1)}" in output
    assert "data.max_source_length=" in output.partition("at most 1 %")[2].splitlines()[0]
    assert "1 of 11 prompts are cut (9.1 %)" in output


def test_languages_come_by_their_share() -> None:
    assert "Chinese 中文 83.3 % · English 英文 16.7 %" in report(scanned(*SOUND, row("What?", "A shirt."), row("Who?", "Me.")))


def test_no_line_of_findings_is_too_long_for_a_terminal() -> None:
    rows = [row("问\0" + "很" * 500, "答<eop>"), row("问\ufffd" * 100, "答"), *SOUND, *SOUND]
    assert max(width(line) for line in finding_lines(all_findings(scanned(*rows), None, str), str, compared=True, style=PLAIN)) <= 120


def test_locations_lose_their_common_folders() -> None:
    folder = Path("data")
    short = location_shortener([str(folder / "a.jsonl"), str(folder / "b" / "c.jsonl")])
    assert short(str(folder / "b" / "c.jsonl:7")) == str(Path("b") / "c.jsonl:7")
    assert location_shortener(["a.jsonl"])("a.jsonl:7") == "a.jsonl:7"
    assert location_shortener(["a.jsonl", str(Path("/data/b.jsonl"))])("/data/b.jsonl:7") == "/data/b.jsonl:7"


@pytest.mark.parametrize(("part", "whole", "text"), [(1, 8, "12.5 %"), (0, 3, "0.0 %"), (3, 3, "100.0 %"), (1, 9_999, "< 0.1 %")])
def test_shares_are_reported_in_percent(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text
