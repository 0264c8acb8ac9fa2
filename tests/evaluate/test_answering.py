"""How answers are made, kept and gone on with."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import imprint
import imprint.evaluate.answering as answering
from imprint.cli import main
from imprint.data import encode_original_evaluation
from imprint.evaluate.results_lock import results_lock
from imprint.files.atomic import read_jsonl, write_jsonl
from imprint.inference.sampling import NotFiniteError
from imprint.runs import RunFolder
from imprint.tokenizers import ChatGLMTokenizer
from tests.evaluate.answers import FILES, Ask, predictions, said_by_hand, scores
from tests.tinyrun import tiny_run


def test_the_files_are_the_originals_line_format_and_ours_in_the_order_of_the_data(ask: Ask, run: RunFolder, rows: Path) -> None:
    model = run.path.parent / "talk" / "model"
    folder = ask(folder=model)
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    asked = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    answers = said_by_hand(model, rows)
    assert len(set(answers)) > 3
    lines = (folder / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
    written = [{"labels": row["summary"], "predict": answer} for row, answer in zip(asked, answers, strict=True)]
    assert lines == [json.dumps(one, ensure_ascii=False) for one in written]
    expected = [{"input": a["content"], "label": a["summary"], "prediction": p} for a, p in zip(asked, answers, strict=True)]
    assert read_jsonl(folder / "predictions.jsonl") == expected


def test_a_prompt_that_nothing_was_cut_from_is_encoded_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = ChatGLMTokenizer.encode

    def counted(tokenizer: ChatGLMTokenizer, text: str) -> list[int]:
        encoded.append(text)
        return encode(tokenizer, text)

    monkeypatch.setattr(ChatGLMTokenizer, "encode", counted)
    ask(limit=3)
    assert len(encoded) == len(set(encoded)) == 3


def test_changed_weights_are_asked_anew(ask: Ask, run: RunFolder, tmp_path: Path, batches: list[int]) -> None:
    model = tmp_path / "model"
    shutil.copytree(run.path.parent / "talk" / "model", model)
    ask(folder=model, name="answers", limit=2)
    tensors = load_file(model / "model.safetensors")
    tensors["transformer.layers.1.mlp.dense_4h_to_h.weight"][5, 3] += 1e-3
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    ask(folder=model, name="answers", limit=2)
    assert batches == [2, 2]


def test_a_smaller_batch_keeps_greedy_answers(ask: Ask, batches: list[int]) -> None:
    ask("batch_size=24")
    ask("batch_size=4")
    assert batches == [24]


def test_numbers_that_are_not_finite_are_reported_with_the_line_of_the_file(
    run: RunFolder, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_arguments: object, **_knobs: object) -> None:
        raise NotFiniteError(1, 3)

    monkeypatch.setattr(answering, "generate", fail)
    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "3", f"output={tmp_path}"]) == 2
    printed = capsys.readouterr().err
    assert "rows.jsonl:" in printed
    assert "numbers that are not finite" in printed


def test_batches_of_any_size_give_the_same_greedy_answers(ask: Ask) -> None:
    assert predictions(ask("batch_size=5", name="five")) == predictions(ask("batch_size=1", name="one")) == predictions(ask())


def test_batches_in_several_threads_give_the_same_answers_and_errors(
    ask: Ask, rows: Path, run: RunFolder, batches: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = ["temperature=1.0", "seed=3", "batch_size=5"]
    one = ask(*knobs, name="one")
    torch.set_num_threads(3)
    try:
        assert read_jsonl(ask(*knobs, name="three") / "answers.jsonl") == read_jsonl(one / "answers.jsonl")
        assert sorted(batches) == [4, 4, *[5] * 8]

        def fail(*_arguments: object, **_knobs: object) -> None:
            assert threading.current_thread() is not threading.main_thread()
            raise NotFiniteError(1, 5)

        monkeypatch.setattr(answering, "generate", fail)
        assert main(["evaluate", str(run.path), "--data", str(rows), f"output={one}", "batch_size=5"]) == 2
        assert "rows.jsonl:" in capsys.readouterr().err
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_sampling_is_repeatable_and_hangs_on_its_seed(ask: Ask) -> None:
    knobs = ["temperature=1.0", "top_p=0.95", "batch_size=7"]
    one, two, three = (predictions(ask(*knobs, f"seed={seed}", name=name)) for seed, name in ((5, "one"), (5, "two"), (6, "three")))
    assert one == two
    assert one != three
    assert one != predictions(ask())


def test_beams_are_those_of_the_api(ask: Ask, run: RunFolder, rows: Path) -> None:
    assert predictions(ask("num_beams=3")) == said_by_hand(run.path, rows, beams=3)


def test_an_answer_ends_at_its_bound_and_is_counted_as_not_ended(ask: Ask, run: RunFolder) -> None:
    folder = ask("max_new_tokens=1")
    assert scores(folder)["unfinished_share"] == 1.0
    assert all(line["tokens"] == 1 for line in read_jsonl(folder / "answers.jsonl")[1:])
    assert scores(ask(name="whole"))["unfinished_share"] < 1


def test_the_originals_truncation_cuts_references_and_bounds_prompt_and_answer_together(ask: Ask, run: RunFolder, rows: Path) -> None:
    folder = ask("truncation=original", "max_source_length=8", "max_target_length=4", "base=true")
    tokenizer = imprint.load(run.path.parent / "talk" / "model", device="cpu").tokenizer
    for line, row in zip(read_jsonl(folder / "predictions.jsonl"), rows.read_text(encoding="utf-8").splitlines(), strict=True):
        asked = json.loads(row)
        ids, reference = encode_original_evaluation(tokenizer, asked["content"], asked["summary"], None, 8, 4)
        assert line["label"] == reference
        assert len(reference) < len(asked["summary"])
        assert len(tokenizer.encode(line["prediction"])) <= 8 + 4 + 1 - len(ids)
    ours = read_jsonl(ask("max_source_length=8", "max_target_length=4", "base=true", name="ours") / "predictions.jsonl")
    assert [line["label"] for line in ours] == [json.loads(line)["summary"] for line in rows.read_text(encoding="utf-8").splitlines()]


def test_an_answer_that_is_no_label_is_reported_with_its_row_before_anything_is_asked(
    run: RunFolder, rows: Path, tmp_path: Path, batches: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = ["task.kind=classification", "task.labels=[好, 坏]", f"output={tmp_path}"]
    assert main(["evaluate", str(run.path), "--data", str(rows), *knobs]) == 2
    printed = capsys.readouterr().err
    assert "rows.jsonl:1: " in printed
    assert "is none of the labels 好, 坏, and so in 24 of 24 rows. Name every label of the data in task.labels" in printed
    assert batches == []


def test_a_reference_that_cannot_be_scored_in_time_is_reported_before_anything_is_asked(
    run: RunFolder, tmp_path: Path, batches: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"content": "上衣", "summary": "白色" * 50_001}) + "\n", encoding="utf-8")
    assert main(["evaluate", str(run.path), "--data", str(file), "max_new_tokens=2", f"output={tmp_path / 'out'}"]) == 2
    assert f"{file}:1: the reference has 100,002 characters, and 100,000 at most are scored" in capsys.readouterr().err
    assert batches == []


def test_an_answer_without_the_figures_of_its_task_is_asked_anew(ask: Ask, batches: list[int]) -> None:
    folder = ask("task.kind=continuation", limit=3)
    lines = read_jsonl(folder / "answers.jsonl")
    for name, value in (("log_probability", "x"), ("scored_tokens", None)):
        write_jsonl(folder / "answers.jsonl", [lines[0], lines[1] | {name: value}, *lines[2:]])
        ask("task.kind=continuation", limit=3)
    assert batches == [3, 3, 3]


def test_labels_that_a_tokenizer_cannot_tell_apart_are_refused(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps({"content": "上衣", "summary": label}) + "\n" for label in ("白，色", "白,色")), encoding="utf-8")
    knobs = ["task.kind=classification", "task.labels=['白，色', '白,色']", f"output={tmp_path}"]
    assert main(["evaluate", str(run.path), "--data", str(file), *knobs]) == 2
    assert 'task.labels: "白，色" and "白,色" are the same tokens in this model.' in capsys.readouterr().err


def test_a_stopped_evaluation_goes_on_behind_its_answers(ask: Ask, batches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = ["batch_size=5", "temperature=1.0", "seed=3"]
    whole = ask(*knobs, name="whole")
    assert batches == [5, 5, 5, 5, 4]
    counted = answering._answer_batch

    def stopped(batch: list[int], questions: Any, model: Any, section: Any, check: Any) -> list[dict[str, Any]]:
        if len(batches) == 7:
            raise KeyboardInterrupt
        return counted(batch, questions, model, section, check)

    monkeypatch.setattr(answering, "_answer_batch", stopped)
    with pytest.raises(AssertionError):  # the command ends with 130, not 0
        ask(*knobs)
    monkeypatch.setattr(answering, "_answer_batch", counted)
    folder = ask(*knobs)
    assert batches[5:] == [5, 5, 5, 5, 4]  # two before the stop, three after it
    for name in ("generated_predictions.txt", "predictions.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert scores(folder)["bleu-4"] == scores(whole)["bleu-4"]


def test_the_same_command_again_only_scores(ask: Ask, batches: list[int]) -> None:
    first = ask().joinpath("scores.json").read_bytes()
    assert batches == [24]
    assert ask().joinpath("scores.json").read_bytes() == first
    assert batches == [24]


@pytest.mark.parametrize("knob", ["temperature=0.5", "seed=1", "max_new_tokens=5", "base=true", "num_beams=2", "max_source_length=9"])
def test_answers_of_other_settings_do_not_count(knob: str, ask: Ask, batches: list[int]) -> None:
    ask(limit=6)
    folder = ask(knob, limit=6)
    assert batches == [6, 6]
    assert len(read_jsonl(folder / "answers.jsonl")) == 7


def test_a_second_evaluation_into_the_same_folder_is_refused_while_one_is_at_work(
    ask: Ask, run: RunFolder, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(run.path), "--data", str(rows), "--limit", "2", f"output={tmp_path / 'answers'}", "temperature=0.5"]
    with results_lock(tmp_path / "answers"):
        assert main(command) == 2
        assert main([*command[:-2], f"output={tmp_path / 'other'}"]) == 0
    assert "answers: another process writes results into this folder" in capsys.readouterr().err
    assert not (tmp_path / "answers").exists()
    assert main(command) == 0


def test_answers_that_another_process_wrote_behind_the_first_line_do_not_count(ask: Ask, batches: list[int]) -> None:
    whole = predictions(ask(limit=6, name="whole"))
    foreign = read_jsonl(ask("temperature=1.0", "seed=3", limit=6, name="sampled") / "answers.jsonl")[1:]
    file = ask("batch_size=2", limit=6) / "answers.jsonl"
    first, *own = read_jsonl(file)
    write_jsonl(file, [first, *own[:2], *foreign, {"row": 5}, "no answer"])
    del batches[:]

    assert predictions(ask("batch_size=2", limit=6)) == whole
    assert batches == [2, 2]


def test_answers_of_a_version_without_keys_still_count(ask: Ask, batches: list[int]) -> None:
    file = ask(limit=6) / "answers.jsonl"
    first, *answers = read_jsonl(file)
    write_jsonl(file, [first, *({name: value for name, value in line.items() if name != "key"} for line in answers)])
    ask(limit=6)

    assert batches == [6]


def test_answers_to_other_rows_do_not_count(ask: Ask, batches: list[int]) -> None:
    assert [len(predictions(ask(limit=limit))) for limit in (6, 7)] == [6, 7]
    assert batches == [6, 7]


def test_answers_of_a_run_that_has_learned_more_do_not_count(ask: Ask, run: RunFolder, rows: Path, batches: list[int]) -> None:
    knobs = [f"model.path={run.path.parent / 'talk' / 'model'}", "tune.start=random"]
    recipe = run.path.parent / "recipe.yaml"
    before = ask(folder=tiny_run(recipe, "less", *knobs, "train.steps=1").path, limit=6)
    assert before == ask(folder=tiny_run(recipe, "more", *knobs, "train.steps=2").path, limit=6)
    assert batches == [6, 6]


def test_killed_evaluations_end_as_one_that_nobody_killed(drilled: dict[str, dict[str, Any]]) -> None:
    found = drilled["evaluate"]
    assert found["broken"] == []
    assert found["kills"] >= 3
    assert found["equal"] == found["runs"] > 0
