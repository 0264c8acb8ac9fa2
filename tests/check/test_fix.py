import json
from pathlib import Path

import pytest

from imprint.check.command import check_command
from imprint.check.fix import REPAIRS, rejected_file
from imprint.messages import UserError
from tests.check.rows import SOUND, lines, row, write

REPAIRABLE = [
    row(" 空白 ", "答。"),
    row("杂散\0", "一\r\n二。"),
    row("控制符", "答。<eop>"),
    row("浣犲ソ", "答。"),
    row(42, "数字。"),
    {"Content": "列名", "summary": "答。"},
    '{"content": "逗号", "summary": "答。"},',
]
UNREPAIRABLE = [row("", "答"), row("丢\ufffd", "答"), '{"content": "坏', {"x": 1}]


def fix(folder: Path, *rows: object, dev: list[object] | None = None) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The written and the rejected rows."""
    held_out = None if dev is None else write(folder / "dev.jsonl", dev)
    out = folder / "out.jsonl"
    status = check_command([write(folder / "in.jsonl", rows)], dev=held_out, model=None, fix=out, overrides=[])
    assert status == 0
    assert check_command([str(out)], dev=held_out, model=None, fix=None, overrides=[]) == 0
    reject = rejected_file(out)
    return lines(out), lines(reject) if reject.exists() else []


def test_fixed_rows_pass_the_check_and_no_row_is_lost(tmp_path: Path) -> None:
    written, rejected = fix(tmp_path, *SOUND, *REPAIRABLE, *UNREPAIRABLE, SOUND[0], SOUND[3], dev=[SOUND[5], row("新", "新。")])
    assert len(written) + len(rejected) == len(SOUND) + len(REPAIRABLE) + len(UNREPAIRABLE) + 2
    assert [one for one in written if one in SOUND] == [one for one in SOUND if one != SOUND[5]]
    assert [one["content"] for one in written[len(SOUND) - 1 :]] == ["空白", "杂散", "控制符", "你好", "42", "列名", "逗号"]


def test_each_row_that_is_rejected_is_there_with_its_location_and_its_reason(tmp_path: Path) -> None:
    _written, rejected = fix(tmp_path, *SOUND, *UNREPAIRABLE, SOUND[0], dev=[SOUND[5]])
    file = tmp_path / "in.jsonl"
    assert [str(one["place"]).removeprefix(f"{file}:") for one in rejected] == ["6", "11", "12", "13", "14", "15"]
    reasons = [str(one["reason"]).removeprefix(f"{file}:") for one in rejected]
    assert reasons[0] == f"is a held-out row, {tmp_path / 'dev.jsonl'}:1. / 是留出数据中的 {tmp_path / 'dev.jsonl'}:1。"
    assert reasons[1].startswith('"content" must not be empty')
    assert reasons[2].startswith("has lost a character")
    assert reasons[3].startswith("is not JSON")
    assert reasons[5] == f"repeats {file}:1. / 与 {file}:1 重复。"
    assert rejected[1]["row"] == UNREPAIRABLE[0]
    assert rejected[3]["row"] == UNREPAIRABLE[2]


def test_good_rows_leave_no_file_of_rejected_ones(tmp_path: Path) -> None:
    (tmp_path / "out.rejected.jsonl").write_text("of an earlier time")
    assert check_command([write(tmp_path / "in.jsonl", SOUND)], dev=None, model=None, fix=tmp_path / "out.jsonl", overrides=[]) == 0
    assert lines(tmp_path / "out.jsonl") == SOUND
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_of_equal_rows_one_is_written(tmp_path: Path) -> None:
    written, rejected = fix(tmp_path, SOUND[0], {"Content": SOUND[0]["content"], "summary": SOUND[0]["summary"]}, SOUND[0])
    assert (written, len(rejected)) == ([SOUND[0]], 2)


def test_another_encoding_becomes_utf_8(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", SOUND, encoding="gb18030")
    (tmp_path / "out.jsonl").symlink_to("linked.jsonl")
    assert check_command([source], dev=None, model=None, fix=tmp_path / "out.jsonl", overrides=[]) == 0
    assert (tmp_path / "linked.jsonl").is_file()
    assert lines(tmp_path / "out.jsonl") == SOUND


def test_a_line_in_another_encoding_than_the_others_is_decoded(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", SOUND)
    with (tmp_path / "in.jsonl").open("ab") as file:
        file.write('{"content": "另一种编码", "summary": "答。"}\n'.encode("gb18030"))
    assert check_command([str(tmp_path / "in.jsonl")], dev=None, model=None, fix=tmp_path / "out.jsonl", overrides=[]) == 0
    assert lines(tmp_path / "out.jsonl")[-1] == row("另一种编码", "答。")


def test_a_line_with_an_undecodable_byte_is_rejected(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", SOUND)
    with (tmp_path / "in.jsonl").open("ab") as file:
        file.write('{"content": "坏了一个字节'.encode() + b'\xff", "summary": "x"}\n')
    assert check_command([str(tmp_path / "in.jsonl")], dev=None, model=None, fix=tmp_path / "out.jsonl", overrides=[]) == 0
    assert lines(tmp_path / "out.jsonl") == SOUND
    (rejected,) = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "byte 0xFF" in rejected["reason"]


def test_several_files_become_one(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"question": "甲", "answer": "甲。"}])
    write(tmp_path / "b.jsonl", [{"instruction": "乙", "input": "", "output": "乙。"}])
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert check_command(files, dev=None, model=None, fix=tmp_path / "out.jsonl", overrides=[]) == 0
    assert lines(tmp_path / "out.jsonl") == [{"prompt": "甲", "response": "甲。"}, {"prompt": "乙", "response": "乙。"}]


def test_where_no_row_is_left_nothing_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", UNREPAIRABLE)
    with pytest.raises(UserError, match="no row would be left, so nothing was written"):
        check_command([source], dev=None, model=None, fix=tmp_path / "out.jsonl", overrides=[])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_result_of_a_fix_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fix(tmp_path, *SOUND, *REPAIRABLE, *UNREPAIRABLE, SOUND[1], dev=[SOUND[5]])
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'out.jsonl'}: {len(SOUND) - 1 + len(REPAIRABLE)} rows / 写入" in printed
    assert "4 cannot be fixed, 1 repeated, 1 held out" in printed or "4 cannot be fixed, 1 held out, 1 repeated" in printed
    assert all(f"{REPAIRS[name]} in 1" in printed for name in ("garbled", "tokens", "blanks", "columns", "numbers", "json"))


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out"])
def test_only_json_lines_are_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.jsonl"):
        check_command([write(tmp_path / "in.jsonl", SOUND)], dev=None, model=None, fix=tmp_path / name, overrides=[])


def test_a_file_that_is_read_is_not_replaced(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", SOUND)
    for sources, dev in (([file], None), ([f"{file}#3"], None), ([write(tmp_path / "b.jsonl", SOUND)], file)):
        with pytest.raises(UserError, match="would be overwritten"):
            check_command(sources, dev=dev, model=None, fix=tmp_path / "in.jsonl", overrides=[])
    assert lines(tmp_path / "in.jsonl") == SOUND
