import math
import re
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from imprint.events import Event, Notice
from imprint.files.atomic import read_jsonl
from imprint.messages import Bilingual
from imprint.progress import Progress
from imprint.runs import RunFolder
from imprint.training import sinks
from imprint.training.run_log import RunLog
from imprint.training.sinks import EventFile, Screen
from tests.logged import evaluation, sample, step


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_log_that_was_deleted_meanwhile_is_written_anew(tmp_path: Path) -> None:
    events: list[Event] = []
    file = EventFile(tmp_path / "log.jsonl", events)
    for event in (step(1), evaluation(1, 2.0), step(2)):
        events.append(event)
        file.write(event)
        file.path.unlink()
    assert not file.path.exists()
    events.append(step(3))
    file.write(events[-1])
    assert [line["step"] for line in read_jsonl(file.path)] == [1, 1, 2, 3]


def test_a_notice_is_shown_in_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(Progress(Bilingual("training", "训练"), 3, "step")).write(
        Notice(step=1, source="guard", english="a [bold]spike", chinese="突变")
    )
    assert "a [bold]spike\n突变\n" in capsys.readouterr().out


@pytest.mark.usefixtures("drawing")
def test_the_picture_is_refreshed_while_the_run_goes_on(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "SECONDS_BETWEEN_CURVES", 0.0)
    monkeypatch.setattr(sinks, "MOST_SHARE_OF_CURVES", math.inf)
    run_log = RunLog(run, step=0, steps=8)
    run_log.write(step(1))
    first = run.curve.read_bytes()
    run_log.write(step(2, 1.0))
    assert run.curve.read_bytes() != first
    for sink in run_log.sinks:
        sink.close()


@pytest.mark.usefixtures("drawing")
def test_a_picture_that_takes_long_is_drawn_less_often(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = [100.0], list[float]()

    def draw(*_: object, **__: object) -> None:
        drawn.append(clock[0])
        clock[0] += 0.5

    monkeypatch.setattr("imprint.report.curve.draw_curves", draw)
    monkeypatch.setattr(sinks, "SECONDS_BETWEEN_CURVES", 15.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    curve = sinks.Curve(run, [step(1)], [])
    for _ in range(200):
        clock[0] += 1.0
        curve.write(step(1))
    assert drawn == [116.0, 167.5, 219.0, 270.5]  # 15 seconds after the start, then a hundred times as long as it took


@pytest.mark.usefixtures("drawing")
def test_a_run_without_a_step_has_no_picture(run: RunFolder) -> None:
    with RunLog(run, step=0, steps=8):
        pass
    assert not run.curve.exists()


def test_the_bar_shows_loss_rate_speed_time_left_and_memory(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, step=0, steps=8) as run_log:
        run_log.write(step(1, 3.0))
        run_log.write(step(2, 2.0))
    said = capsys.readouterr().out
    assert "training 训练: 2/8" in said
    assert "loss 2.900" in said  # smoothed: 0.9 x 3 + 0.1 x 2
    assert "lr 1.0e-02" in said
    assert "tokens/s 12,345" in said
    assert "memory 1.3 GiB" in said
    assert re.search(r"0:0\d left 剩余", said)


def test_samples_are_shown_as_they_come(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, step=0, steps=8) as run_log:
        run_log.write(sample(4, "这件[bold]上衣", "类型#上衣"))
    assert "  类型#上衣\n  -> 这件[bold]上衣\n" in capsys.readouterr().out
    assert read_jsonl(run.samples) == [{"step": 4, "prompt": "类型#上衣", "answer": "这件[bold]上衣"}]
    assert "sample/text_summary" in EventAccumulator(str(run.tensorboard)).Reload().Tags()["tensors"]
