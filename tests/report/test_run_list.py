import json
import os
from pathlib import Path
from typing import Any

import pytest

from imprint.cli import main
from imprint.events import Notice, Rescued
from imprint.messages import UserError
from imprint.report.run_list import MAX_DEPTH, describe_run, find_runs, fitting_lines, runs_command
from imprint.runs import RunFolder
from imprint.terminal import width
from imprint.training.run_log import RunLog
from tests.logged import evaluation, step
from tests.tinyrun import tiny_recipe, tiny_run

OLD = Path(__file__).parents[1] / "golden-runs"


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["runs", str(folder), "--json"]) == 0
    return list(json.loads(capsys.readouterr().out))


def started(path: Path, steps: int = 4) -> tuple[RunFolder, RunLog]:
    """A run that has logged a step."""
    run = RunFolder(path)
    run.path.mkdir(parents=True)
    run.config.write_text("output: x\nmodel: {path: embedded}\ndata: {train: rows.jsonl}\n")
    log = RunLog(run, step=0, steps=steps)
    log.write(step(1, 2.5))
    return run, log


def end_of(log: RunLog) -> None:
    for sink in log.sinks:
        sink.close()


def test_runs_are_listed_with_state_step_loss_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path)
    run = tiny_run(recipe, "runs/finished")
    assert main(["evaluate", str(run.path), "--data", str(recipe.parent / "rows.jsonl"), "--limit", "2"]) == 0
    stopped, log = started(tmp_path / "runs" / "group" / "stopped")
    log.write(evaluation(1, 1.5))
    log.notice(Notice(step=1, source="guard", english="a spike", chinese="突变").message, "guard")
    end_of(log)

    finished, other = listed(tmp_path, capsys)
    assert (finished["state"], finished["method"], finished["step"], finished["steps"]) == ("finished", "prefix", 6, 6)
    assert finished["best_eval_loss"] > 0
    assert finished["scores"]["rows-first-2"].keys() >= {"rouge-1", "rouge-2", "rouge-l", "bleu-4"}
    assert other["path"] == str(stopped.path)
    assert (other["state"], other["step"], other["steps"], other["loss"], other["best_eval_loss"]) == ("stopped", 1, 4, 2.5, 1.5)
    assert other["notice"] == "a spike"

    assert main(["runs", str(tmp_path)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("run / 训练")
    assert "finished / 已完成" in rows[0]
    assert "6/6" in rows[0]
    assert "stopped / 已停止" in rows[1]
    assert "2.500" in rows[1]


def test_a_rescue_is_the_latest_notice_and_the_weights_it_kept_count(tmp_path: Path) -> None:
    run, log = started(tmp_path / "run")
    log.write(Rescued(step=3, back_to=1, rate_scale=0.3, reason="the loss rose", rows=(), best_step=2, best_loss=1.25))
    end_of(log)
    entry = describe_run(run)
    assert (entry.step, entry.best_eval_loss, entry.notice) == (1, 1.25, "step 3: the loss rose; back to step 1")


def test_a_run_that_a_process_holds_is_running_and_that_process_is_not_disturbed(tmp_path: Path) -> None:
    run, log = started(tmp_path / "run")
    with run.lock():
        assert describe_run(run).state == "running"
        assert (run.path / "lock").read_text() == f"{os.getpid()}\n"
    assert describe_run(run).state == "stopped"
    end_of(log)


def test_runs_of_earlier_versions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry["path"].removeprefix(f"{OLD}/"): entry for entry in listed(OLD, capsys)}
    assert {name: entry["state"] for name, entry in found.items() if name.startswith(("finished", "stopped"))} == {
        f"{state}/{method}": state for state in ("finished", "stopped") for method in ("full", "lora", "prefix")
    }
    assert found["finished/prefix"]["scores"]["train"]["bleu-4"] == pytest.approx(53.0135)


def test_a_run_that_cannot_be_read_says_why_and_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        end_of(started(tmp_path / name)[1])
    (tmp_path / "a" / "log.jsonl").write_text('{"event": "step", "step": 1, "loss": "low"}\n')
    bad, good = listed(tmp_path, capsys)
    assert (bad["state"], good["state"]) == ("unreadable", "stopped")
    assert "log.jsonl:1: this is not a line that Imprint wrote" in bad["notice"]


def test_strange_scores_and_times_leave_the_list_valid_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, value in enumerate(("1e999", "NaN", "9" * 400, "true", '"x"', "[" * 100_000, "{}", "1.5")):
        run, log = started(tmp_path / f"run-{number}")
        end_of(log)
        (run.evaluations / "dev").mkdir(parents=True)
        (run.evaluations / "dev" / "scores.json").write_text('{"bleu": {"value": ' + value + "}}")
    os.utime(tmp_path / "run-0" / "log.jsonl", (1e13, 1e13))  # no calendar has it, if the disk keeps it
    entries = listed(tmp_path, capsys)
    assert [entry["scores"].get("dev") for entry in entries[1:]] == [{}, {}, {}, {}, None, {}, {"bleu": 1.5}]
    assert main(["runs", str(tmp_path)]) == 0


def test_names_of_any_length_do_not_flood_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, log = started(tmp_path / "run")
    end_of(log)
    (run.evaluations / "dev").mkdir(parents=True)
    (run.evaluations / "dev" / "scores.json").write_text(json.dumps({"x" * 100_000: {"value": 1.0}}))
    capsys.readouterr()
    assert main(["runs", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out) < 5000


def test_folders_that_are_no_runs_and_links_are_left_out(tmp_path: Path) -> None:
    end_of(started(tmp_path / "run")[1])
    (tmp_path / "linked").symlink_to(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    deep = tmp_path.joinpath(*"d" * MAX_DEPTH)
    end_of(started(deep / "too-deep")[1])
    assert [run.path.name for run in find_runs(tmp_path)] == ["run"]


def test_a_folder_without_runs_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        runs_command(tmp_path / "none", as_json=False)
    with pytest.raises(UserError, match="no run is in this folder"):
        runs_command(tmp_path, as_json=False)
    assert listed(tmp_path, capsys) == []


def test_a_list_wider_than_the_terminal_is_folded() -> None:
    scores = "dev: " + ", ".join(f"rouge-{number} 12.34" for number in range(20))
    rows = [("runs/a", "finished / 已完成", "lora", "60/60", "1.234", "2.345", scores), ("b", "running / 训练中", "-", "3", "-", "-", "-")]
    assert len(fitting_lines(rows, None)) == 3
    lines = fitting_lines(rows, 80)
    assert [line for line in lines if not line.startswith(" ")] == ["runs/a  finished / 已完成  lora", "b  running / 训练中  -"]
    assert len(lines) == 5
    assert all(width(line) <= 80 for line in lines)
    assert "rouge-0 12.34" in lines[2]
    assert "2.345" in lines[1]


def test_in_a_folded_list_each_evaluation_has_a_line() -> None:
    scores = [f"{name}: rouge-1 24.39, rouge-2 0, rouge-l 9.369, bleu-4 2.506" for name in ("held-out", "held-out-base")]
    row = ("runs/a", "finished / 已完成", "lora", "60/60", "1.234", "2.345", "; ".join(scores))
    assert fitting_lines([row], 80)[2:] == [f"  {one}" for one in scores]
