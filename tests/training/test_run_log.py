import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from imprint.events import Event, Finished, Rescued, Step, event_fields, finite_or_none, follow, write_rescue
from imprint.files import atomic
from imprint.files.atomic import read_jsonl
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder
from imprint.training import state
from imprint.training.run_log import RunLog
from imprint.training.sinks import EventFile
from imprint.training.tensorboard import TensorBoard
from tests.logged import evaluation, sample, step
from tests.tinyrun import tiny_recipe, tiny_run

FIELDS = {"event", "step", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_gib", "seconds"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def write(run: RunFolder, first: int, last: int, *, steps: int = 8) -> None:
    """Log some steps, evaluations and samples, and end in the middle of it as a killed process does."""
    run_log = RunLog(run, step=first - 1, steps=steps)
    for number in range(first, last + 1):
        run_log.write(step(number, 10.0 * first + number))
        if number % 2 == 0:
            run_log.write(evaluation(number, 1 / number))
            run_log.write(sample(number, f"answer {number}"))
    close_files(run_log)


def close_files(run_log: RunLog) -> None:
    """What the system does when a process dies."""
    for sink in run_log.sinks:
        if isinstance(sink, TensorBoard):
            sink.close()


def events_of(run: RunFolder, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(run.tensorboard)).Reload()
    return [(event.step, round(event.value, 4)) for event in found.Scalars(tag)]


@pytest.mark.usefixtures("drawing")
def test_a_run_logs_a_complete_line_a_step(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "run")
    lines = read_jsonl(run.log)
    steps = [one for one in lines if "loss" in one]
    assert [one["step"] for one in steps] == [1, 2, 3, 4, 5, 6]
    assert all(set(one) == FIELDS for one in steps)
    assert all(math.isfinite(value) and value > 0 for one in steps for name, value in one.items() if name != "event")
    assert [one["seconds"] for one in steps] == sorted(one["seconds"] for one in steps)
    assert [(one["step"], sorted(one)) for one in lines if "eval_loss" in one] == [
        (step, ["eval_loss", "event", "step"]) for step in (0, 3, 6)
    ]
    assert [(one["step"], sorted(one)) for one in read_jsonl(run.samples)] == [
        (step, ["answer", "prompt", "step"]) for step in (3, 3, 6, 6)
    ]
    assert run.curve.read_bytes().startswith(b"\x89PNG")
    for name in ("loss", "eval_loss", "learning_rate", "gradient_norm"):
        logged = [(one["step"], round(one[name], 4)) for one in lines if name in one]
        assert [step for step, _ in events_of(run, f"train/{name}")] == [step for step, _ in logged]
        assert [value for _, value in events_of(run, f"train/{name}")] == pytest.approx([value for _, value in logged], abs=2e-4)


class Tracker:
    """A sink that only counts its closings."""

    closed = 0

    def write(self, event: Event) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Count."""
        self.closed += 1


def test_a_log_that_cannot_be_opened_closes_the_tracker_that_was_given_to_it(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise UserError(Bilingual("the disk is full", "磁盘已满"))

    tracker = Tracker()
    monkeypatch.setattr(EventFile, "write", fail)
    with pytest.raises(UserError, match="the disk is full"):
        RunLog(run, step=0, steps=8, trackers=[tracker])
    assert tracker.closed == 1


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
    run_log.write(step(1, 7.0))
    close_files(run_log)
    assert [(one["step"], one["loss"]) for one in read_jsonl(run.log) if "loss" in one] == [(1, 7.0)]
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
    with pytest.raises(UserError, match=re.escape(f'{run.log}:3: this line has no "step", an integer. Correct or delete the line')):
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
    if name == "samples":  # as an earlier version kept them: nowhere else
        run.log.write_text("".join(line for line in run.log.read_text(encoding="utf-8").splitlines(True) if '"sample"' not in line))
    file = getattr(run, name)
    file.write_text(f"{file.read_text(encoding='utf-8').splitlines()[0]}\n{bad}\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{file}:2: this is not a line that Imprint wrote. Correct or delete the line")):
        RunLog(run, step=2, steps=8)


def test_a_disk_that_refuses_the_events_is_told_in_a_sentence(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="events: cannot be written: no space is left"), RunLog(run, step=0, steps=8) as run_log:
        board = next(sink for sink in run_log.sinks if isinstance(sink, TensorBoard))
        monkeypatch.setattr(board, "_record", full)
        run_log.write(step(1))


def test_cutting_a_log_never_leaves_it_shorter_than_the_state(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 1, 4)
    before = run.log.read_bytes()

    def die(path: Path, text: str) -> None:
        raise SystemExit

    monkeypatch.setattr(atomic, "write_text", die)
    with pytest.raises(SystemExit):
        RunLog(run, step=2, steps=8)
    assert run.log.read_bytes() == before


@pytest.mark.usefixtures("drawing")
def test_a_number_that_is_not_finite_is_null_in_the_log(run: RunFolder) -> None:
    with RunLog(run, step=0, steps=1) as run_log:
        run_log.write(step(1, None, gradient_norm=finite_or_none(math.nan), skipped_rows=(4, 2)))
    line = read_jsonl(run.log)[-1]
    assert line.keys() == FIELDS | {"skipped_rows"}
    assert (line["loss"], line["gradient_norm"], line["skipped_rows"]) == (None, None, [4, 2])
    assert run.curve.is_file()


def test_a_finished_run_that_is_started_again_still_ends_with_its_last_event(run: RunFolder) -> None:
    write(run, 1, 2, steps=2)
    for notices in (0, 0, 1):
        run_log = RunLog(run, step=2, steps=2)
        for _ in range(notices):
            run_log.notice(Bilingual("changed since the run began", "与开始时不同"), "resume")
        run_log.finish(2, None)
        close_files(run_log)
    events = list(follow(run))
    assert [event.event for event in events] == ["started", "step", "step", "evaluation", "sample", "finished", "notice", "finished"]
    assert events[-1] == Finished(step=2, best_step=2, best_loss=None)


def test_a_rescue_that_an_earlier_version_logged_nowhere_stands_where_the_run_went_on(run: RunFolder) -> None:
    run.path.mkdir()
    run.log.write_text("".join(json.dumps(event_fields(step(number))) + "\n" for number in range(1, 8)))
    rescue = Rescued(step=5, back_to=2, rate_scale=0.3, reason="the loss rose", rows=(), best_step=2, best_loss=None)
    write_rescue(run, rescue)
    run_log = RunLog(run, step=7, steps=8)
    close_files(run_log)
    assert [event.step for event in run_log.events if isinstance(event, Step | Rescued)] == [1, 2, 5, 3, 4, 5, 6, 7]


def test_a_tracker_that_fails_to_close_hides_no_other_error(run: RunFolder) -> None:
    class Broken:
        def write(self, event: Event) -> None:
            pass

        def close(self) -> None:
            raise RuntimeError("no network")

    with pytest.raises(KeyboardInterrupt), RunLog(run, step=0, steps=8, trackers=[Broken()]):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError, match="no network"), RunLog(run, step=0, steps=8, trackers=[Broken()]):
        pass


def test_a_step_that_is_written_later_is_in_the_files_after_a_flush_before_the_next_event_and_at_the_end(run: RunFolder) -> None:
    def logged() -> list[int]:
        return [line["step"] for line in read_jsonl(run.log) if line["event"] == "step"]

    with RunLog(run, step=0, steps=8) as run_log:
        run_log.write_later(step(1, 1.0))
        assert (logged(), run_log.events[-1].step) == ([], 1)
        run_log.flush()
        run_log.flush()
        assert logged() == [1]
        run_log.write_later(step(2, 1.0))
        run_log.write(evaluation(2, 1.0))
        assert [line["event"] for line in read_jsonl(run.log)] == ["started", "step", "step", "evaluation"]
        run_log.write_later(step(3, 1.0))
        run_log.write_later(step(4, 1.0))
        assert logged() == [1, 2, 3]
    assert logged() == [1, 2, 3, 4]


def test_no_state_has_a_step_that_the_log_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, write = [], RunLog.write

    def write_later(run_log: RunLog, event: Event, *, show: bool = True) -> None:
        if isinstance(event, Step):
            run_log.write_later(event)
        else:
            write(run_log, event, show=show)

    def save_state(folder: Path, *others: Any) -> None:
        states.append((folder.name, [line["step"] for line in read_jsonl(folder.parent / "log.jsonl") if line["event"] == "step"]))
        state.save_state(folder, *others)

    monkeypatch.setattr(RunLog, "write", write_later)  # as a GPU does
    monkeypatch.setattr("imprint.training.run.save_state", save_state)
    tiny_run(tiny_recipe(tmp_path), "run", "train.save_every=2", "train.evaluate_every=6")
    assert states == [(f"state-{last:06}", list(range(1, last + 1))) for last in (2, 4, 6)]
