import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from imprint.messages import Bilingual
from imprint.progress import JobProgress, Progress, clock

TRAINING = Bilingual("training", "训练")
CHECKING = Bilingual("checking", "检查")


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def run(console: Console, steps: int, seconds_each: float, *, start: int = 0) -> None:
    now = Clock()
    with Progress(TRAINING, 100, "step", start=start, console=console, now=now) as progress:
        for step in range(steps):
            now.seconds += seconds_each
            progress.advance(fields={"loss": f"{step / 4:.2f}"})


def test_a_log_file_gets_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    out = io.StringIO()
    run(Console(file=out, width=40), steps=9, seconds_each=2.5)
    assert out.getvalue().splitlines() == [
        "training 训练: 4/100  loss 0.75  2.5 s/step  0:10 elapsed 已用  4:00 left 剩余",
        "training 训练: 8/100  loss 1.75  2.5 s/step  0:20 elapsed 已用  3:50 left 剩余",
        "training 训练: 9/100  loss 2.00  2.5 s/step  0:22 elapsed 已用  3:48 left 剩余",
    ]


def test_the_rate_of_a_resumed_job_counts_only_its_own_work() -> None:
    out = io.StringIO()
    run(Console(file=out), steps=10, seconds_each=0.5, start=80)
    assert out.getvalue() == "training 训练: 90/100  loss 2.25  2.0 step/s  0:05 elapsed 已用  0:05 left 剩余\n"


def test_a_terminal_gets_a_bar_with_the_same_words() -> None:
    out = io.StringIO()
    run(Console(file=out, force_terminal=True, width=120), steps=10, seconds_each=0.5)
    assert "10/100  loss 2.25  2.0 step/s  0:05 elapsed 已用  0:45 left 剩余" in out.getvalue()
    assert "━" in out.getvalue()


def last_line(out: io.StringIO) -> str:
    """What stands on the terminal at the end, without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).splitlines()[-1].split("\r")[-1]


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (140, ("loss 2.251", "lr 1.0e-03", "tokens/s 12,345", "memory 1.2 GiB", "elapsed 已用"), ()),
        (80, ("120/150", "loss 2.251", "2.0 step/s", "0:15 left 剩余"), ("tokens/s", "memory")),
        (60, ("120/150", "loss 2.251", "2.0 step/s", "0:15 left 剩余"), ("lr", "tokens/s", "memory")),
        (40, ("120/150",), ("lr", "tokens/s", "memory", "elapsed")),
    ],
)
def test_a_narrow_terminal_keeps_loss_rate_and_time_left_and_breaks_no_word(
    width: int, shown: tuple[str, ...], left_out: tuple[str, ...]
) -> None:
    out, now = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=width)
    with Progress(TRAINING, 150, "step", console=console, now=now) as progress:
        now.seconds += 60
        fields = {"loss": "2.251", "lr": "1.0e-03", "tokens/s": "12,345", "memory": "1.2 GiB"}
        progress.advance(120, fields)
    last = last_line(out)
    assert [text for text in shown if text not in last] == []
    assert [text for text in left_out if text in last] == []
    assert "…" not in last
    assert cell_len(last.rstrip()) <= width


def test_of_a_long_path_the_end_is_shown() -> None:
    out = io.StringIO()
    with Progress(
        CHECKING, 2, "row", subject="/data/a/very/long/path/to/the/rows.jsonl", console=Console(file=out, force_terminal=True, width=60)
    ):
        pass
    assert "checking …/rows.jsonl" in out.getvalue()


def test_what_is_said_stands_as_it_is() -> None:
    out = io.StringIO()
    with Progress(Bilingual("evaluating", "评估"), 3, "row", console=Console(file=out, width=20)) as progress:
        progress.say("[bold]问：[/bold] 这是一行比终端更长的文字，不应该被折断 {x}")
        progress.advance(3)
    assert out.getvalue().splitlines()[0] == "[bold]问：[/bold] 这是一行比终端更长的文字，不应该被折断 {x}"


def test_before_the_first_unit_the_time_left_is_unknown() -> None:
    parts = JobProgress(done=5, total=10, start=5, seconds=3.0).parts("row", {})
    assert [text for _priority, text in parts] == ["5/10", "0.0 row/s", "0:03 elapsed 已用", "--:-- left 剩余"]


def test_an_interrupted_job_still_shows_how_far_it_came() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(TRAINING, 9, "step", console=Console(file=out)) as progress:
        progress.advance(2)
        raise KeyboardInterrupt
    assert out.getvalue().startswith("training 训练: 2/9")


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (11100, "3:05:00"), (59.6, "1:00")])
def test_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_file_name_with_brackets_is_shown_as_it_is_on_a_terminal() -> None:
    out = io.StringIO()
    with Progress(CHECKING, 2, "row", subject="a[final].jsonl", console=Console(file=out, force_terminal=True, width=80)) as progress:
        progress.advance()
    assert "a[final].jsonl" in out.getvalue()


def test_items_are_counted_as_they_are_asked_for() -> None:
    out = io.StringIO()
    with Progress(Bilingual("encoding", "编码"), 5, "row", console=Console(file=out)) as progress:
        assert list(progress.track(iter("abcde"), every=2)) == list("abcde")
    assert out.getvalue().startswith("encoding 编码: 5/5")


TITLES = [
    (Bilingual("training", "训练"), "step", {"loss": "2.251", "lr": "1.0e-03", "tokens/s": "12,345", "memory": "100.2 GiB"}),
    (Bilingual("answering", "回答"), "row", {"tokens/s": "12,345"}),
    (Bilingual("asking both models", "询问两个模型"), "answer", {}),
    (Bilingual("looking again at", "复查"), "kB", {}),
    (Bilingual("measuring", "测量"), "character", {}),
]


@pytest.mark.parametrize("subject", ["", "a/long/path/to/the/rows.jsonl", "很长的/中文/路径/数据.jsonl"])
@pytest.mark.parametrize(("title", "unit", "fields"), TITLES, ids=[title.english for title, _unit, _fields in TITLES])
@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_on_no_terminal_a_title_or_a_number_is_broken(
    width: int, title: Bilingual, unit: str, fields: dict[str, str], subject: str
) -> None:
    out, now = io.StringIO(), Clock()
    with Progress(title, 1150, unit, subject=subject, console=Console(file=out, force_terminal=True, width=width), now=now) as progress:
        now.seconds += 600
        progress.advance(120, fields)
    line = last_line(out)
    assert cell_len(line.rstrip()) <= width
    assert line.split("…")[0][1:].strip().startswith(title.english)
    assert line.count("…") <= bool(subject)
    assert "120/1150" in line
    texts = JobProgress(120, 1150, 0, 600.0).parts(unit, fields)
    rest = line.partition("120/1150")[2].strip()
    assert all(part in [text for _priority, text in texts] for part in rest.split("  ") if part)
    if width >= 80:
        assert [text for priority, text in texts if priority <= 3 and text not in line] == []
    if width >= 120 or not subject:
        assert (title.chinese in line) == (width >= 80)


def test_where_there_is_room_the_title_is_in_both_languages() -> None:
    out = io.StringIO()
    with Progress(CHECKING, 2, "row", subject="rows.jsonl", console=Console(file=out, force_terminal=True, width=120)) as progress:
        progress.advance(2)
    assert "checking 检查 rows.jsonl" in last_line(out)


def test_where_more_is_done_than_expected_no_time_is_left() -> None:
    assert JobProgress(done=12, total=10, start=0, seconds=3.0).parts("row", {})[-1][1] == "0:00 left 剩余"
