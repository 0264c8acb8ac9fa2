from pathlib import Path

from imprint.check.conclusion import CheckArguments, conclusion_lines, raised_limits
from imprint.check.report import all_findings
from imprint.check.scan import DataScan
from imprint.check.settings import read_settings
from imprint.check.terminal import Style
from imprint.data.shapes import Columns, detect_shape
from tests.check.rows import SOUND, row


def told(*values: object, asked: CheckArguments, fixed: Path | None = None, unreadable: int = 0) -> list[str]:
    seen = looked(*values)
    return [line.strip() for line in conclusion_lines(asked, seen, all_findings(seen, None, str), unreadable, fixed, Style(coloured=False))]


def looked(*values: object) -> DataScan:
    seen = DataScan(read_settings(None, []))
    for line, value in enumerate(values, start=1):
        seen.add(f"a.jsonl:{line}", value, detect_shape(SOUND[0], Columns()))
    return seen


def asked(*files: str, dev: str | None = None, overrides: tuple[str, ...] = ()) -> CheckArguments:
    return CheckArguments(files or ("a.jsonl",), dev, None, overrides)


def test_of_sound_rows_the_next_thing_is_to_learn_from_them() -> None:
    lines = told(*SOUND, asked=asked(dev="dev.jsonl"))
    assert lines[1].startswith("✓ nothing is wrong")
    assert lines[-1] == "imprint train RECIPE.yaml data.train=a.jsonl data.dev=dev.jsonl"
    assert "imprint data show a.jsonl" in lines


def test_of_rows_with_mistakes_the_next_thing_is_to_mend_them() -> None:
    lines = told(*SOUND, SOUND[0], asked=asked("my rows.csv", dev="dev.jsonl"))
    assert lines[1].startswith("✗ something is wrong / 有问题: 1 kind of mistakes")
    assert lines[-1] == "imprint data check 'my rows.csv' --fix 'my rows.mended.jsonl' --dev dev.jsonl"


def test_of_mended_rows_the_next_thing_is_to_look_again_and_learn() -> None:
    lines = told(*SOUND, SOUND[0], asked=asked(), fixed=Path("out.jsonl"))
    assert "imprint data check out.jsonl" in lines
    assert lines[-1] == "imprint train RECIPE.yaml data.train=out.jsonl"


def test_a_limit_that_cuts_too_much_is_raised_and_columns_are_kept() -> None:
    lines = told(*SOUND, row("问", "答" * 300), asked=asked(overrides=("prompt_column=q", "data.max_target_length=64")))
    limit = looked(row("问", "答" * 300)).answer_lengths.quantile(1)
    assert lines[-1] == f"imprint train RECIPE.yaml data.train=a.jsonl data.prompt_column=q data.max_target_length={limit}"
    assert raised_limits(looked(*SOUND).prompt_lengths, looked(*SOUND).answer_lengths) == []


def test_several_files_are_to_become_one() -> None:
    lines = told(*SOUND, asked=asked("a.jsonl", "b.jsonl"))
    assert lines[-1] == "imprint data check a.jsonl b.jsonl --fix a.mended.jsonl"


def test_a_file_that_cannot_be_read_is_something_wrong() -> None:
    assert "1 of the files cannot be read" in told(*SOUND, asked=asked("a.jsonl", "b.jsonl"), unreadable=1)[1]


def test_no_limit_is_raised_beyond_what_the_model_was_trained_on() -> None:
    seen = looked(*SOUND, row("问" * 5000, "答" * 5000))
    assert raised_limits(seen.prompt_lengths, seen.answer_lengths) == ["data.max_source_length=2048", "data.max_target_length=2048"]


def test_where_nothing_can_be_mended_no_mending_is_advised() -> None:
    assert not [line for line in told({"x": 1}, row("", "答"), asked=asked("a.jsonl", "b.jsonl")) if "--fix" in line]


def test_no_rows_are_nothing_to_learn_from() -> None:
    assert "there is nothing to learn from" in told(asked=asked())[1]


def test_a_template_stays_a_knob_of_the_model() -> None:
    lines = told(*SOUND, asked=asked(overrides=("template=chatglm", "data.max_source_length=60", "model.template=auto")))
    assert lines[-1].endswith("data.train=a.jsonl model.template=chatglm data.max_source_length=60 model.template=auto")
