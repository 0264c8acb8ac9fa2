import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imprint.cli import build_parser
from imprint.compat.migrate import migrate_command
from imprint.compat.run import run_original
from imprint.config import read_overrides, read_recipe
from imprint.evaluate.section import EvaluateSection
from imprint.messages import UserError
from imprint.runs import RunFolder
from imprint.training.recipe import Recipe
from imprint.training.run import train
from tests.oldproject import PREFIX, old_project, predicting, training

MORE = ["--history_column", "history", "--source_prefix", "写广告：", "--prompt_column", "prompt", "--response_column", "response"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old_project(tmp_path_factory.mktemp("migrate"))


def script(folder: Path, *words: str) -> Path:
    file = folder / "train.sh"
    file.write_text(f"CUDA_VISIBLE_DEVICES=0 python3 main.py {shlex.join(words)}\n", encoding="utf-8")
    return file


def test_the_recipe_trains_as_the_old_command_line_does(project: Path, tmp_path: Path) -> None:
    words = training(project, "old", *PREFIX, *MORE)
    words[words.index("--train_file") + 1] = str(project / "chat.json")
    run_original(words)
    (tmp_path / "recipe.yaml").symlink_to("linked.yaml")
    migrate_command(script(tmp_path, *words), tmp_path / "recipe.yaml")
    assert (tmp_path / "linked.yaml").is_file()
    new = train(tmp_path / "recipe.yaml", [f"output={tmp_path / 'new'}"])
    one, two = (load_file(run.state(4) / "trained.safetensors") for run in (RunFolder(project / "output" / "old"), new))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_recipe_is_printed_with_a_sentence_for_each_flag_without_a_counterpart(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate_command(script(tmp_path, *training(project, "x", *PREFIX, "--overwrite_cache", "--overwrite_output_dir")), None)
    printed = capsys.readouterr().out
    assert "# --overwrite_cache: rows are read each time" in printed
    assert "# --logging_steps: log.jsonl has every step" in printed
    assert "# --overwrite_output_dir: a stopped run resumes" in printed
    comments = [line for line in printed.splitlines() if line.startswith("# ")]
    assert [line for line in comments if not re.search(" / .*[\u4e00-\u9fff]", line)] == []
    assert comments[0] == "# from train.sh / 由 train.sh 转换"
    (tmp_path / "recipe.yaml").write_text(printed, encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.yaml", [], Recipe).train.steps == 4


def test_an_evaluation_becomes_the_command_that_evaluates_so(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = predicting(project, "x", "--ptuning_checkpoint", "output/x/checkpoint-4", "--max_predict_samples", "2")
    migrate_command(script(tmp_path, *words), None)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# evaluation / 评估: ")]
    command = shlex.split(line.removeprefix("# evaluation / 评估: "))
    options, overrides = build_parser().parse_known_args(command[1:])
    section = read_overrides([*options.overrides, *overrides], EvaluateSection)
    assert (options.folder, options.limit) == (str(project / "chatglm-6b"), 2)
    assert (section.adapter, section.truncation, section.top_p) == (Path("output/x/checkpoint-4"), "original", 0.7)


def test_a_file_of_rows_that_the_script_does_not_use_is_named(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> list[str]:
        files = ["--validation_file", "dev.json", "--test_file", "test.json"]
        migrate_command(script(tmp_path, *training(project, "x", *PREFIX, *files, *words)), None)
        lines = capsys.readouterr().out.splitlines()
        beginnings = ("# --validation_file", "# --test_file", "# evaluation / 评估: ", "  dev: dev.json")
        return [line for line in lines if line.startswith(beginnings)]

    dev, test = told()
    assert dev.startswith("# --validation_file dev.json: is not in this recipe, because the script does not use it without --do_eval")
    assert "data.dev=dev.json would measure the loss on it and keep the best step" in dev
    assert "不使用该文件" in dev
    assert test.startswith("# --test_file test.json: is not in this recipe")
    _, evaluated = told("--do_eval")
    assert evaluated.startswith("# evaluation / 评估: imprint evaluate")
    kept, *rest = told("--evaluation_strategy", "steps", "--eval_steps", "2")
    assert [kept.startswith("# --test_file"), *rest] == [True, "  dev: dev.json"]


def test_a_recipe_that_was_changed_is_not_overwritten(project: Path, tmp_path: Path) -> None:
    file, recipe = script(tmp_path, *training(project, "x", *PREFIX)), tmp_path / "recipe.yaml"
    migrate_command(file, recipe)
    migrate_command(file, recipe)
    recipe.write_text(recipe.read_text() + "# mine\n")
    with pytest.raises(UserError, match=r"(?s)recipe.yaml: is there already, and nothing is overwritten.*recipe.yaml：已存在，不会覆盖"):
        migrate_command(file, recipe)
    assert recipe.read_text().endswith("# mine\n")


def test_a_json_file_of_arguments_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "arguments.json"
    given = {"do_train": True, "train_file": "a.json", "prompt_column": "p", "response_column": "r"}
    file.write_text(json.dumps({**given, "model_name_or_path": "THUDM/chatglm-6b", "output_dir": "out", "pre_seq_len": 128}))
    migrate_command(file, None)
    printed = capsys.readouterr().out
    assert "path: THUDM/chatglm-6b" in printed
    assert "length: 128" in printed


def test_every_script_of_ours_is_one_that_can_be_migrated(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CHAT_TRAIN_DATA", "CHAT_VAL_DATA", "CHECKPOINT_NAME"):
        monkeypatch.setenv(name, name.lower())
    monkeypatch.setenv("LR", "1e-3")
    for name in ("train.sh", "train_chat.sh"):
        migrate_command(repo / "scripts" / name, tmp_path / f"{name}.yaml")
        recipe = read_recipe(tmp_path / f"{name}.yaml", [], Recipe)
        assert (recipe.optimizer.learning_rate, recipe.model.quantize, recipe.train.batch_size) == (1e-3, 4, 16)
        assert str(recipe.data.train) == {"train.sh": "AdvertiseGen/train.json", "train_chat.sh": "chat_train_data"}[name]
    migrate_command(repo / "scripts" / "ds_train_finetune.sh", tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml", [], Recipe).engine.deepspeed == str(repo / "scripts" / "deepspeed.json")
    for name in ("evaluate.sh", "evaluate_finetune.sh"):
        migrate_command(repo / "scripts" / name, None)
        assert "# evaluation / 评估: imprint evaluate " in capsys.readouterr().out


def test_the_page_shows_what_is_printed(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "PRE_SEQ_LEN": "128",
        "LR": "2e-2",
        "MODEL": "chatglm-6b",
        "CHECKPOINT": "adgen-chatglm-6b-pt-128-2e-2",
        "STEP": "30",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    page = (repo / "docs" / "migrating.md").read_text(encoding="utf-8")
    for name in ("train.sh", "evaluate.sh"):
        migrate_command(repo / "scripts" / name, None)
        printed = capsys.readouterr().out
        shown = page.partition(f"$ imprint migrate {name}\n")[2].partition("```")[0]
        assert [part for part in shown.split("...\n") if part not in printed] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("echo hello", "calls no main.py"),
        ("python main.py --do_train --model_name_or_path a --output_dir b", "--do_train needs --train_file"),
        ("python main.py --do_trian --model_name_or_path a --output_dir b", "Did you mean --do_train?"),
    ],
)
def test_a_script_that_amounts_to_nothing_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "old.sh"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        migrate_command(file, None)
    assert sentence in str(caught.value)


def test_a_script_that_trains_twice_is_shown_as_two_recipes_and_written_as_none(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = script(tmp_path, *training(project, "one", *PREFIX))
    file.write_text(file.read_text(encoding="utf-8") * 2, encoding="utf-8")
    migrate_command(file, None)
    assert capsys.readouterr().out.split("---\n")[0].count("output: ") == 1
    with pytest.raises(UserError, match=r"trains 2 times, and a recipe is one training\. Leave .*recipe\.yaml out"):
        migrate_command(file, tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()
