from pathlib import Path

import pytest

from imprint.check.show import show_command
from imprint.cli import main
from imprint.messages import UserError
from tests.check.rows import SOUND, row, write


def shown(capsys: pytest.CaptureFixture[str], file: str, *overrides: str, limit: int = 3) -> list[str]:
    show_command(file, model=None, limit=limit, overrides=list(overrides))
    return capsys.readouterr().out.splitlines()


def test_so_many_rows_are_shown_with_their_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", SOUND)
    rows = [line for line in shown(capsys, file, limit=2) if line.startswith(f"{file}:")]
    assert [line.split()[0] for line in rows] == [f"{file}:1", f"{file}:2"]
    assert all("read / 只读" in line and "learned / 学习" in line for line in rows)


def test_counts_are_those_of_the_tokens_that_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, write(tmp_path / "a.jsonl", [row("问", "答" * 50)]), "max_target_length=9")
    (head,) = [line for line in lines if "tokens / 词元" in line]
    assert "9 learned / 学习" in head
    learned = [piece for line in lines if line.startswith("learn") for piece in line.partition("│")[2].split("│") if piece]
    assert len(learned) == 9
    assert learned[-1] == "<eop>"
    assert "cut / 截去" in head


def test_without_limits_rows_are_shown_whole_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, write(tmp_path / "a.jsonl", [row("问", "答" * 90)]))
    assert "cut / 截去" not in "".join(line for line in lines if "tokens / 词元" in line)
    assert "  the limits cut at most 1 % of the rows, which are shown whole / 上限至多截断 1 % 的行，此处完整显示" in lines


def test_special_tokens_are_shown_with_a_legend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(shown(capsys, write(tmp_path / "a.jsonl", SOUND)))
    assert "[gMASK]│<sop>│" in text
    assert "special / 控制符" in text


def test_every_answer_of_a_conversation_is_a_row_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": role, "content": "说。"} for role in ("user", "assistant") * 2]
    text = "\n".join(shown(capsys, write(tmp_path / "a.jsonl", [{"messages": turns}])))
    assert "answer 1 of 2" in text
    assert "answer 2 of 2" in text


def test_a_bad_row_is_reported_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", [SOUND[0], "no json", SOUND[1]])
    output = [line for line in shown(capsys, file) if file in line][1:]
    assert output[0].startswith(f"{file}:1 ")
    assert output[1].startswith(f"✗ {file}:2: is not JSON")
    assert output[2].startswith(f"{file}:3 ")


def test_without_a_terminal_there_are_no_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in "\n".join(shown(capsys, write(tmp_path / "a.jsonl", SOUND)))


def test_the_command_line_takes_a_limit_and_knobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", [{"q": "问", "a": "答"}] * 5)
    assert main(["data", "show", file, "--limit", "1", "prompt_column=q", "response_column=a"]) == 0
    assert capsys.readouterr().out.count("tokens / 词元") == 1
    with pytest.raises(UserError, match="there is no such file"):
        show_command("nowhere.jsonl", model=None, limit=1, overrides=[])


def test_a_file_without_rows_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl holds nothing to show"):
        show_command(write(tmp_path / "a.jsonl", []), model=None, limit=1, overrides=[])
