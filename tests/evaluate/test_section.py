"""Knobs of an evaluation."""

from pathlib import Path

import pytest

from imprint.cli import main
from imprint.evaluate.section import EvaluateSection, decoding, reference_limit, resolve
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from imprint.task import TextTask
from tests.evaluate.answers import Ask, predictions


def test_a_mistaken_knob_costs_no_answer(ask: Ask, batches: list[int]) -> None:
    folder = ask(limit=3)
    with pytest.raises(AssertionError):  # the command ends with 2, not 0
        ask("num_beams=2", "temperature=1", limit=3)
    assert len(read_jsonl(folder / "answers.jsonl")) == 1 + 3
    ask(limit=3)
    assert batches == [3]


def test_other_columns_are_read_by_name(ask: Ask, run: RunFolder, rows: Path, tmp_path: Path) -> None:
    renamed = rows.read_text(encoding="utf-8").replace('"content"', '"q"').replace('"summary"', '"a"')
    (tmp_path / "renamed.jsonl").write_text(renamed, encoding="utf-8")
    command = ["evaluate", str(run.path), "--data", str(tmp_path / "renamed.jsonl"), "prompt_column=q", "response_column=a"]
    assert main([*command, f"output={tmp_path / 'renamed'}"]) == 0
    assert predictions(tmp_path / "renamed") == predictions(ask())


def test_what_is_left_open_without_a_run_is_the_default_of_a_recipe() -> None:
    found = resolve(EvaluateSection(max_target_length=20), None)
    assert (found.prompt_column, found.max_source_length, found.max_target_length, found.task) == ("content", None, 20, TextTask())


def test_how_answers_are_chosen_and_references_cut_is_reported() -> None:
    assert decoding(EvaluateSection()) == "greedy"
    assert decoding(EvaluateSection(num_beams=3)) == "3 beams"
    assert decoding(EvaluateSection(temperature=0.95, top_p=0.7)) == "sampled, temperature 0.95, top_p 0.7"
    assert reference_limit(EvaluateSection(max_target_length=64)) is None
    assert reference_limit(EvaluateSection(max_target_length=64, truncation="original")) == 62
