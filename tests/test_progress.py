import io

import pytest
from rich.console import Console

from imprint.progress import JobProgress, Progress, clock


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def run(console: Console, steps: int, seconds_each: float, *, start: int = 0) -> None:
    now = Clock()
    with Progress("training", 100, "step", start=start, console=console, now=now) as progress:
        for step in range(steps):
            now.seconds += seconds_each
            progress.advance(fields={"loss": f"{step / 4:.2f}"})


def test_a_log_file_gets_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    out = io.StringIO()
    run(Console(file=out, width=40), steps=9, seconds_each=2.5)
    assert out.getvalue().splitlines() == [
        "training: 4/100  2.5 s/step  0:10 < 4:00  loss 0.75",
        "training: 8/100  2.5 s/step  0:20 < 3:50  loss 1.75",
        "training: 9/100  2.5 s/step  0:22 < 3:48  loss 2.00",
    ]


def test_the_rate_of_a_resumed_job_counts_only_its_own_work() -> None:
    out = io.StringIO()
    run(Console(file=out), steps=10, seconds_each=0.5, start=80)
    assert out.getvalue() == "training: 90/100  2.0 step/s  0:05 < 0:05  loss 2.25\n"


def test_a_terminal_gets_a_bar_with_the_same_words() -> None:
    out = io.StringIO()
    run(Console(file=out, force_terminal=True, width=120), steps=10, seconds_each=0.5)
    assert "10/100  2.0 step/s  0:05 < 0:45  loss 2.25" in out.getvalue()
    assert "━" in out.getvalue()


def test_what_is_said_stands_as_it_is() -> None:
    out = io.StringIO()
    with Progress("evaluating", 3, "row", console=Console(file=out, width=20)) as progress:
        progress.say("[bold]问：[/bold] 这是一行比终端更长的文字，不应该被折断 {x}")
        progress.advance(3)
    assert out.getvalue().splitlines()[0] == "[bold]问：[/bold] 这是一行比终端更长的文字，不应该被折断 {x}"


def test_before_the_first_unit_the_time_left_is_unknown() -> None:
    assert JobProgress(done=5, total=10, start=5, seconds=3.0).text("row") == "0.0 row/s  0:03 < --:--"


def test_an_interrupted_job_still_shows_how_far_it_came() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress("training", 9, "step", console=Console(file=out)) as progress:
        progress.advance(2)
        raise KeyboardInterrupt
    assert out.getvalue().startswith("training: 2/9")


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (11100, "3:05:00"), (59.6, "1:00")])
def test_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_file_name_with_brackets_is_shown_as_it_is_on_a_terminal() -> None:
    out = io.StringIO()
    with Progress("checking a[final].jsonl", 2, "row", console=Console(file=out, force_terminal=True, width=80)) as progress:
        progress.advance()
    assert "a[final].jsonl" in out.getvalue()


def test_items_are_counted_as_they_are_asked_for() -> None:
    out = io.StringIO()
    with Progress("encoding", 5, "row", console=Console(file=out)) as progress:
        assert list(progress.track(iter("abcde"), every=2)) == list("abcde")
    assert out.getvalue().startswith("encoding: 5/5")
