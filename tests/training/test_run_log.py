import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import imprint.training.run_log as journals
from imprint.errors import UserError
from imprint.files import read_jsonl
from imprint.runs import RunFolder
from imprint.training.run_log import RunLog
from tests.tinyrun import tiny_recipe, tiny_run

FIELDS = {"step", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_gib", "seconds"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def line(step: int, loss: float | None = 2.0) -> dict[str, Any]:
    """A training step as it is logged."""
    return {
        "step": step,
        "loss": loss,
        "learning_rate": 0.01,
        "gradient_norm": 1.5,
        "tokens_per_second": 12345.0,
        "memory_gib": 1.26,
        "seconds": 0.5,
    }


def write(run: RunFolder, first: int, last: int, *, steps: int = 8) -> None:
    """Log some steps, evaluations and samples, and end in the middle of it as a killed process does."""
    run_log = RunLog(run, step=first - 1, steps=steps)
    for step in range(first, last + 1):
        run_log.step(line(step, 10.0 * first + step))
        if step % 2 == 0:
            run_log.record({"step": step, "eval_loss": 1 / step})
            run_log.sample(step, "你好", f"answer {step}")
    assert run_log.events is not None
    run_log.events.close()


def events_of(run: RunFolder, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(run.events)).Reload()
    return [(event.step, round(event.value, 4)) for event in found.Scalars(tag)]


@pytest.mark.usefixtures("drawing")
def test_a_run_logs_a_complete_line_a_step(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "run")
    lines = read_jsonl(run.log)
    steps = [one for one in lines if "loss" in one]
    assert [one["step"] for one in steps] == [1, 2, 3, 4, 5, 6]
    assert all(set(one) == FIELDS for one in steps)
    assert all(math.isfinite(value) and value > 0 for one in steps for value in one.values())
    assert [one["seconds"] for one in steps] == sorted(one["seconds"] for one in steps)
    assert [(one["step"], sorted(one)) for one in lines if "eval_loss" in one] == [(step, ["eval_loss", "step"]) for step in (0, 3, 6)]
    assert [(one["step"], sorted(one)) for one in read_jsonl(run.samples)] == [
        (step, ["answer", "prompt", "step"]) for step in (3, 3, 6, 6)
    ]
    assert run.curve.read_bytes().startswith(b"\x89PNG")
    for name in ("loss", "eval_loss", "learning_rate", "gradient_norm"):
        logged = [(one["step"], round(one[name], 4)) for one in lines if name in one]
        assert [step for step, _ in events_of(run, f"train/{name}")] == [step for step, _ in logged]
        assert [value for _, value in events_of(run, f"train/{name}")] == pytest.approx([value for _, value in logged], abs=2e-4)


@pytest.mark.parametrize("killed_at", [3, 4, 6])
def test_what_was_logged_after_the_state_is_forgotten_everywhere(run: RunFolder, killed_at: int) -> None:
    write(run, 1, killed_at)
    write(run, 3, 8)  # on from the state of step 2
    lines = read_jsonl(run.log)
    assert [one["step"] for one in lines if "loss" in one] == list(range(1, 9))
    assert [one["loss"] for one in lines if "loss" in one] == [11, 12, *range(33, 39)]
    assert [one["step"] for one in lines if "eval_loss" in one] == [2, 4, 6, 8]
    assert [one["step"] for one in read_jsonl(run.samples)] == [2, 4, 6, 8]
    assert events_of(run, "train/loss") == [(one["step"], one["loss"]) for one in lines if "loss" in one]


def test_a_run_killed_before_its_first_state_begins_anew_everywhere(run: RunFolder) -> None:
    write(run, 1, 3)
    run_log = RunLog(run, step=0, steps=8)
    run_log.step(line(1, 7.0))
    assert run_log.events is not None
    run_log.events.close()
    assert [(one["step"], one["loss"]) for one in read_jsonl(run.log)] == [(1, 7.0)]
    assert read_jsonl(run.samples) == []
    assert events_of(run, "train/loss") == [(1, 7.0)]


def test_a_line_that_a_kill_tore_is_forgotten(run: RunFolder) -> None:
    write(run, 1, 2)
    with run.log.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "loss": 1.')
    write(run, 3, 3)
    assert [one["step"] for one in read_jsonl(run.log) if "loss" in one] == [1, 2, 3]


@pytest.mark.parametrize("bad", ['{"loss": 1.0}', '{"step": "3"}', "3", "[]", "null"])
def test_a_line_without_a_step_is_named_with_its_number(run: RunFolder, bad: str) -> None:
    write(run, 1, 1)
    with run.log.open("a", encoding="utf-8") as file:
        file.write(f"{bad}\n")
    with pytest.raises(UserError, match=re.escape(f'{run.log}:2: this line has no "step", a whole number. Mend or delete the line')):
        RunLog(run, step=1, steps=8)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("log", '{"step": 1, "loss": "2.0"}'),
        ("log", '{"step": 1, "eval_loss": [1]}'),
        ("log", '{"step": 1, "loss": null, "broken_rows": 3}'),
        ("samples", '{"step": 1}'),
        ("samples", '{"step": 1, "prompt": "你好", "answer": null}'),
    ],
)
def test_a_line_that_was_changed_by_hand_is_named_with_its_number(run: RunFolder, name: str, bad: str) -> None:
    write(run, 1, 2)
    file = getattr(run, name)
    file.write_text(f"{file.read_text(encoding='utf-8').splitlines()[0]}\n{bad}\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{file}:2: this is not what Imprint wrote. Mend or delete the line")):
        RunLog(run, step=2, steps=8)


def test_a_disk_that_refuses_the_events_is_told_in_a_sentence(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="events: cannot be written: no space is left"), RunLog(run, step=0, steps=8) as run_log:
        monkeypatch.setattr(run_log.events, "_write", full)
        run_log.step(line(1))


def test_cutting_a_log_never_leaves_it_shorter_than_the_state(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 1, 4)
    before = run.log.read_bytes()

    def die(path: Path, text: str) -> None:
        raise SystemExit

    monkeypatch.setattr(journals, "write_text", die)
    with pytest.raises(SystemExit):
        RunLog(run, step=2, steps=8)
    assert run.log.read_bytes() == before


@pytest.mark.usefixtures("drawing")
def test_a_number_that_is_not_finite_is_null_in_the_log(run: RunFolder) -> None:
    with RunLog(run, step=0, steps=1) as run_log:
        run_log.step({**line(1, None), "gradient_norm": math.nan, "skipped_rows": [4, 2]})
    assert json.loads(run.log.read_text()) == {**line(1, None), "gradient_norm": None, "skipped_rows": [4, 2]}
    assert run.curve.is_file()


@pytest.mark.usefixtures("drawing")
def test_the_picture_is_refreshed_while_the_run_goes_on(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SECONDS_BETWEEN_CURVES", 0.0)
    run_log = RunLog(run, step=0, steps=8)
    run_log.step(line(1))
    first = run.curve.read_bytes()
    run_log.step(line(2, 1.0))
    assert run.curve.read_bytes() != first
    assert run_log.events is not None
    run_log.events.close()


@pytest.mark.usefixtures("drawing")
def test_a_run_without_a_step_has_no_picture(run: RunFolder) -> None:
    with RunLog(run, step=0, steps=8):
        pass
    assert not run.curve.exists()


def test_the_bar_shows_loss_rate_speed_time_left_and_memory(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, step=0, steps=8) as run_log:
        run_log.step(line(1, 3.0))
        run_log.step(line(2, 2.0))
    said = capsys.readouterr().out
    assert "training: 2/8" in said
    assert "loss 2.900" in said  # smoothed: 0.9 x 3 + 0.1 x 2
    assert "lr 1.0e-02" in said
    assert "tokens/s 12,345" in said
    assert "memory 1.3 GiB" in said
    assert " < 0:0" in said  # time left


def test_samples_are_shown_as_they_come(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, step=0, steps=8) as run_log:
        run_log.sample(4, "类型#上衣", "这件[bold]上衣")
    assert "  类型#上衣\n  -> 这件[bold]上衣\n" in capsys.readouterr().out
    assert read_jsonl(run.samples) == [{"step": 4, "prompt": "类型#上衣", "answer": "这件[bold]上衣"}]
    assert "sample/text_summary" in EventAccumulator(str(run.events)).Reload().Tags()["tensors"]
