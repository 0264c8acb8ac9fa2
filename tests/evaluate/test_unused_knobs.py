from pathlib import Path

import pytest

from imprint.cli import main
from imprint.config import read_overrides
from imprint.data.sample import Sample
from imprint.evaluate.section import EvaluateSection, resolve
from imprint.evaluate.unused_knobs import refuse_unused_decoding
from imprint.messages import UserError
from imprint.runs import RunFolder

CLASSIFY = "task={kind: classification, labels: [a, b]}"


def refuses(*knobs: str, answer: str = "a") -> str:
    """What is said against these knobs; empty if nothing is."""
    section = read_overrides(knobs, EvaluateSection)
    try:
        refuse_unused_decoding(resolve(section, None), frozenset(section.model_fields_set), [Sample("q", answer, None, "x:1")])
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("knob", ["prompt_column=q", "response_column=a", "history_column=h", "fill={name: 小印}"])
def test_a_column_is_not_ignored_where_the_held_out_rows_are_answered(
    knob: str, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("evaluate", "compare"):
        assert main([command, str(run.path), knob]) == 2
        assert f"{knob.partition('=')[0]}: would be ignored: the held-out rows of a run are read as its own recipe says" in (
            capsys.readouterr().err
        )


@pytest.mark.parametrize("knob", ["response_column=a", "history_column=h", "fill={name: 小印}"])
def test_a_column_of_answers_is_not_ignored_where_only_questions_are_asked(
    knob: str, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("你好\n", encoding="utf-8")
    assert main(["compare", str(run.path), "--prompts", str(tmp_path / "mine.txt"), knob]) == 2
    assert "would be ignored: questions (--prompts) are read without answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("knobs", "name"),
    [
        (["max_length=40"], "max_length"),
        (["max_length=40", "truncation=oldest_first"], "max_length"),
        (["top_p=0.7"], "top_p"),
        (["top_k=5"], "top_k"),
        ([CLASSIFY, "temperature=0.5"], "temperature"),
        ([CLASSIFY, "num_beams=4"], "num_beams"),
        ([CLASSIFY, "max_new_tokens=9"], "max_new_tokens"),
        ([CLASSIFY, "repetition_penalty=1.2"], "repetition_penalty"),
        ([CLASSIFY, "stop=。"], "stop"),
    ],
)
def test_a_knob_that_has_no_effect_beside_the_others_is_refused(knobs: list[str], name: str) -> None:
    assert refuses(*knobs).startswith(f"{name}: would be ignored: ")


@pytest.mark.parametrize(
    "knobs",
    [
        ["max_length=40", "truncation=original"],
        ["top_p=0.7", "top_k=5", "temperature=0.95"],
        ["repetition_penalty=1.2", "stop=。"],
        ["top_p=1", "temperature=0", "max_length=null"],
        ["task={kind: classification, labels: [a, b], constrained: false}", "temperature=0.5"],
        [CLASSIFY, "temperature=0", "max_new_tokens=null"],
    ],
)
def test_knobs_that_count_together_are_taken(knobs: list[str]) -> None:
    assert not refuses(*knobs)


def test_questions_without_labels_are_answered_with_text_so_that_every_knob_counts() -> None:
    assert refuses(CLASSIFY, "temperature=0.5")
    assert not refuses(CLASSIFY, "temperature=0.5", answer="")
