import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.check.conclusion import CheckArguments, conclusion_lines, raised_limits
from imprint.check.report import all_findings
from imprint.check.scan import DataScan
from imprint.check.settings import read_settings
from imprint.cli import main
from imprint.config import read_recipe
from imprint.data.dataset import load_samples
from imprint.data.section import DataSection
from imprint.data.shapes import Columns, detect_shape
from imprint.starters.shipped import find_recipe
from imprint.task import ClassificationTask
from imprint.terminal import Style
from imprint.training.recipe import Recipe
from tests.check.rows import SOUND, row

DETECTED = Columns()


def lines_of(
    *values: object,
    asked: CheckArguments,
    fixed: Path | None = None,
    unreadable: int = 0,
    held_out: DataScan | None = None,
    columns: Columns = DETECTED,
) -> list[str]:
    scan = scanned(*values, columns=columns)
    scan.held_out = held_out
    return [line.strip() for line in conclusion_lines(asked, scan, all_findings(scan, None, str), unreadable, fixed, Style(coloured=False))]


def scanned(
    *values: object, limits: tuple[str, ...] = ("max_source_length=64", "max_target_length=64"), columns: Columns = DETECTED
) -> DataScan:
    scan = DataScan(read_settings(None, limits))
    for line, value in enumerate(values, start=1):
        scan.add(f"a.jsonl:{line}", value, detect_shape(SOUND[0], columns))
    return scan


def asked(*files: str, dev: str | None = None, overrides: tuple[str, ...] = ()) -> CheckArguments:
    return CheckArguments(files or ("a.jsonl",), dev, None, overrides)


def test_good_rows_are_to_be_trained_on_next() -> None:
    lines = lines_of(*SOUND, asked=asked(dev="dev.jsonl"))
    assert lines[1].startswith("✓ nothing is wrong")
    assert lines[-3] == "imprint init adgen runs/a"
    assert lines[-1] == "imprint train runs/a data.train=a.jsonl data.dev=dev.jsonl"
    assert "imprint data show a.jsonl" in lines


def test_rows_with_errors_are_to_be_fixed_next() -> None:
    lines = lines_of(*SOUND, SOUND[0], asked=asked("my rows.csv", dev="dev.jsonl"))
    assert lines[1].startswith("✗ something is wrong / 有问题: 1 kind of errors")
    assert lines[-1] == "imprint data check 'my rows.csv' --fix 'my rows.fixed.jsonl' --dev dev.jsonl"


def test_fixed_rows_are_to_be_checked_again_and_trained_on() -> None:
    lines = lines_of(*SOUND, SOUND[0], asked=asked(), fixed=Path("out.jsonl"))
    assert "imprint data check out.jsonl" in lines
    assert lines[-1] == "imprint train runs/out data.train=out.jsonl data.dev=null"


def test_a_limit_that_cuts_too_much_is_raised_and_columns_are_kept() -> None:
    lines = lines_of(*SOUND, row("问", "答" * 300), asked=asked(overrides=("prompt_column=q", "data.max_target_length=64")))
    limit = scanned(row("问", "答" * 300)).answer_lengths.quantile(1)
    assert lines[-1] == f"imprint train runs/a data.train=a.jsonl data.prompt_column=q data.max_target_length={limit} data.dev=null"
    total = len(SOUND) + 1
    assert lines[1] == (
        f"! no row is wrong, but 0 prompts and 1 answers of {total} are cut / "
        f"没有错误，但 {total} 条中有 0 个提问和 1 个回答被截断: "
        f"To cut nothing, set data.max_target_length={limit} (now 64). / 要完整保留，请设 data.max_target_length={limit}（现为 64）。"
    )
    assert raised_limits(scanned(*SOUND)) == []


def test_several_files_are_to_be_merged() -> None:
    lines = lines_of(*SOUND, asked=asked("a.jsonl", "b.jsonl"))
    assert lines[-1] == "imprint data check a.jsonl b.jsonl --fix a.fixed.jsonl"


def test_an_unreadable_file_is_an_error() -> None:
    assert "1 of the files cannot be read" in lines_of(*SOUND, asked=asked("a.jsonl", "b.jsonl"), unreadable=1)[1]


def test_no_limit_is_raised_beyond_what_the_model_was_trained_on() -> None:
    values = (*SOUND, row("问" * 5000, "答" * 5000))
    assert raised_limits(scanned(*values)) == ["data.max_source_length=1024", "data.max_target_length=1024"]
    verdict = lines_of(*values, asked=asked())[1]
    assert "more than the 2048 tokens that the base reads at once: shorten or split the longest rows." in verdict


def test_no_fix_is_suggested_where_nothing_can_be_fixed() -> None:
    assert not [line for line in lines_of({"x": 1}, row("", "答"), asked=asked("a.jsonl", "b.jsonl")) if "--fix" in line]


def test_no_rows_are_nothing_to_train_on() -> None:
    assert "there is nothing to train on" in lines_of(asked=asked())[1]


def test_a_template_stays_a_knob_of_the_model() -> None:
    lines = lines_of(*SOUND, asked=asked(overrides=("template=chatglm", "data.max_source_length=60", "model.template=auto")))
    assert lines[-1].endswith("data.train=a.jsonl model.template=chatglm data.max_source_length=60 model.template=auto data.dev=null")


def test_a_model_is_the_base_that_is_trained_without_the_general_rows_of_the_toy() -> None:
    asked = CheckArguments(("a.jsonl",), None, "models/real", ("base_path=x",), "models/real")
    assert lines_of(*SOUND, asked=asked)[-1] == "imprint train runs/a data.train=a.jsonl data.dev=null model.path=models/real"
    asked_of_talks = replace(asked, overrides=("history_column=history",))
    lines = lines_of({**row("问", "答。"), "history": [["你好", "你好。"]]}, asked=asked_of_talks, columns=Columns(history="history"))
    assert lines[-1].endswith(" data.history_column=history model.path=models/real data.mix_general=null")


def test_the_commands_that_train_run_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"商品属性": f"颜色#{colour}", "文案": f"这件{colour}色的裙子很好看。"} for colour in "红蓝绿白黑黄"]
    (tmp_path / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    verdicts = [{"question": f"第{number}件怎么样？", "answer": "好坏"[number % 2]} for number in range(6)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts), encoding="utf-8")
    (tmp_path / "books.txt").write_text("\n\n".join(f"第{number}章，{'山' * 40}。" for number in range(9)), encoding="utf-8")
    (tmp_path / "runs" / "shop").mkdir(parents=True)  # taken
    shop = ["shop.jsonl", "prompt_column=商品属性", "response_column=文案"]
    for check, starter in ((shop, "adgen"), (["labels.jsonl"], "classify"), (["books.txt", "blank_lines=true"], "domain")):
        assert main(["data", "check", *check]) == 0
        init, train = (shlex.split(line) for line in capsys.readouterr().out.splitlines() if re.match(" *imprint (init|train)", line))
        assert init[2] == starter
        assert main(init[1:]) == 0
        capsys.readouterr()
        recipe = read_recipe(find_recipe(Path(train[2])), train[3:], Recipe)
        assert recipe.data.train == Path(check[0])
        assert not isinstance(recipe.task, ClassificationTask) or recipe.task.labels == ("坏", "好")
        if isinstance(recipe.data, DataSection):
            assert [len(part) for part in load_samples(recipe.data)] == [5, 1]
    assert find_recipe(Path("runs/shop-2")).is_file()


def test_questions_without_answers_are_for_general_rows(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "a?"}\n', encoding="utf-8")
    assert f"data.mix_general={{rows: {file}, answers: base}}" in lines_of({"question": "a?"}, asked=asked(str(file)))[-1]
    file.write_text('{"other": "a"}\n', encoding="utf-8")
    assert not any("mix_general" in line for line in lines_of({"other": "a"}, asked=asked(str(file))))
    assert not any("mix_general" in line for line in lines_of(*SOUND, asked=asked(str(file))))


def test_held_out_rows_that_are_cut_are_told_and_raise_the_limits() -> None:
    held_out = scanned(row("问", "答" * 300))
    lines = lines_of(*SOUND, asked=asked(dev="dev.jsonl"), held_out=held_out)
    limit = held_out.answer_lengths.quantile(1)
    assert lines[1].startswith("! no row is wrong, but 0 prompts and 0 answers of 10, and 0 prompts and 1 answers of 1 held out, are cut")
    assert "留出的 1 条中有 0 个提问和 1 个回答被截断" in lines[1]
    assert f"To cut nothing, set data.max_target_length={limit} (now 64)." in lines[1]
    assert lines[-1].endswith(f"data.dev=dev.jsonl data.max_target_length={limit}")
