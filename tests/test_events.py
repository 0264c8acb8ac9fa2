import json
import os
import threading
from pathlib import Path

import pytest

from imprint.events import (
    Event,
    Finished,
    Notice,
    Rescued,
    Started,
    evaluation_losses,
    event_fields,
    follow,
    parse_event,
    read_events,
    read_rescues,
    values_by_step,
    write_rescue,
)
from imprint.messages import UserError
from imprint.runs import RunFolder
from imprint.training.run_log import RunLog
from tests.logged import evaluation, sample, step

EVERY_KIND: list[Event] = [
    Started(step=0, steps=9),
    step(1, None, skipped_rows=(3, 4), broken_rows=(4,)),
    evaluation(1, 2.5),
    sample(1, "好"),
    Notice(step=1, source="guard", english="a spike", chinese="突变"),
    Rescued(step=7, back_to=4, rate_scale=0.3, reason="the loss rose", rows=("rows.jsonl:3",), best_step=4, best_loss=2.5),
    Finished(step=9, best_step=8, best_loss=None),
]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_every_event_is_read_as_it_was_written() -> None:
    for event in EVERY_KIND:
        assert parse_event(json.loads(json.dumps(event_fields(event))), "log.jsonl:1") == event


def test_the_lines_of_earlier_versions_are_read() -> None:
    numbers = {"learning_rate": 0.01, "gradient_norm": 1.5, "tokens_per_second": 12345.0, "memory_gib": 1.26, "seconds": 0.5}
    assert parse_event({"step": 3, "loss": 2.0, **numbers}, "log.jsonl:1") == step(3)
    assert parse_event({"step": 3, "loss": None, **numbers, "skipped_rows": [1]}, "log.jsonl:1") == step(3, None, skipped_rows=(1,))
    assert parse_event({"step": 3, "eval_loss": 1.0}, "log.jsonl:1") == evaluation(3, 1.0)
    assert parse_event({"step": 3, "prompt": "你好", "answer": "好"}, "samples.jsonl:1") == sample(3, "好")


@pytest.mark.parametrize("field", [{"loss": "2.0"}, {"event": "stop"}, {"colour": "red"}, {"loss": True}])
def test_a_field_that_no_event_has_is_refused_with_its_line(field: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"log\.jsonl:8: this is not a line that Imprint wrote"):
        parse_event(event_fields(step(3)) | field, "log.jsonl:8")


@pytest.mark.parametrize("depth", [500, 900, 980, 100_000])
def test_a_line_that_is_nested_deeply_is_refused_by_readers_and_followers(run: RunFolder, depth: int) -> None:
    run.path.mkdir()
    run.log.write_text('{"step": 1, "rows": ' + "[" * depth + "]" * depth + "}\n")
    for read in (read_events, lambda run: next(follow(run))):
        with pytest.raises(UserError, match=r"log\.jsonl:1: "):
            read(run)


def test_answers_that_were_kept_in_another_file_are_put_behind_their_step(run: RunFolder) -> None:
    run.path.mkdir()
    run.log.write_text("".join(json.dumps(event_fields(one)) + "\n" for one in (step(1), evaluation(1, 2.0), step(2))))
    run.samples.write_text(json.dumps({"step": 1, "prompt": "你好", "answer": "好"}) + "\n")
    assert read_events(run) == [step(1), evaluation(1, 2.0), sample(1, "好"), step(2)]


def test_rescues_are_read_with_and_without_their_kind(run: RunFolder) -> None:
    rescue = next(event for event in EVERY_KIND if isinstance(event, Rescued))
    write_rescue(run, rescue)
    assert "event" not in json.loads(run.rescues.read_text(encoding="utf-8"))
    assert read_rescues(run) == [rescue]


def test_values_are_by_step_finite_and_the_later_of_two() -> None:
    events: list[Event] = [step(2, 1.0), step(1, float("nan")), step(2, 3.0), evaluation(0, 9.0), step(3, None)]
    assert values_by_step(events, "loss") == {2: 3.0}


def test_a_run_is_followed_through_a_kill_a_resume_and_a_rescue_to_its_end(run: RunFolder) -> None:
    seen: list[Event] = []
    reader = threading.Thread(target=lambda: seen.extend(follow(run, poll_seconds=0.01)), daemon=True)
    reader.start()
    log = RunLog(run, step=0, steps=4)
    for number in (1, 2, 3):
        log.write(step(number, 10.0 + number))
    end_of(log)
    log = RunLog(run, step=2, steps=4)  # killed after step 3, resumed from the state of step 2
    log.write(step(3, 23.0))
    rescue = Rescued(step=3, back_to=1, rate_scale=0.3, reason="the loss rose", rows=(), best_step=1, best_loss=None)
    write_rescue(run, rescue)
    log.write(rescue)
    end_of(log)
    log = RunLog(run, step=1, steps=4)
    for number in (2, 3, 4):
        log.write(step(number, 30.0 + number))
    log.finish(4, None)
    end_of(log)
    reader.join(timeout=60)
    assert not reader.is_alive()
    assert seen[-1] == Finished(step=4, best_step=4, best_loss=None)
    assert values_by_step(seen, "loss") == {1: 11.0, 2: 32.0, 3: 33.0, 4: 34.0}
    assert sum(isinstance(event, Rescued) for event in seen) == 1


def end_of(log: RunLog) -> None:
    for sink in log.sinks:
        sink.close()


def test_a_finished_run_is_followed_at_once_and_a_line_that_is_none_is_named(run: RunFolder) -> None:
    run.path.mkdir()
    lines = [json.dumps(event_fields(event)) for event in EVERY_KIND]
    run.log.write_text("\n".join(lines) + "\n")
    assert list(follow(run)) == EVERY_KIND
    run.log.write_text("\n".join([*lines[:2], "[", *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl:3: "):
        list(follow(run))


def test_a_finished_run_that_has_said_something_since_is_finished(run: RunFolder) -> None:
    run.path.mkdir()
    notice = Notice(step=9, source="resume", english="changed", chinese="已更改")
    run.log.write_text("".join(json.dumps(event_fields(event)) + "\n" for event in [*EVERY_KIND, notice]))
    assert list(follow(run)) == [*EVERY_KIND, notice]


def test_a_pipe_in_place_of_a_log_is_not_waited_for(run: RunFolder) -> None:
    run.path.mkdir()
    os.mkfifo(run.log)

    with pytest.raises(UserError, match=r"log.jsonl is not a regular file, but a pipe, a socket or a device."):
        next(follow(run))


@pytest.mark.parametrize("number", [-1, -(10**400), 10**400])
def test_a_step_that_no_curve_can_show_is_refused(run: RunFolder, number: int) -> None:
    run.path.mkdir()
    run.log.write_text(json.dumps(event_fields(step(1)) | {"step": number}) + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl:1: this is not a line that Imprint wrote"):
        read_events(run)


@pytest.mark.parametrize("changes", [{"rate_scale": value} for value in (-1e308, 0.0, 2.0, float("nan"))] + [{"best_loss": float("nan")}])
def test_a_rescue_with_numbers_that_no_run_writes_is_refused(changes: dict[str, object]) -> None:
    rescue = next(event for event in EVERY_KIND if isinstance(event, Rescued))
    with pytest.raises(UserError, match=r"log\.jsonl:8: this is not a line that Imprint wrote"):
        parse_event(event_fields(rescue) | changes, "log.jsonl:8")


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_best_loss_that_is_not_finite_is_no_loss(loss: float) -> None:
    assert evaluation_losses([evaluation(1, 2.5), Finished(step=2, best_step=2, best_loss=loss)]) == {1: 2.5}


def test_more_rescues_than_a_run_has_are_refused(run: RunFolder) -> None:
    rescue = next(event for event in EVERY_KIND if isinstance(event, Rescued))
    run.path.mkdir()
    for file, read in ((run.log, read_events), (run.rescues, read_rescues)):
        file.write_text((json.dumps(event_fields(rescue)) + "\n") * 1001)
        with pytest.raises(UserError, match=r"jsonl: holds more than 1,000 rescues, and a run ends after the third"):
            read(run)
