"""The predictions of any tool are read, their columns recognised, and what cannot be read is named by its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from imprint.data.readers.predictions import read_predictions
from imprint.files.atomic import append_jsonl, write_json
from imprint.messages import UserError


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "said", "wanted"),
    [
        ({"labels": "好", "predict": "坏"}, "predict", "labels"),  # ChatGLM-6B
        ({"input": "问", "label": "好", "prediction": "坏"}, "prediction", "label"),  # ours
        ({"prompt": "问", "predict": "坏", "label": "好"}, "predict", "label"),  # LLaMA-Factory
        ({"response": "坏", "labels": "好", "messages": []}, "response", "labels"),  # ms-swift
        ({"system": None, "query": "问", "response": "坏", "label": "好", "history": []}, "response", "label"),  # older ms-swift
        ({"question": "问", "answer": "好", "prediction": "坏"}, "prediction", "answer"),
        ({"Predict": "坏", "LABEL": "好"}, "Predict", "LABEL"),
        ({"问题": "问", "模型回答": "坏", "参考答案": "好"}, "模型回答", "参考答案"),
    ],
)
def test_the_columns_of_every_tool_are_recognised(row: dict[str, Any], said: str, wanted: str, tmp_path: Path) -> None:
    found = read_predictions(lines(tmp_path / "any.txt", row))

    assert (found.prediction_column, found.reference_column) == (said, wanted)
    assert (found.predictions, found.references) == (["坏"], ["好"])
    assert (found.unfinished, found.references_cut_to) == (None, None)


def test_an_array_and_a_table_are_read_too_and_an_answer_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "array.json").write_text('[{"predict": "坏", "label": "好"},\n{"predict": "", "label": "好"}]', encoding="utf-8")
    (tmp_path / "table.csv").write_bytes("预测,标签\n坏,好\n,好\n".encode("gb18030"))

    for name in ("array.json", "table.csv"):
        found = read_predictions(tmp_path / name)
        assert (found.predictions, found.references) == (["坏", ""], ["好", "好"])


def test_a_column_says_which_answers_ended_by_themselves(tmp_path: Path) -> None:
    rows = [{"prediction": "坏", "label": "好", "finished": ended} for ended in (True, False, False)]

    assert read_predictions(lines(tmp_path / "any.jsonl", *rows)).unfinished == 2
    assert read_predictions(lines(tmp_path / "any.jsonl", *rows, {"prediction": "坏", "label": "好"})).unfinished is None


def evaluation(folder: Path, said: tuple[str, ...], *, cut: int | None) -> Path:
    """What `imprint evaluate` leaves."""
    folder.mkdir()
    append_jsonl(folder / "answers.jsonl", {"model": "m"})
    for row, text in reversed(list(enumerate(said))):
        append_jsonl(folder / "answers.jsonl", {"row": row, "prediction": text, "tokens": 1, "finished": row > 0})
    write_json(folder / "scores.json", {"references_cut_to": cut})
    return lines(folder / "predictions.jsonl", *({"input": "问", "label": "好", "prediction": text} for text in said))


def test_the_files_beside_predictions_of_ours_tell_what_these_do_not(tmp_path: Path) -> None:
    found = read_predictions(evaluation(tmp_path / "cut", ("甲", "乙", "丙"), cut=62))

    assert (found.unfinished, found.references_cut_to) == (1, 62)
    assert read_predictions(evaluation(tmp_path / "whole", ("甲",), cut=None)).references_cut_to is None


def test_files_beside_it_that_are_of_other_answers_or_broken_tell_nothing(tmp_path: Path) -> None:
    file = evaluation(tmp_path / "one", ("甲", "乙"), cut=62)
    lines(file, {"label": "好", "prediction": "甲"}, {"label": "好", "prediction": "丁"})
    assert read_predictions(file).unfinished is None
    (file.parent / "answers.jsonl").write_text(
        '{"row": 0, "prediction": null, "finished": true}\n{"row": [1], "prediction": "", "finished": true}\n'
    )
    assert read_predictions(file).unfinished is None
    (file.parent / "answers.jsonl").write_bytes(b"\xff\n")
    (file.parent / "scores.json").write_bytes(b"\xff")
    assert read_predictions(file).references_cut_to is None
    assert read_predictions(file).unfinished is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [{"predict": "坏", "label": "好"}, {"predict": None, "label": "好"}],
            'any.jsonl:2: "predict" must be a text, got null. Fix this row',
        ),
        ([{"predict": "坏", "label": "好"}, {"predict": "坏"}], 'any.jsonl:2: there is no column "label", which other rows have'),
        (
            [{"predict": "坏"}, {"predict": "坏", "label": "好"}, {"predict": "坏", "label": "好"}],
            'any.jsonl:1: there is no column "label", which other rows have; the columns are: "predict".',
        ),
        (
            [{"prediction": "坏", "label": "好"}, {"prediction": "坏", "label": "好"}, {"predict": "坏", "label": "好"}],
            'any.jsonl:3: there is no column "prediction", which other rows have; the columns are: "predict", "label".',
        ),
        ([{"predict": "坏", "label": ["好"]}], '"label" must be a text, got a list (["好"])'),
        ([{"predict": "坏", "label": "好"}, 7], "any.jsonl:2: must be a JSON object with columns, got a number (7)"),
        (
            [{"content": "问", "summary": "好"}],
            'no column of predictions and none of references is known among its columns ("content", "summary")',
        ),
        ([{"prompt": "问", "response": "好"}], "no column of predictions and none of references is known"),
        ([{"predict": "坏", "text": "好"}], 'no column of references is known among its columns ("predict", "text"). Rename the columns'),
        ([{"labels": "好", "text": "坏"}], "no column of predictions is known"),
        ([], "any.jsonl holds no rows, so there is nothing to score."),
    ],
)
def test_what_cannot_be_scored_is_a_sentence_with_its_line(rows: list[Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_predictions(lines(tmp_path / "any.jsonl", *rows))
    assert sentence in str(error.value)


def test_numbers_of_classes_are_read_as_their_digits_and_nothing_else_is(tmp_path: Path) -> None:
    found = read_predictions(lines(tmp_path / "any.jsonl", {"predict": 1, "label": 0}))
    assert (found.predictions, found.references) == (["1"], ["0"])
    for value in (float("nan"), float("inf"), None, True, 2.0, 10**30):
        with pytest.raises(UserError, match='"label" must be a text, got'):
            read_predictions(lines(tmp_path / "any.jsonl", {"predict": "坏", "label": value}))


def test_all_bad_rows_are_reported_together(tmp_path: Path) -> None:
    file = lines(tmp_path / "any.jsonl", {"predict": "坏", "label": "好"}, *[{"predict": 1.5, "label": "好"}] * 12)

    with pytest.raises(UserError) as error:
        read_predictions(file)

    message_lines = str(error.value).splitlines()
    assert message_lines[0] == f"{file}: 12 of 13 rows are bad. Fix them; nothing was scored."
    assert message_lines[1] == f'{file}:2: "predict" must be a text, got a number (1.5).'
    assert message_lines[11:13] == ['and 2 more: 2 × "predict" must be a text', "12 行有问题。请修正这些数据；没有计分。"]
    assert message_lines[13] == f'{file}:2："predict" 须为文本，实际为数字（1.5）。'
    assert len(message_lines) == 24


def test_a_folder_and_a_file_without_references_say_where_to_look(tmp_path: Path) -> None:
    file = evaluation(tmp_path / "one", ("甲",), cut=None)

    with pytest.raises(UserError, match=r"is a folder\. Name the file of predictions in it: .*predictions\.jsonl\."):
        read_predictions(file.parent)
    lines(file.with_name("answers.jsonl"), {"row": 0, "prediction": "甲", "finished": True})
    with pytest.raises(UserError, match=r"holds answers without references\. Score .*predictions\.jsonl, which has them\."):
        read_predictions(file.with_name("answers.jsonl"))
    with pytest.raises(UserError, match="there is no such file"):
        read_predictions(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("column", ["predict", "label"])
def test_a_text_that_cannot_be_scored_in_time_is_named_with_its_line(column: str, tmp_path: Path) -> None:
    row = {"predict": "坏", "label": "好"}
    with pytest.raises(UserError, match=rf"any\.jsonl:2: \"{column}\" has 100,001 characters, and 100,000 at most are scored"):
        read_predictions(lines(tmp_path / "any.jsonl", row, row | {column: "a" * 100_001}))


@pytest.mark.parametrize("limit", [-5, 0, True, "62"])
def test_a_limit_that_no_evaluation_has_is_not_told(limit: object, tmp_path: Path) -> None:
    write_json(tmp_path / "scores.json", {"references_cut_to": limit})
    assert read_predictions(lines(tmp_path / "predictions.jsonl", {"predict": "坏", "label": "好"})).references_cut_to is None
