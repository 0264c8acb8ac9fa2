"""The scripts, run as a person runs them."""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.cli import main
from tests.oldproject import old_project, said
from tests.worlds import skip_where_refused

SHORT = ["--max_steps", "4", "--save_steps", "2", "--logging_steps", "2", "--gradient_accumulation_steps", "2", "--no_cuda"]
SCORES = ("predict_bleu-4", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l")


def scores(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))


@pytest.mark.long
def test_the_demo_keeps_its_promises_on_rows_it_never_saw(repo: Path, tmp_path: Path) -> None:
    for name in ("scripts", "recipes"):
        shutil.copytree(repo / name, tmp_path / name)
    said = subprocess.run(
        ["bash", "scripts/demo.sh"],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    base, tuned = scores(tmp_path / "runs/demo/evaluations/dev-base"), scores(tmp_path / "runs/demo/evaluations/dev")

    assert tuned["rows"] == base["rows"] >= 300
    assert tuned["bleu-4"]["value"] >= 3 * base["bleu-4"]["value"]
    assert tuned["rouge-l"]["value"] >= base["rouge-l"]["value"] + 15
    assert all(tuned[metric]["low"] > base[metric]["high"] for metric in ("bleu-4", "rouge-l"))
    assert tuned["copied_share"] <= 0.01
    assert tuned["empty"] == 0
    for name in ("compare.html", "compare.md", "loss.png", "adapter/adapter.json", "evaluations/dev/generated_predictions.txt"):
        assert (tmp_path / "runs/demo" / name).is_file()
    assert "runs/demo/compare.html" in said
    assert said.rstrip().endswith("imprint serve runs/demo")

    result = json.loads((tmp_path / "runs/identity/forgetting.json").read_text(encoding="utf-8"))
    assert result["kept_share"] >= 0.9
    rows = [json.loads(line) for line in (tmp_path / "runs/identity/before-after.jsonl").read_text(encoding="utf-8").splitlines()]
    new = [("小墨" in row[who] and "青竹工坊" in row[who]) for who in ("base", "tuned") for row in rows]
    assert sum(new[: len(rows)]) == 0
    assert sum(new[len(rows) :]) >= 0.9 * len(rows) == 36
    assert (tmp_path / "runs/identity/report.html").is_file()
    answers = said.partition("8/8")[2]
    assert answers.count("青竹工坊") >= 2
    assert "12+30=42" in answers


def test_the_service_is_started_under_the_names_of_2023(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert words_of(repo / "scripts/web_demo.sh") == ["serve", "embedded"], "a fresh clone has no run yet"
    (tmp_path / "runs/demo").mkdir(parents=True)
    assert words_of(repo / "scripts/web_demo.sh") == ["serve", "runs/demo"]
    assert words_of(repo / "scripts/api.sh", "port=1") == ["serve", "runs/demo", "legacy=true", "port=8000", "port=1"]
    assert words_of(repo / "scripts/web_demo.sh", "runs/a", "port=1") == ["serve", "runs/a", "port=1"]
    assert words_of(repo / "scripts/api.sh", "runs/a") == ["serve", "legacy=true", "port=8000", "runs/a"]


# The steps of the README of ChatGLM-6B's ptuning, one after the other


def words_of(script: Path, *more: str, **variables: str) -> list[str]:
    """The words that a script calls Imprint with."""
    environment = {**os.environ, "IMPRINT": r"printf %s\0", "MODEL": "chatglm-6b", **variables}
    done = subprocess.run(["bash", str(script), *more], env=environment, capture_output=True, encoding="utf-8", check=True)
    return done.stdout.split("\0")[:-1]


def bash(project: Path, script: Path, *more: str, **variables: str) -> str:
    """Run a script as a person does, in the folder of the project."""
    environment = {**os.environ, "IMPRINT": f"{sys.executable} -m imprint", "MODEL": "chatglm-6b", **variables}
    done = subprocess.run(
        ["bash", str(script), *more], cwd=project, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=300
    )
    skip_where_refused(done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(checkpoint / "pytorch_model.bin", weights_only=True))


def assert_evaluated(folder: Path) -> None:
    """Everything is there that an evaluation of four rows leaves."""
    rows = [json.loads(line) for line in (folder / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()]
    assert [sorted(row) for row in rows] == [["labels", "predict"]] * 4
    assert set(SCORES) < set(said(folder / "predict_results.json"))
    assert set(SCORES) < set(said(folder / "all_results.json"))


def test_p_tuning_and_its_evaluation_leave_every_file_that_the_readme_names(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = old_project(tmp_path / "project")
    monkeypatch.chdir(project)
    assert main(words_of(repo / "scripts" / "train.sh", *SHORT, PRE_SEQ_LEN="4", LR="1e-2")) == 0
    folder = project / "output" / "adgen-chatglm-6b-pt-4-1e-2"
    for step in (2, 4):
        (name,) = tensors(folder / f"checkpoint-{step}")
        assert name == "transformer.prefix_encoder.embedding.weight"
    assert [entry["step"] for entry in said(folder / "trainer_state.json")["log_history"]] == [2, 4, 4]
    where = {"CHECKPOINT": folder.name, "STEP": "4", "PRE_SEQ_LEN": "4"}
    assert main(words_of(repo / "scripts" / "evaluate.sh", "--no_cuda", "--max_target_length", "12", **where)) == 0
    assert "predict_bleu-4" in capsys.readouterr().out
    assert_evaluated(folder)
    assert said(folder / "all_results.json")["train_samples"] == 10


def test_tuning_on_conversations_leaves_its_files_too(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = old_project(tmp_path / "project")
    monkeypatch.chdir(project)
    chat = {"CHAT_TRAIN_DATA": "chat.json", "CHAT_VAL_DATA": "chat.json", "CHECKPOINT_NAME": "output/chat", "PRE_SEQ_LEN": "4"}
    assert main(words_of(repo / "scripts" / "train_chat.sh", *SHORT, **chat)) == 0
    assert len(next(iter(tensors(project / "output" / "chat" / "checkpoint-4").values()))) == 4


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_all_weights_by_deepspeed_and_their_evaluation_leave_every_file_that_the_readme_names(repo: Path, tmp_path: Path) -> None:
    project = old_project(tmp_path / "project")
    more = ["--max_predict_samples", "2", "--do_predict", "--max_target_length", "12"]
    result = bash(project, repo / "scripts" / "ds_train_finetune.sh", *SHORT, *more)
    assert "predict_bleu-4" in result
    folder = project / "output" / "adgen-chatglm-6b-ft-1e-4"
    saved = tensors(folder / "checkpoint-4")
    assert "lm_head.weight" in saved
    assert {tensor.dtype for tensor in saved.values()} == {torch.float16}
    assert not {"deepspeed", "fp16"} & {line.partition(":")[0].removeprefix("--") for line in result.splitlines()}
    bash(project, repo / "scripts" / "evaluate_finetune.sh", "--no_cuda", "--max_target_length", "12", STEP="4")
    assert_evaluated(folder)


def test_an_old_script_runs_unchanged_where_main_py_is_ours(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "train.sh"
    old.write_text("PRE_SEQ_LEN=0\n\nCUDA_VISIBLE_DEVICES=0 $IMPRINT main.py \\\n    --do_train \\\n    --pre_seq_len $PRE_SEQ_LEN\n")
    monkeypatch.setattr(sys, "argv", words_of(old))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(repo / "scripts" / "main.py"), run_name="__main__")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --")
    assert "--pre_seq_len must be at least 1, got 0" in said


def test_a_script_says_which_variable_it_needs(repo: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    script = ["bash", str(repo / "scripts" / "train_chat.sh")]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode != 0
    assert "CHAT_TRAIN_DATA: name the file of rows to learn from" in done.stderr
