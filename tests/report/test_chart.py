import re

from imprint.events import Event
from imprint.messages import Bilingual
from imprint.report.chart import MAX_POINTS, chart, line_from_log
from tests.logged import evaluation, step

LOG: list[Event] = [evaluation(0, 3.0), step(1, 2.0), step(2, None), step(2, float("nan"))]


def test_a_line_leaves_out_what_is_not_finite_and_takes_the_later_of_two() -> None:
    assert line_from_log([*LOG, step(1, 1.5), step(3, 1.0)], "loss", Bilingual("a", "b"), "base").points == (
        (1, 1.5),
        (3, 1.0),
    )
    assert line_from_log(LOG[:1], "memory_gib", Bilingual("a", "b"), "up").points == ()


def test_a_long_line_is_thinned_and_keeps_its_end() -> None:
    line = line_from_log([step(number, 1.0) for number in range(5 * MAX_POINTS + 3)], "loss", Bilingual("a", "b"), "base")
    assert len(line.points) <= MAX_POINTS
    assert line.points[-1][0] == 5 * MAX_POINTS + 2


def test_the_chart_stays_inside_its_frame_and_says_its_bounds() -> None:
    log = [step(number, 5.0 - number / 10) for number in range(1, 21)]
    figure = chart(
        Bilingual("Loss", "损失"),
        [line_from_log(log, "loss", Bilingual("training", "训练"), "base", dots=True)],
        lambda value: f"{value:.1f}",
    )
    numbers = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", figure)]
    assert all(0 <= x <= 1000 and 0 <= y <= 240 for x, y in numbers)
    assert len(numbers) == 20
    assert figure.count('class="dot base"') == 20
    assert ">4.9</span>" in figure
    assert ">3.0</span>" in figure
    assert "step 20" in figure


def test_a_line_that_never_changes_and_no_line_at_all_are_no_trouble() -> None:
    flat = chart(Bilingual("a", "b"), [line_from_log([step(1, 0.0)], "loss", Bilingual("a", "b"), "up")], str)
    assert "polyline" in flat
    assert chart(Bilingual("a", "b"), [line_from_log([], "x", Bilingual("a", "b"), "up")], str) == ""
