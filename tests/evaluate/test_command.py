"""Which model answers which rows, and where the answers go."""

import json
import shutil
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.files.atomic import read_jsonl
from imprint.kernels.compilations import Compilations
from imprint.models import kernel_paths
from imprint.runs import RunFolder
from tests.evaluate.answers import Ask, predictions, said_by_hand
from tests.inference.recorders import use_plain_recorder


def test_without_a_folder_answers_go_into_the_run(run: RunFolder, rows: Path) -> None:
    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "2"]) == 0
    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "2", "base=true"]) == 0
    assert sorted(folder.name for folder in run.evaluations.iterdir()) == ["rows-first-2", "rows-first-2-base"]


def test_rows_drawn_from_a_file_are_kept_beside_those_of_the_whole(run: RunFolder, rows: Path) -> None:
    assert main(["evaluate", str(run.path), "--data", f"{rows}#3"]) == 0
    assert len(read_jsonl(run.evaluations / "rows-drawn-3" / "predictions.jsonl")) == 3


def test_limit_takes_the_first_rows_of_the_file(ask: Ask, rows: Path) -> None:
    lines = read_jsonl(ask(limit=3) / "predictions.jsonl")
    assert [line["input"] for line in lines] == [json.loads(line)["content"] for line in rows.read_text(encoding="utf-8").splitlines()[:3]]


def test_the_graphs_of_decoding_are_counted_at_the_end_where_there_are_any(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(limit=2, name="plain")
    assert "CUDA graphs" not in capsys.readouterr().out
    use_plain_recorder(monkeypatch)
    monkeypatch.setattr(kernel_paths, "compilations", lambda: Compilations(compiled=3, read=5))
    ask(limit=2)
    *_, last = capsys.readouterr().out.splitlines()
    graphs = "CUDA graphs of decoding: 1; Triton kernels compiled: 3, found in its cache: 5"
    assert last == f"{graphs} / 解码 CUDA 图 1 个；编译 Triton 内核 3 个，取自缓存 5 个"


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


def test_an_adapter_for_a_run_is_refused(run: RunFolder, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.path), "--data", str(rows), "adapter=elsewhere"]) == 2
    assert "is a run, which has its own. Give a model folder to use elsewhere with it." in capsys.readouterr().err


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


def test_without_a_file_the_held_out_rows_of_the_run_are_scored(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    assert main(["evaluate", str(copy.path)]) == 0
    assert "learned from" not in capsys.readouterr().out
    scores = json.loads((copy.evaluations / "held-out" / "scores.json").read_text(encoding="utf-8"))
    assert (scores["rows"], scores["data"]) == (5, f"{run.path.parent / 'other.jsonl'}, its held-out rows / 其中留出的行")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "--data", "{rows}"], "nowhere: there is no such folder. Give a run folder"),
        (["{rows}", "--data", "{rows}"], "rows.jsonl: is a file. Give a run folder"),
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
        (["{model}"], "is no run folder, so it has no held-out rows. Give rows with --data FILE."),
        (["{talk}"], "this run holds out no rows. Give a file with --data."),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(
    words: list[str], sentence: str, run: RunFolder, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": run.path, "rows": rows, "empty": tmp_path / "empty", "unfinished": tmp_path / "begun", "baseless": tmp_path / "moved"}
    talk = run.path.parent / "talk"
    places |= {"talk": talk, "model": talk / "model"}
    for name in ("empty", "begun", "moved"):
        (tmp_path / name).mkdir()
    config = run.config.read_text(encoding="utf-8")
    (tmp_path / "begun" / "config.yaml").write_text(config, encoding="utf-8")
    moved = config.replace(str(run.path.parent / "talk"), str(run.path.parent / "gone"))
    (tmp_path / "moved" / "config.yaml").write_text(moved, encoding="utf-8")
    shutil.copytree(run.adapter, tmp_path / "moved" / "adapter")
    words = [word.format_map(places) for word in words]
    assert main(["evaluate", *words, f"output={tmp_path / 'answers'}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert sentence.format_map(places) in printed
    assert "Traceback" not in printed
