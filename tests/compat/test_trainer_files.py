import json
from pathlib import Path

import pytest
import torch

from imprint.compat.trainer_files import (
    LogSchedule,
    checkpoints,
    evaluation_results,
    keep_newest,
    trainer_state,
    training_results,
    write_checkpoint,
    write_predictions,
    write_results,
    write_training_results,
)
from imprint.data.batches import BatchSampler
from imprint.events import Event
from imprint.runs import RunFolder
from imprint.tune.section import FullSection, PrefixSection
from imprint.tune.tuner import Tuner
from tests.cases import Case
from tests.logged import evaluation, step
from tests.oldproject import said

PACE = LogSchedule(
    BatchSampler(range(10), 4, seed=0, group_by_length=False, micro_size=1), steps=6, logging_steps=2, logging_first_step=False
)


def lines(*losses: float | None) -> list[Event]:
    return [step(number, loss, learning_rate=1 - (number - 1) / 6) for number, loss in enumerate(losses, start=1)]


def test_the_history_is_the_mean_since_the_last_entry_with_the_rate_that_follows() -> None:
    state = trainer_state(lines(1.0, 2.0, 3.0, 4.00004, 9.0), PACE, step=4, next_rate=0.25)
    assert state["log_history"] == [
        {"epoch": 0.8, "learning_rate": pytest.approx(4 / 6), "loss": 1.5, "step": 2},
        {"epoch": 1.6, "learning_rate": 0.25, "loss": 3.5, "step": 4},
    ]
    assert (state["global_step"], state["max_steps"], state["num_train_epochs"], state["epoch"]) == (4, 6, 3, 1.6)


def test_a_step_that_was_thrown_away_is_no_part_of_the_mean() -> None:
    history = trainer_state(lines(None, 2.0, None, None), PACE, step=4, next_rate=0.0)["log_history"]
    assert [entry["loss"] for entry in history] == [2.0, None]


def test_evaluation_losses_stand_in_the_history_but_for_that_before_the_first_step() -> None:
    log = [evaluation(0, 9.0), *lines(1.0, 2.0), evaluation(2, 1.5)]
    assert trainer_state(log, PACE, step=2, next_rate=0.5)["log_history"][-1] == {"epoch": 0.8, "eval_loss": 1.5, "step": 2}


def test_the_figures_of_training_have_the_originals_names() -> None:
    assert training_results(lines(1.0, 3.0, None), PACE, seconds=12.0) == {
        "epoch": 2.4,
        "train_loss": 2.0,
        "train_samples": 10,
        "train_runtime": 12.0,
        "train_samples_per_second": 2.0,
        "train_steps_per_second": 0.5,
    }


def test_the_figures_of_an_evaluation_carry_its_name() -> None:
    assert evaluation_results("predict", {"bleu-4": 8.1}, seconds=2.0, rows=4, batches=2) == {
        "predict_bleu-4": 8.1,
        "predict_samples": 4,
        "predict_runtime": 2.0,
        "predict_samples_per_second": 2.0,
        "predict_steps_per_second": 1.0,
    }


def test_figures_of_several_commands_come_together(tmp_path: Path) -> None:
    write_results(tmp_path, "train", {"train_loss": 1.0, "epoch": 2.0})
    write_results(tmp_path, "predict", {"predict_bleu-4": 8.0})
    write_results(tmp_path, "predict", {"predict_bleu-4": 9.0})
    assert said(tmp_path / "all_results.json") == {"epoch": 2.0, "predict_bleu-4": 9.0, "train_loss": 1.0}
    assert said(tmp_path / "predict_results.json") == {"predict_bleu-4": 9.0}


@pytest.mark.parametrize("damage", ["{", "[]"])
def test_a_damaged_file_of_all_figures_is_written_anew(damage: str, tmp_path: Path) -> None:
    (tmp_path / "all_results.json").write_text(damage)
    write_results(tmp_path, "train", {"train_loss": 1.0})
    assert said(tmp_path / "all_results.json") == {"train_loss": 1.0}


def test_the_end_of_training_stands_at_the_end_of_the_history(tmp_path: Path) -> None:
    state = trainer_state(lines(1.0, 2.0), PACE, step=2, next_rate=0.5)
    write_training_results(RunFolder(tmp_path), state, {"train_loss": 1.5, "train_samples": 10, "epoch": 0.8})
    assert said(tmp_path / "trainer_state.json")["log_history"][-1] == {"epoch": 0.8, "step": 2, "total_flos": 0, "train_loss": 1.5}


def test_predictions_are_lines_of_label_and_answer_without_blanks_at_their_ends(tmp_path: Path) -> None:
    write_predictions(tmp_path, ["好的 ", "二"], [" 一\n行", ""])
    written = (tmp_path / "generated_predictions.txt").read_text(encoding="utf-8")
    assert written == '{"labels": "好的", "predict": "一\\n行"}\n{"labels": "二", "predict": ""}\n'


def tuner(name: str) -> Tuner:
    model = Case(name).load()
    section = FullSection(method="full") if model.adapter is None else PrefixSection(start="random")
    return Tuner(model.network, section, model.adapter, checkpointing=False)


@pytest.mark.parametrize("name", ["chatglm1-ptuning", "chatglm1-ptuning-projection"])
def test_a_checkpoint_of_a_prefix_equals_the_originals_file(name: str, tmp_path: Path) -> None:
    case = Case(name)
    assert case.adapter is not None
    write_checkpoint(tmp_path / "checkpoint-7", tuner(name), case.folder, {"global_step": 7})
    found, wanted = (torch.load(file, weights_only=True) for file in (tmp_path / "checkpoint-7" / "pytorch_model.bin", case.adapter))
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    config = said(tmp_path / "checkpoint-7" / "config.json")
    assert (config["pre_seq_len"], config["prefix_projection"]) == (len(next(iter(wanted.values()))), name.endswith("projection"))
    names = {"config.json", "pytorch_model.bin", "trainer_state.json", "prefix_pytorch_model.bin", "trajectory.json"}
    assert {entry.name for entry in (tmp_path / "checkpoint-7").iterdir()} <= names


def test_a_checkpoint_of_all_weights_is_one_folder_that_loads(tmp_path: Path) -> None:
    case = Case("chatglm1-base")
    write_checkpoint(tmp_path / "checkpoint-7", tuner("chatglm1-base"), case.folder, {"global_step": 7})
    tensors = torch.load(tmp_path / "checkpoint-7" / "pytorch_model.bin", weights_only=True)
    assert "lm_head.weight" in tensors
    assert json.loads((tmp_path / "checkpoint-7" / "trainer_state.json").read_text())["global_step"] == 7


def test_the_newest_checkpoints_are_kept_by_their_number(tmp_path: Path) -> None:
    for number in (5, 10, 100, 20):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-old").mkdir()
    keep_newest(tmp_path, 2)
    assert [entry.name for entry in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    assert (tmp_path / "checkpoint-old").is_dir()
    assert checkpoints(tmp_path / "nowhere") == []
