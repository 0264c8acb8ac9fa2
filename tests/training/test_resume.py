import json
import shutil
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from imprint.cli import main
from imprint.config import read_recipe
from imprint.engine.engine import Engine
from imprint.events import Rescued, write_rescue
from imprint.files.atomic import read_jsonl, write_jsonl
from imprint.loading.load import load_model, open_template
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.report.run_list import describe_run
from imprint.runs import RunFolder
from imprint.templates import make_messages
from imprint.training import resume
from imprint.training.recipe import Recipe
from imprint.training.run import train
from tests.bases import base_of
from tests.families import CHAT
from tests.hubserver import COMMIT, NEXT_COMMIT, Repository, hub_server, model_files
from tests.tiny import tiny_rows
from tests.tinyrun import RECIPE, described, learned_tensors, log_of, losses, tiny_recipe, tiny_run, train_again

# Two runs in one folder


def test_two_runs_in_one_folder_are_refused_while_evaluating_works_and_a_killed_one_gives_it_free(
    drilled: dict[str, dict[str, Any]],
) -> None:
    found = drilled["stops"]["held"]
    assert found["second"] == 2
    told = f"error: {found['path']}: process {found['first']} trains in this folder. Wait for it, stop it, or choose another folder"
    assert told in found["told"]
    assert "已有进程正在该目录中训练" in found["told"]
    assert found["alive"]
    assert found["evaluated"] == 0
    assert found["later"] in (0, 2)  # whatever it says, the folder is free
    assert "trains in this folder" not in found["told_later"]


def test_a_config_that_is_no_text_is_a_sentence(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(recipe.parent / "latin")
    run.path.mkdir()
    run.log.write_text('{"step": 1}\n')
    run.config.write_bytes(b"output: \xe9\n")

    assert main(["train", str(recipe), f"output={run.path}"]) == 2
    assert f"error: {run.config}: this is not UTF-8 text" in capsys.readouterr().err


def test_a_folder_that_nothing_came_of_is_not_left_behind(recipe: Path) -> None:
    folder = recipe.parent / "nothing"
    assert main(["train", str(recipe), f"output={folder}", "model.path=nowhere"]) == 2
    assert not folder.exists()


# A corrupted checkpoint


@pytest.mark.parametrize(
    ("name", "how"), [("optimizer.safetensors", "flipped"), ("position.json", "cut"), ("trained.safetensors", "gone"), ("random.pt", "cut")]
)
def test_a_corrupted_checkpoint_falls_back_to_the_one_before_and_says_so(
    name: str, how: str, killed: RunFolder, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    file = killed.state(4) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    assert train_again(killed) == 0
    said = capsys.readouterr().out
    assert f"{killed.state(4)}: this saved state is damaged (" in said
    assert "it is now state-000004.damaged, and an earlier one is looked for" in said
    assert "resuming after step 3 of 6" in said
    assert log_of(killed) == log_of(whole)
    assert (killed.path / "state-000004.damaged").is_dir()
    assert train_again(killed) == 0
    assert "damaged" not in capsys.readouterr().out


def test_without_any_undamaged_state_the_run_begins_again_and_says_so(
    killed: RunFolder, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in killed.states():
        (state / "trained.safetensors").write_bytes(b"")
    assert train_again(killed) == 0
    said = capsys.readouterr().out
    assert said.count("this saved state is damaged") == 4
    assert "no undamaged state is left: the run begins again from its start" in said
    assert log_of(killed) == log_of(whole)


@pytest.mark.parametrize("gone", ["states", "states and log"])
def test_a_finished_run_without_its_states_is_not_trained_again_over_its_result(
    gone: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), "train.report=true")
    result = (run.adapter / "prefix.safetensors").read_bytes()
    for state in run.states():
        shutil.rmtree(state)
    if gone == "states and log":
        run.log.unlink()
    assert train_again(run) == 2
    assert "this run is finished, and none of its saved states is left" in capsys.readouterr().err
    assert (run.adapter / "prefix.safetensors").read_bytes() == result


# A changed recipe


@pytest.mark.parametrize(
    ("knob", "told"),
    [
        ("tune.length=5", "tune.length: 4 -> 5"),
        ("train.loss_average=micro_batch", "train.loss_average: token -> micro_batch"),
        ("train.batch_size=5", "train.batch_size: 4 -> 5"),
        ("train.micro_batch_size=2", "train.micro_batch_size: 4 -> 2"),  # the prefix's dropout is drawn for each
        ("optimizer.learning_rate=0.2", "optimizer.learning_rate: 0.1 -> 0.2"),
        ("tune={method: full}", "tune.method: prefix -> full"),
        ("data.max_target_length=25", "data.max_target_length: 24 -> 25"),
    ],
)
def test_a_changed_recipe_is_refused_and_every_change_is_told(knob: str, told: str, killed: RunFolder) -> None:
    before = killed.config.read_bytes()
    with pytest.raises(UserError, match=r"was started with another recipe: .*Take back the change, or choose another folder") as error:
        train(killed.config, [knob, "train.save_every=2"])
    assert told in str(error.value)
    assert str(killed.path) in str(error.value)
    assert "train.save_every: " not in str(error.value)
    assert all(name in str(error.value) for name in ("train.steps", "train.keep_states", "train.tracker", "engine.*", "forgetting.*"))
    assert killed.config.read_bytes() == before


def test_what_changes_no_number_may_change_while_a_run_goes_on(
    killed: RunFolder, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = killed.path.with_name("moved.jsonl")
    killed.path.with_name("rows.jsonl").rename(moved)
    knobs = ["train.save_every=2", "train.keep_states=1", "train.watch_every=5", "train.guard=false", f"data.train={moved}"]
    assert train_again(killed, *knobs) == 0
    said = capsys.readouterr().out
    assert "changed since the run began" in said
    assert "train.save_every: 1 -> 2" in said
    assert "train.guard: true -> false" in said
    assert losses(killed) == losses(whole)
    assert "save_every: 2" in killed.config.read_text(encoding="utf-8")
    assert killed.states() == [killed.state(6)]


@pytest.mark.parametrize(("grouped", "code"), [("true", 0), ("false", 2)])
def test_the_size_of_a_micro_batch_may_change_where_no_row_of_a_step_depends_on_it(
    grouped: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(tiny_recipe(tmp_path)), "train.steps=1", "tune.prefix_dropout=0", f"train.group_by_length={grouped}"]
    assert main(command) == 0
    assert main([*command, "train.micro_batch_size=2"]) == code
    assert main([*command, "engine.processes=1"]) == 0
    assert "losses agree to about six digits" in capsys.readouterr().out


def test_other_processes_drop_other_numbers_which_is_told(killed: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_again(killed, "engine.processes=1") == 0
    assert (
        "with other processes, other rows share a micro-batch, its dropout mask and its mean: losses differ a little"
        in capsys.readouterr().out
    )


def test_a_run_may_be_made_longer_but_not_shorter_than_it_is(killed: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_again(killed, "train.steps=9") == 0
    said = capsys.readouterr().out
    assert "train.steps: 6 -> 9" in said
    assert "the learning rate follows the schedule of the new length from here on" in said
    assert len(losses(killed)) == 9
    assert train_again(killed, "train.steps=8") == 2
    assert "has already done 9 steps. Give at least that many." in capsys.readouterr().err


def test_a_recipe_of_an_older_version_lacks_new_knobs_and_is_gone_on_with(killed: RunFolder, whole: RunFolder) -> None:
    text = killed.config.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.strip().startswith(("guard:", "group_by_length:"))]
    killed.config.write_text("\n".join(kept) + "\n", encoding="utf-8")
    recipe = killed.path.with_name("recipe.yaml")
    recipe.write_text(text, encoding="utf-8")
    assert main(["train", str(recipe)]) == 0
    assert log_of(killed) == log_of(whole)


@pytest.mark.parametrize("changed", ["train", "dev"])
def test_other_rows_under_the_same_name_are_refused(changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path)
    tiny_rows(tmp_path / "dev.jsonl", 3)
    command = ["train", str(recipe), "train.steps=1", f"data.dev={tmp_path / 'dev.jsonl'}"]
    assert main(command) == 0
    file = tmp_path / ("rows.jsonl" if changed == "train" else "dev.jsonl")
    file.write_text(file.read_text(encoding="utf-8").replace("宽松", "好看", 1), encoding="utf-8")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'rows.jsonl'} or {tmp_path / 'dev.jsonl'}: is not what this run began with. Put the old file back" in said


def test_rows_changed_before_anything_was_saved_are_evaluated_before_tuning(
    recipe: Path, signals: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    shutil.copy(recipe.parent / "rows.jsonl", rows)
    knobs = [str(tmp_path / "run"), f"data.train={rows}", "train.save_every=6"]
    fresh = tiny_run(recipe, str(tmp_path / "fresh"), *knobs[1:])
    run = RunFolder(tmp_path / "run")
    rows.write_text(rows.read_text(encoding="utf-8").replace("宽松", "好看"), encoding="utf-8")
    assert main(["train", str(recipe), f"output={run.path}", *knobs[1:], "train.steps=1", "train.save_every=9"]) == 0
    shutil.rmtree(run.state(1))
    write_jsonl(run.log, [line for line in read_jsonl(run.log) if line["event"] != "finished"])
    shutil.copy(recipe.parent / "rows.jsonl", rows)
    capsys.readouterr()
    tiny_run(recipe, *knobs)
    assert "the rows are not those with which this run was started. Nothing was saved" in capsys.readouterr().out
    assert losses(run, "eval_loss") == losses(fresh, "eval_loss")


def test_rows_changed_after_a_rescue_to_the_start_are_refused(killed: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    write_rescue(killed, Rescued(step=4, back_to=0, rate_scale=0.1, reason="the loss rose", rows=(), best_step=3, best_loss=1.0))
    rows = killed.path.with_name("rows.jsonl")
    rows.write_text(rows.read_text(encoding="utf-8").replace("宽松", "好看"), encoding="utf-8")
    assert train_again(killed) == 2
    assert "is not what this run began with" in capsys.readouterr().err


# What is gone


@pytest.mark.parametrize("name", ["rows.jsonl", "base"])
def test_a_vanished_data_file_or_base_is_a_sentence_and_put_back_nothing_is_lost(
    name: str, killed: RunFolder, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    place = killed.path.with_name(name)
    place.rename(place.with_name("elsewhere"))
    assert train_again(killed) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(place) in said
    assert "Traceback" not in said
    place.with_name("elsewhere").rename(place)
    assert train_again(killed) == 0
    assert log_of(killed) == log_of(whole)


def test_a_log_that_was_deleted_is_told_and_the_run_goes_on_to_the_same_losses(
    killed: RunFolder, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    killed.log.unlink()
    assert train_again(killed) == 0
    assert f"{killed.log} is missing" in capsys.readouterr().out
    assert losses(killed) == losses(whole)[4:]


def test_a_finished_run_without_its_log_is_evaluated_once_more(
    recipe: Path, whole: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(Path(shutil.copytree(whole.path, tmp_path / "run")))
    run.log.unlink()
    assert main(["train", str(recipe), f"output={run.path}"]) == 0
    said = capsys.readouterr().out
    assert "no row was held out" not in said
    best = min(loss for loss in losses(whole, "eval_loss")[1:] if loss is not None)
    assert f"verdict: evaluation loss {best:.2f} at step" in said
    entry = describe_run(run)
    assert (entry.state, entry.step, entry.steps) == ("finished", 6, 6)
    assert entry.best_eval_loss == best


@pytest.mark.parametrize("dev_share", ["0.2", "0"])
def test_a_run_stopped_before_its_first_evaluation_may_end_where_it_was_stopped(
    dev_share: str, recipe: Path, signals: list[tuple[int, int]], tmp_path: Path
) -> None:
    knobs = [str(tmp_path / "run"), f"data.dev_share={dev_share}", "train.evaluate_every=5", "train.save_every=9"]
    signals.append((3, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tiny_run(recipe, *knobs)
    signals.clear()
    run = tiny_run(recipe, *knobs, "train.steps=3")
    assert described(run)["step"] == 3
    kept = load_file(run.adapter / "prefix.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in learned_tensors(run, 3).items())
    before = run.log.read_bytes()
    tiny_run(recipe, *knobs, "train.steps=3")  # and once more: nothing is left to do
    assert run.log.read_bytes() == before


def test_a_log_that_is_deleted_meanwhile_is_written_anew(killed: RunFolder, whole: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Engine.update

    def delete(engine: Engine, step: int, **how: Any) -> tuple[float, bool]:
        if step == 6:
            killed.log.unlink()
        return update(engine, step, **how)

    monkeypatch.setattr(Engine, "update", delete)
    assert train_again(killed) == 0
    assert log_of(killed) == log_of(whole)


# The disk


def test_a_full_or_read_only_disk_is_a_sentence_and_with_room_again_nothing_is_lost(drilled: dict[str, dict[str, Any]]) -> None:
    found = drilled["disk"]
    assert found["broken"] == []
    assert found["equal"] == found["runs"] > 8


@pytest.mark.long
def test_whichever_change_the_disk_refuses_nothing_is_lost(repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.drills", "disk", str(tmp_path), "--every", "3"]
    result = subprocess.run(command, cwd=repo, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["broken"] == []
    assert found["equal"] == found["runs"] > 8


# A chat template that writes today's date


def dated_recipe(folder: Path, chat_template: str = "<|system|>\\nToday is {{ strftime_now('%d %b %Y') }}<|end|>\\n" + CHAT) -> Path:
    """A recipe of a base whose chat template writes the date."""
    base = base_of("Qwen3", folder / "base")
    settings = {**json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8")), "chat_template": chat_template}
    (base / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tiny_rows(folder / "rows.jsonl")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder).replace("method: prefix, length: 4, text: 类型, prefix_dropout: 0.1", "method: lora"))
    return recipe


def on_day(day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it another day."""

    class Day(date):
        """Another today."""

        @classmethod
        def today(cls) -> "Day":
            return cls.fromisoformat(day)

    monkeypatch.setattr(resume, "date", Day)


def test_limits_chosen_from_the_rows_are_numbers_that_a_resumed_run_and_other_commands_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(tmp_path)
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(", max_target_length: 24", ""), encoding="utf-8")
    run = train(recipe, ["train.steps=1"])
    data = read_recipe(run.config, [], Recipe).data
    assert data.max_source_length is not None
    assert data.max_target_length is not None
    assert data.max_target_length != 64
    assert (
        f"data.max_source_length={data.max_source_length} data.max_target_length={data.max_target_length}: chosen"
        in capsys.readouterr().out
    )
    train(recipe, ["train.steps=2"])
    assert read_recipe(run.config, [], Recipe).data == data
    assert "chosen from the rows" not in capsys.readouterr().out
    assert main(["train", str(recipe), "train.steps=3", "data.max_target_length=64"]) == 2
    assert f"data.max_target_length: {data.max_target_length} -> 64" in capsys.readouterr().err


def test_a_run_that_began_with_64_goes_on_with_64(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    run = train(recipe, ["train.steps=1", "data.max_source_length=64", "data.max_target_length=64"])
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(", max_target_length: 24", ""), encoding="utf-8")
    train(recipe, ["train.steps=2"])
    data = read_recipe(run.config, [], Recipe).data
    assert (data.max_source_length, data.max_target_length) == (64, 64)


def test_what_the_limits_cut_is_told_at_the_start_at_the_end_and_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path)
    run = train(recipe, ["train.steps=1", "data.max_target_length=5", "train.report=true"])
    start, _finished, end = capsys.readouterr().out.partition("finished:")
    for told in (start, end, run.report.read_text(encoding="utf-8")):
        assert "lost the end of the answer. " in told
        assert "To cut nothing, begin a run in another folder with data.max_target_length=" in told
        assert "要完整保留，请换一个输出目录重新训练，并设 data.max_target_length=" in told
    train(recipe, ["train.steps=2", "data.max_target_length=5", "train.report=true"])
    assert [line["source"] for line in read_jsonl(run.log) if line.get("event") == "notice" and line["source"] == "data"] == ["data"]
    assert "To cut nothing" in capsys.readouterr().out.partition("resuming")[0]


def test_a_run_keeps_the_date_of_its_first_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, knobs = dated_recipe(tmp_path), ["train.steps=2", "train.watch_prompts=0", "data.max_source_length=200"]
    on_day("2026-01-30", monkeypatch)
    run = train(recipe, knobs)
    on_day("2026-01-31", monkeypatch)
    train(recipe, [*knobs, "train.steps=3"])
    assert "date: '2026-01-30'" in run.config.read_text(encoding="utf-8").replace('"', "'")
    opened = load_model(resolve_source(run.path), device="cpu")
    assert "Today is 30 Jan 2026" in opened.tokenizer.decode(opened.prompt("你好"))
    told = open_template(resolve_source(run.path)).prompt(make_messages("你好"))
    assert [token for segment in told for token in segment.ids] == opened.prompt("你好")


def test_a_date_may_be_given_where_the_template_writes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = dated_recipe(tmp_path / "dated")
    run = train(recipe, ["train.steps=1", "train.watch_prompts=0", "data.max_source_length=200", "model.date=2020-02-29"])
    opened = load_model(resolve_source(run.path), device="cpu")
    assert "Today is 29 Feb 2020" in opened.tokenizer.decode(opened.prompt("你好"))
    plain = dated_recipe(tmp_path / "plain", CHAT)
    assert main(["train", str(plain), "model.date=2020-02-29"]) == 2
    assert "model.date: 2020-02-29, but the template of" in capsys.readouterr().err
    assert main(["train", str(plain), "model.date=2021-02-29"]) == 2
    assert "must be a day as year-month-day, such as 2026-01-31" in capsys.readouterr().err


# A base of the hub


def test_a_run_on_a_model_of_the_hub_records_its_commit_and_stays_with_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, rows = RunFolder(tmp_path / "run"), str(recipe.parent / "rows.jsonl")
    command = ["train", str(recipe), f"output={run.path}", "model.path=owner/tiny"]
    with hub_server(tmp_path / "cache") as hub:
        hub.repositories["owner/tiny"] = Repository(model_files(recipe.parent / "base"))
        assert main([*command, "train.steps=2"]) == 0, capsys.readouterr().err
        assert f"commit: {COMMIT}" in run.config.read_text(encoding="utf-8")
        hub.repositories["owner/tiny"] = Repository({"config.json": b"{}"}, {"main": NEXT_COMMIT})  # its owner has replaced it
        hub.asked.clear()
        assert main([*command, "train.steps=3"]) == 0, capsys.readouterr().err
        assert main(["evaluate", str(run.path), "--data", rows, "--limit", "1"]) == 0
        assert main(["export", str(run.path), str(tmp_path / "official"), "--to", "official"]) == 0
        assert main(["export", str(run.path), str(tmp_path / "run.tar"), "--to", "bundle"]) == 0
        assert hub.asked == []
        assert main([*command, f"model.commit={NEXT_COMMIT}"]) == 2
        assert f"model.commit: {COMMIT} -> {NEXT_COMMIT}" in capsys.readouterr().err
        assert hub.asked == []
        assert main(["train", str(recipe), f"output={run.path}", f"model.path={recipe.parent / 'base'}", "train.steps=3"]) == 2
        assert f"model.commit: {COMMIT} -> null" in capsys.readouterr().err
        assert main(["evaluate", str(run.path), "--data", rows, "--limit", "1", "base_path=owner/tiny"]) == 2
        assert "is no model that can be loaded" in capsys.readouterr().err


def test_a_commit_of_a_folder_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(recipe), f"output={recipe.parent / 'pinned'}"]
    assert main([*command, f"model.commit={COMMIT}"]) == 2
    assert "is no model of the hub. Leave it out, or give owner/name." in capsys.readouterr().err
    assert main([*command, "model.commit=main"]) == 2
    assert "model.commit=main: must be the 40 hexadecimal digits of a commit" in capsys.readouterr().err
