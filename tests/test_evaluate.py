import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import imprint
import imprint.evaluate.answering as answering
from imprint.cli import main
from imprint.data import encode_original_evaluation
from imprint.data.encode import encode_prompt
from imprint.data.formats import read_samples
from imprint.files import read_lines
from imprint.generate import NotFiniteError
from imprint.metrics import PROTOCOLS, score
from imprint.runs import RunFolder
from imprint.tokenizers import ChatGLMTokenizer
from tests.tinyrun import talking_run, tiny_run

FILES = ("generated_predictions.txt", "predictions.jsonl", "scores.json", "answers.jsonl")
Ask = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return talking_run(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def rows(run: RunFolder) -> Path:
    return run.path.parent / "rows.jsonl"


@pytest.fixture
def ask(run: RunFolder, rows: Path, tmp_path: Path) -> Ask:
    """Evaluate with some knobs; returns the folder of the answers."""

    def ask(*knobs: str, folder: Path = run.path, name: str = "answers", limit: int | None = None) -> Path:
        command = ["evaluate", str(folder), "--data", str(rows), *(["--limit", str(limit)] if limit else [])]
        assert main([*command, f"output={tmp_path / name}", *knobs]) == 0
        return tmp_path / name

    return ask


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were really answered, batch by batch."""
    seen: list[int] = []
    answer = answering._answer

    def counted(batch: list[int], questions: Any, model: Any, section: Any) -> list[dict[str, Any]]:
        seen.append(len(batch))
        return answer(batch, questions, model, section)

    monkeypatch.setattr(answering, "_answer", counted)
    return seen


def predictions(folder: Path) -> list[str]:
    return [str(line["prediction"]) for line in read_lines(folder / "predictions.jsonl")]


def scores(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))


def said_by_hand(folder: Path, rows: Path, *, beams: int = 1) -> list[str]:
    """The answers through the public API, row by row."""
    run = RunFolder(folder)
    base = run.path.parent / "talk" / "model" if run.config.is_file() else folder
    model = imprint.load(base, adapter=run.adapter if run.config.is_file() else None, device="cpu")
    samples = read_samples(rows, prompt_column="content", response_column="summary")
    prompts = [encode_prompt(model.template, sample.query, None, max_source_length=64) for sample in samples]
    return [model.tokenizer.decode(model.generate([ids], max_new_tokens=24, num_beams=beams)[0]) for ids in prompts]


# What is written


def test_the_files_are_the_originals_line_format_and_ours_in_the_order_of_the_data(ask: Ask, run: RunFolder, rows: Path) -> None:
    folder = ask()
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    asked = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    answers = said_by_hand(run.path, rows)
    assert len(set(answers)) > 3
    lines = (folder / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
    written = [{"labels": row["summary"], "predict": answer} for row, answer in zip(asked, answers, strict=True)]
    assert lines == [json.dumps(one, ensure_ascii=False) for one in written]
    expected = [{"input": a["content"], "label": a["summary"], "prediction": p} for a, p in zip(asked, answers, strict=True)]
    assert read_lines(folder / "predictions.jsonl") == expected


def test_scores_are_those_of_the_protocol_with_intervals_and_settings(ask: Ask, rows: Path) -> None:
    folder = ask()
    found, lines = scores(folder), read_lines(folder / "predictions.jsonl")
    counted = score([line["prediction"] for line in lines], [line["label"] for line in lines])
    for metric in ("rouge-1", "rouge-2", "rouge-l", "bleu-4"):
        assert found[metric]["value"] == pytest.approx(counted[metric])
        assert found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"]
    assert (found["protocol"], found["rows"], found["empty"], found["data"]) == ("chatglm-6b", 24, 0, str(rows))
    assert {"unfinished_share", "repeated_share", "copied_share"} <= set(found)
    assert found["settings"]["temperature"] == 0.0
    assert found["settings"]["max_new_tokens"] == 24  # from the run's data.max_target_length


def test_the_scores_are_told(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ask(limit=5)
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert "bleu-4" in said
    assert "5 rows: 0 empty" in said
    assert f"written to {folder}" in said


def test_it_is_told_under_which_protocol_and_whether_references_were_cut(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ask(limit=3)
    assert "protocol chatglm-6b: BLEU-4 over characters, references whole" in capsys.readouterr().out
    assert scores(whole)["references_cut_to"] is None
    cut = ask("truncation=original", "max_target_length=10", "protocol=words", limit=3, name="cut")
    assert "protocol words: BLEU-4 over words, references cut to 8 tokens, as ChatGLM-6B's script cuts them" in capsys.readouterr().out
    assert scores(cut)["references_cut_to"] == 8


def test_another_protocol_asks_nothing_anew(ask: Ask, batches: list[int]) -> None:
    found = {}
    for name in PROTOCOLS:
        lines = read_lines(ask(f"protocol={name}", limit=6) / "predictions.jsonl")
        found[name] = scores(ask(f"protocol={name}", limit=6))["bleu-4"]["value"]
        assert found[name] == pytest.approx(
            score([line["prediction"] for line in lines], [line["label"] for line in lines], name)["bleu-4"]
        )
    assert batches == [6]
    assert found["words"] != found["chatglm-6b"]


def test_rows_that_the_protocol_leaves_out_are_told(ask: Ask, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(ask("protocol=swift", folder=run.path.parent / "base", limit=4))  # the base before it learned to talk
    assert (found["dropped"], found["empty"]) == (4, 4)
    assert "4 rows left out of the means" in capsys.readouterr().out


def test_many_bad_answers_are_warned_of_on_top(ask: Ask, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ask(folder=run.path.parent / "base", limit=4)
    said = capsys.readouterr().out
    assert said.index("warning: 100% of the answers are empty: the model ends at once.") < said.index("rouge-1")
    assert "警告：100% 的回答是空的" in said
    ask("max_new_tokens=2", limit=4, name="short")
    said = capsys.readouterr().out
    assert "warning: 100% of the answers never stop: their limit ended them." in said
    assert "are empty:" not in said
    assert "warning" not in (folder / "scores.json").read_text(encoding="utf-8")


def test_an_evaluation_scores_as_its_files_are_scored_again(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ask("max_new_tokens=3", "truncation=original", "max_target_length=12")
    for name in ("predictions.jsonl", "generated_predictions.txt"):
        assert main(["score", str(folder / name), "--protocol", "chatglm-6b", "--output", str(tmp_path / "again.json")]) == 0
        again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
        assert again["protocols"]["chatglm-6b"]["bleu-4"] == scores(folder)["bleu-4"]
        assert again["protocols"]["chatglm-6b"]["references_cut_to"] == 10
        assert again["unfinished_share"] == scores(folder)["unfinished_share"] == 1.0
        assert "`imprint evaluate` had cut them to 10 tokens" in capsys.readouterr().out


def test_a_prompt_that_nothing_was_cut_from_is_encoded_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = ChatGLMTokenizer.encode

    def counted(tokenizer: ChatGLMTokenizer, text: str) -> list[int]:
        encoded.append(text)
        return encode(tokenizer, text)

    monkeypatch.setattr(ChatGLMTokenizer, "encode", counted)
    ask(limit=3)
    assert len(encoded) == len(set(encoded)) == 3


def test_without_a_folder_answers_go_into_the_run(run: RunFolder, rows: Path) -> None:
    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "2"]) == 0
    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "2", "base=true"]) == 0
    assert sorted(folder.name for folder in run.evaluations.iterdir()) == ["rows-first-2", "rows-first-2-base"]


def test_rows_drawn_from_a_file_are_kept_beside_those_of_the_whole(run: RunFolder, rows: Path) -> None:
    assert main(["evaluate", str(run.path), "--data", f"{rows}#3"]) == 0
    assert len(read_lines(run.evaluations / "rows-drawn-3" / "predictions.jsonl")) == 3


def test_limit_takes_the_first_rows_of_the_file(ask: Ask, rows: Path) -> None:
    lines = read_lines(ask(limit=3) / "predictions.jsonl")
    assert [line["input"] for line in lines] == [json.loads(line)["content"] for line in rows.read_text(encoding="utf-8").splitlines()[:3]]


def test_the_base_of_a_run_is_its_base_untouched(ask: Ask, run: RunFolder, rows: Path) -> None:
    base, tuned = predictions(ask("base=true", name="base")), predictions(ask())
    assert base != tuned
    assert base == said_by_hand(run.path.parent / "talk" / "model", rows)


def test_a_model_folder_is_answered_as_it_is(ask: Ask, run: RunFolder, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = run.path.parent / "talk" / "model"
    answers = predictions(ask(folder=model, name="model", limit=4))
    assert answers == predictions(ask("base=true", name="base", limit=4))
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(model), "--data", str(rows), "--limit", "4", "max_new_tokens=24"]) == 0
    assert predictions(tmp_path / "evaluations" / "model" / "rows-first-4") == answers


def test_an_adapter_is_put_on_a_model_folder(ask: Ask, run: RunFolder) -> None:
    model = run.path.parent / "talk" / "model"
    assert predictions(ask(f"adapter={run.adapter}", folder=model, name="put-on", limit=4)) == predictions(ask(limit=4))


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


def test_a_mistaken_knob_costs_no_answer(ask: Ask, batches: list[int]) -> None:
    folder = ask(limit=3)
    with pytest.raises(AssertionError):  # the command ends with 2, not 0
        ask("num_beams=2", "temperature=1", limit=3)
    assert len(read_lines(folder / "answers.jsonl")) == 1 + 3
    ask(limit=3)
    assert batches == [3]


def test_an_adapter_for_a_run_is_refused(run: RunFolder, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.path), "--data", str(rows), "adapter=elsewhere"]) == 2
    assert "is a run, which has its own. Give a model folder to put elsewhere on it." in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_told_with_the_line_of_the_file(
    run: RunFolder, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_arguments: object, **_knobs: object) -> None:
        raise NotFiniteError(1, 3)

    monkeypatch.setattr(answering, "generate", fail)
    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "3", f"output={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "rows.jsonl:" in said
    assert "numbers that are not finite" in said


def test_prompts_that_were_cut_are_counted(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert scores(ask("max_source_length=6", limit=3))["cut_prompts"] == 3
    assert "3 prompts were cut to max_source_length=6" in capsys.readouterr().out


def test_a_run_of_another_version_can_still_be_evaluated(ask: Ask, run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    config = other / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("prefix_dropout", "dropout"), encoding="utf-8")
    assert predictions(ask(folder=other, name="other", limit=2)) == predictions(ask(limit=2))


def test_a_run_that_tuned_the_whole_network_is_answered_by_what_it_wrote(ask: Ask, run: RunFolder) -> None:
    talk = RunFolder(run.path.parent / "talk")
    assert predictions(ask(folder=talk.path, name="full", limit=4)) == predictions(ask(folder=talk.model, name="model", limit=4))
    untouched = predictions(ask("base=true", folder=talk.path, name="untouched", limit=4))
    assert untouched != predictions(tmp := ask(folder=talk.path, name="full", limit=4))
    assert tmp.name == "full"


def test_an_empty_prediction_scores_nothing_and_is_counted(ask: Ask, run: RunFolder) -> None:
    found = scores(ask(folder=run.path.parent / "base", name="empty", limit=4))  # the base before it learned to talk
    assert (found["rows"], found["empty"]) == (4, 4)
    assert all(found[metric]["value"] == 0 for metric in ("rouge-1", "rouge-2", "rouge-l", "bleu-4"))


# How answers are made


def test_batches_of_any_size_give_the_same_greedy_answers(ask: Ask) -> None:
    assert predictions(ask("batch_size=5", name="five")) == predictions(ask("batch_size=1", name="one")) == predictions(ask())


def test_sampling_is_repeatable_and_hangs_on_its_seed(ask: Ask) -> None:
    knobs = ["temperature=1.0", "top_p=0.95", "batch_size=7"]
    one, two, three = (predictions(ask(*knobs, f"seed={seed}", name=name)) for seed, name in ((5, "one"), (5, "two"), (6, "three")))
    assert one == two
    assert one != three
    assert one != predictions(ask())


def test_beams_are_those_of_the_api(ask: Ask, run: RunFolder, rows: Path) -> None:
    assert predictions(ask("num_beams=3")) == said_by_hand(run.path, rows, beams=3)


def test_an_answer_ends_at_its_bound_and_is_counted_as_not_ended(ask: Ask, run: RunFolder) -> None:
    folder = ask("max_new_tokens=3")
    assert scores(folder)["unfinished_share"] == 1.0
    assert all(line["tokens"] == 3 for line in read_lines(folder / "answers.jsonl")[1:])
    assert scores(ask(name="whole"))["unfinished_share"] < 1


def test_the_originals_truncation_cuts_references_and_bounds_prompt_and_answer_together(ask: Ask, run: RunFolder, rows: Path) -> None:
    folder = ask("truncation=original", "max_source_length=8", "max_target_length=4", "base=true")
    tokenizer = imprint.load(run.path.parent / "talk" / "model", device="cpu").tokenizer
    for line, row in zip(read_lines(folder / "predictions.jsonl"), rows.read_text(encoding="utf-8").splitlines(), strict=True):
        asked = json.loads(row)
        ids, reference = encode_original_evaluation(tokenizer, asked["content"], asked["summary"], None, 8, 4)
        assert line["label"] == reference
        assert len(reference) < len(asked["summary"])
        assert len(tokenizer.encode(line["prediction"])) <= 8 + 4 + 1 - len(ids)
    ours = read_lines(ask("max_source_length=8", "max_target_length=4", "base=true", name="ours") / "predictions.jsonl")
    assert [line["label"] for line in ours] == [json.loads(line)["summary"] for line in rows.read_text(encoding="utf-8").splitlines()]


def test_other_columns_are_read_by_name(ask: Ask, run: RunFolder, rows: Path, tmp_path: Path) -> None:
    renamed = rows.read_text(encoding="utf-8").replace('"content"', '"q"').replace('"summary"', '"a"')
    (tmp_path / "renamed.jsonl").write_text(renamed, encoding="utf-8")
    command = ["evaluate", str(run.path), "--data", str(tmp_path / "renamed.jsonl"), "prompt_column=q", "response_column=a"]
    assert main([*command, f"output={tmp_path / 'renamed'}"]) == 0
    assert predictions(tmp_path / "renamed") == predictions(ask())


# Answers that are labels


def test_an_answer_that_is_no_label_is_told_with_its_row_before_anything_is_asked(
    run: RunFolder, rows: Path, tmp_path: Path, batches: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = ["task.kind=classification", "task.labels=[好, 坏]", f"output={tmp_path}"]
    assert main(["evaluate", str(run.path), "--data", str(rows), *knobs]) == 2
    said = capsys.readouterr().err
    assert "rows.jsonl:1: " in said
    assert "is none of the labels 好, 坏, and so in 24 of 24 rows. Name every label of the data in task.labels" in said
    assert batches == []


def test_labels_that_a_tokenizer_cannot_tell_apart_are_refused(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps({"content": "上衣", "summary": label}) + "\n" for label in ("白，色", "白,色")), encoding="utf-8")
    knobs = ["task.kind=classification", "task.labels=['白，色', '白,色']", f"output={tmp_path}"]
    assert main(["evaluate", str(run.path), "--data", str(file), *knobs]) == 2
    assert 'task.labels: "白，色" and "白,色" are the same tokens to this model.' in capsys.readouterr().err


# Stopped and started again


def test_a_stopped_evaluation_goes_on_behind_its_answers(ask: Ask, batches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = ["batch_size=5", "temperature=1.0", "seed=3"]
    whole = ask(*knobs, name="whole")
    assert batches == [5, 5, 5, 5, 4]
    counted = answering._answer

    def stopped(batch: list[int], questions: Any, model: Any, section: Any) -> list[dict[str, Any]]:
        if len(batches) == 7:
            raise KeyboardInterrupt
        return counted(batch, questions, model, section)

    monkeypatch.setattr(answering, "_answer", stopped)
    with pytest.raises(AssertionError):  # the command ends with 130, not 0
        ask(*knobs)
    monkeypatch.setattr(answering, "_answer", counted)
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
    assert len(read_lines(folder / "answers.jsonl")) == 7


def test_answers_to_other_rows_do_not_count(ask: Ask, batches: list[int]) -> None:
    assert [len(predictions(ask(limit=limit))) for limit in (6, 7)] == [6, 7]
    assert batches == [6, 7]


def test_answers_of_a_run_that_has_learned_more_do_not_count(ask: Ask, run: RunFolder, rows: Path, batches: list[int]) -> None:
    knobs = [f"model.path={run.path.parent / 'talk' / 'model'}", "tune.start=random"]
    recipe = run.path.parent / "recipe.yaml"
    before = ask(folder=tiny_run(recipe, "less", *knobs, "train.steps=1").path, limit=6)
    assert before == ask(folder=tiny_run(recipe, "more", *knobs, "train.steps=2").path, limit=6)
    assert batches == [6, 6]


def test_killed_evaluations_end_as_one_that_nobody_killed(repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.drills", "evaluate", str(tmp_path), "--kills", "5"]
    result = subprocess.run(command, cwd=repo, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["broken"] == []
    assert found["kills"] >= 5
    assert found["equal"] == found["runs"] > 0


# What cannot be evaluated


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "--data", "{rows}"], "nowhere: there is no such folder. Give a run folder"),
        (["{rows}", "--data", "{rows}"], "rows.jsonl: there is no such folder. Give a run folder"),
        (["{empty}", "--data", "{rows}"], "{empty}"),
        (["{run}", "--data", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["{run}", "--data", "{empty}"], "is a folder without a data file. Give a file"),
        (["{run}", "--data", "{rows}", "prompt_column=question"], "question"),
        (["{run}", "--data", "{rows}", "temprature=1"], "temprature"),
        (["{run}", "--data", "{rows}", "top_p=1.5"], "top_p"),
        (["{run}", "--data", "{rows}", "num_beams=2", "temperature=1"], "num_beams=2: 2 beams are searched without sampling"),
        (["{run}", "--data", "{rows}", "protocol=bleu"], "protocol"),
        (["{run}", "--data", "{rows}", "truncation=newest"], "truncation"),
        (["{run}", "--data", "{rows}", "device=gpu"], 'there is no device called "gpu"'),
        (["{unfinished}", "--data", "{rows}"], "has no adapter yet. Let `imprint train` run to its first evaluation"),
        (["{baseless}", "--data", "{rows}"], "gone"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(
    words: list[str], sentence: str, run: RunFolder, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": run.path, "rows": rows, "empty": tmp_path / "empty", "unfinished": tmp_path / "begun", "baseless": tmp_path / "moved"}
    for name in ("empty", "begun", "moved"):
        (tmp_path / name).mkdir()
    config = run.config.read_text(encoding="utf-8")
    (tmp_path / "begun" / "config.yaml").write_text(config, encoding="utf-8")
    moved = config.replace(str(run.path.parent / "talk"), str(run.path.parent / "gone"))
    (tmp_path / "moved" / "config.yaml").write_text(moved, encoding="utf-8")
    (tmp_path / "moved" / "adapter").symlink_to(run.adapter)
    words = [word.format_map(places) for word in words]
    assert main(["evaluate", *words, f"output={tmp_path / 'answers'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence.format_map(places) in said
    assert "Traceback" not in said
