import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imprint.check.command import check_command
from imprint.check.settings import read_settings
from imprint.cli import main
from imprint.data.dataset import load_splits
from imprint.data.limits import LengthLimits
from imprint.data.section import DataSection
from imprint.messages import UserError
from tests.check.rows import SOUND, row, write
from tests.families import published_folder

REAL = ("adgen/train.jsonl", "adgen/dev.gb18030.json", "identity/self_cognition_80.json", "instruct/oasst_zh.json")


def check(*files: str, dev: str | None = None, overrides: tuple[str, ...] = ()) -> int:
    return check_command(files, dev=dev, model=None, fix=None, overrides=list(overrides))


def test_good_rows_end_with_status_0(tmp_path: Path) -> None:
    assert main(["data", "check", write(tmp_path / "a.jsonl", SOUND)]) == 0


def test_advice_is_no_mistake(tmp_path: Path) -> None:
    assert check(write(tmp_path / "a.jsonl", [*SOUND, row("问 ", "答" * 300 + "，"), row("问", "别的。")])) == 0


@pytest.mark.parametrize(
    "value",
    [
        {"x": 1},
        "no json",
        row("", "答"),
        row("问", "  "),
        row("丢\ufffd", "答"),
        row("问", "浣犲ソ"),
        row("\0", "答"),
        row("问", "答<eop>"),
        SOUND[0],
    ],
)
def test_each_mistake_ends_with_status_1(value: object, tmp_path: Path) -> None:
    assert check(write(tmp_path / "a.jsonl", [*SOUND, value])) == 1


def test_a_held_out_row_is_a_mistake_and_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", SOUND)
    assert check(file, dev=write(tmp_path / "dev.jsonl", SOUND[:1])) == 1
    assert check(file, dev=write(tmp_path / "dev.jsonl", [row("新", "新。")])) == 0


def test_the_first_bad_rows_of_each_kind_are_reported_with_location_and_reason_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", [*SOUND, *({"content": f"问{number}"} for number in range(30)), "[1]"])
    assert check(file) == 1
    printed = capsys.readouterr().out
    output = [line for line in printed.splitlines() if line.startswith(f"✗ {file}:")]
    assert len(output) == 10 + 1
    assert output[0] == f'✗ {file}:11: there is no column "summary", which response_column names; the columns are: "content".'
    assert output[-1].startswith(f"✗ {file}:41: must be a JSON object")
    assert 'and 20 more: 20 × there is no column "summary", which response_column names' in printed
    assert '另有 20 行：20 × 缺少 response_column 指定的 "summary" 列' in printed
    assert "31 bad" in printed


@pytest.mark.parametrize("named", [(), ("prompt_column=foo",)])
def test_columns_that_no_row_has_are_told_after_the_first_rows(
    named: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", ["{broken", *({"ask": f"问{number}", "say": "答。"} for number in range(5000))])
    assert check(file, overrides=named) == 1
    printed = capsys.readouterr().out
    assert f"✗ {file}:2: " in printed
    assert "none of the first 1,001 rows can be read for this reason, so the others are not looked at" in printed
    assert "✗ the columns of question and answer are not known / 提问列和回答列未知" in printed
    assert f"imprint data check {file} prompt_column=ask response_column=say" in printed
    assert not re.search("_column=\\.", printed)
    other = write(tmp_path / "b.jsonl", [row("问", "答" * 300), *(row(f"问{number}", "答。") for number in range(200))])
    assert check(file, other, overrides=named) == 1
    assert ("1 of 201 answers are cut" in capsys.readouterr().out) == (not named)


def test_all_rows_are_read_where_later_ones_may_have_other_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows" / "a.jsonl", [{"x": "问", "y": "答。"}] * 1500)
    write(tmp_path / "rows" / "b.jsonl", SOUND)
    assert check(str(tmp_path / "rows")) == 1
    assert "1,510 rows, 1,500 bad" in capsys.readouterr().out
    with pytest.raises(UserError, match="no row would be left"):
        check_command([str(tmp_path / "rows" / "a.jsonl")], dev=None, model=None, fix=tmp_path / "fixed.jsonl", overrides=[])
    assert "1,500 rows, 1,500 bad" in capsys.readouterr().out


def test_the_limits_are_chosen_for_the_held_out_rows_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = [row(f"新{number}", "答。" * 100) for number in range(99)] + [row("最长", "答。" * 150)]
    file, dev = write(tmp_path / "a.jsonl", SOUND), write(tmp_path / "dev.jsonl", long)
    assert check(file, dev=dev) == 0
    printed = capsys.readouterr().out
    assert "held-out answers / 留出回答   median 中位 202 · p90 202 · p99 202 · max 最长 302 · limit 上限 202" in printed
    assert "1 of 100 held-out answers are cut (1.0 %): 100 tokens lost" in printed
    assert printed.splitlines()[-1].endswith("data.max_target_length=302")
    section = DataSection(train=Path(file), dev=Path(dev))
    assert load_splits(section, read_settings(None, []).template).limits == LengthLimits(11, 202)


def test_many_thousand_bad_rows_are_counted_in_seconds_and_on_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ['{"content": "问"}', "{broken", '["a"]', '{"content": 3, "summary": [1]}', '{"content": "", "summary": ""}']
    file = write(tmp_path / "a.jsonl", [*SOUND, *(kinds * 4000)])
    began = time.process_time()
    assert check(file) == 1
    assert time.process_time() - began < 5
    output = capsys.readouterr().out
    assert "20,000 bad" in output
    assert len(output.splitlines()) < 80


def test_what_a_file_is_and_whose_tokens_are_counted_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(write(tmp_path / "a.jsonl", SOUND, encoding="gb18030"))
    output = capsys.readouterr().out
    assert "JSON lines in GB18030" in output
    assert "the toy base" in output
    assert "10 rows, 0 bad / 10 行，0 坏行" in output


def test_answers_are_counted_beside_the_rows_that_hold_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = {"messages": [{"role": role, "content": f"{role} {turn}"} for turn in range(3) for role in ("user", "assistant")]}
    check(write(tmp_path / "a.jsonl", [talk, talk]))
    assert "2 rows, 0 bad, 6 answers to learn from / 2 行，0 坏行，共 6 个要学的回答" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_does_not_keep_the_others_from_being_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(tmp_path / "nowhere.jsonl"), write(tmp_path / "a.jsonl", SOUND)) == 1
    output = capsys.readouterr().out
    assert "nowhere.jsonl: there is no such file" in output
    assert "10 rows, 0 bad" in output


def test_where_nothing_can_be_read_the_status_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "nowhere.jsonl")]) == 2
    output = capsys.readouterr()
    assert (output.out + output.err).count("there is no such file") == 1
    with pytest.raises(UserError, match="there is no such file"):
        check(write(tmp_path / "a.jsonl", SOUND), dev=str(tmp_path / "nowhere.jsonl"))


def test_an_empty_file_has_nothing_to_learn_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write(tmp_path / "a.jsonl", [])) == 1
    assert "nothing to train on" in capsys.readouterr().out


def test_overrides_may_stand_among_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", [{"q": "问", "a": "答"}])
    assert main(["data", "check", file, "prompt_column=q", "data.response_column=a"]) == 0
    assert main(["data", "check", "prompt_colum=q", file]) == 2
    assert "prompt_column" in capsys.readouterr().err


def test_a_file_may_have_a_name_like_an_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "seed=1.jsonl", SOUND)
    assert check("seed=1.jsonl") == 0


def test_a_check_without_a_file_is_reported() -> None:
    with pytest.raises(UserError, match="there is no file to check"):
        check("max_source_length=9")


def test_a_file_is_not_held_out_from_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", SOUND)
    with pytest.raises(UserError, match="is one of the files that are checked against it"):
        check(file, dev=file)


def test_a_row_that_the_template_of_a_model_cannot_write_is_a_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusing = "{% for m in messages %}{% if 'x' in m.content %}{{ raise_exception('no x') }}{% endif %}{{ m.content }}</s>{% endfor %}"
    published_folder(tmp_path / "base", chat_template=refusing)
    rows = [{"prompt": f"{number}{letter}", "response": "b"} for number, letter in enumerate(("", "x", "", "x"))]
    file = write(tmp_path / "a.jsonl", rows)
    assert main(["data", "check", file, "--model", str(tmp_path / "base")]) == 1
    output = capsys.readouterr().out
    assert "4 rows, 2 bad" in output
    assert f"✗ {file}:4: the model's own chat template cannot write this conversation (user): no x." in output
    assert main(["data", "show", file, "--model", str(tmp_path / "base")]) == 0
    assert f"✗ {file}:2: the model's own chat template" in capsys.readouterr().out
    assert main(["data", "check", file, "--model", str(tmp_path / "base"), "truncation=original"]) == 2
    assert "truncation: original is what ptuning/main.py" in capsys.readouterr().err


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_read_by_its_own_tokens(name: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"{shared / 'data' / name}#100"
    status = check_command([source], dev=None, model=str(shared / "tokenizers" / "chatglm-6b"), fix=None, overrides=[])
    output = capsys.readouterr().out
    assert status in (0, 1)
    assert "Chinese 中文 9" in output or "Chinese 中文 100" in output
    assert " 0 bad" in output


@pytest.mark.long
def test_a_hundred_thousand_rows_take_little_more_memory_than_a_thousand(tmp_path: Path) -> None:
    peaks = []
    for count in (1_000, 100_000):
        file = tmp_path / f"{count}.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for number in range(count):
                out.write(json.dumps(row(f"类型#上衣*编号#{number}", f"这件上衣很宽松，编号是{number}。"), ensure_ascii=False) + "\n")
        script = (
            "import resource, sys; from imprint.check.command import check_command\n"
            f"status = check_command([{str(file)!r}], dev=None, model=None, fix=None, overrides=[])\n"
            "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        status, peak = map(int, done.stderr.split()[-2:])
        assert status == 0
        peaks.append(peak // (1024 if sys.platform == "darwin" else 1))
    assert peaks[1] - peaks[0] < 30_000  # kibibytes: a row takes 28 bytes, and chunks of a megabyte are read


def test_a_file_without_the_named_columns_is_told_once_with_a_command_to_paste(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "shop.jsonl", [{"商品属性": f"颜色#{number}红", "文案": "这件裙子很好看。"} for number in range(12)])
    assert check(file, "prompt_column=ask", "max_target_length=64") == 1
    output = capsys.readouterr().out
    assert output.count("✗ ") == 3  # the row, the finding, the verdict
    assert "so are all 12 rows / 全部 12 行都是如此" in output
    assert "--fix" not in output
    assert output.rstrip().endswith(f"imprint data check {file} max_target_length=64 'prompt_column=商品属性' 'response_column=文案'")
    assert main(shlex.split(output.splitlines()[-1])[1:]) in (0, 1)
    assert "nothing to train on" not in capsys.readouterr().out


def test_after_a_fix_the_verdict_says_what_was_fixed_and_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", [*SOUND, SOUND[0]])
    assert main(["data", "check", file, "--fix", str(tmp_path / "out.jsonl")]) == 0
    output = capsys.readouterr().out
    assert "✓ repaired or rejected: rows that repeat an earlier row word for word / 已修复或剔除：完全重复的行" in output
    assert "something is wrong" not in output
