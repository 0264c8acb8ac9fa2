"""The loss curve is a real picture of what the log says, at every moment of a run."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from imprint.events import Event
from imprint.messages import UserError
from imprint.report.curve import draw_curves
from tests.logged import evaluation, step

BLUE, VERMILION, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (170, 68, 153)


def events(count: int, *, memory_gib: float = 5.0) -> list[Event]:
    found: list[Event] = []
    for number in range(1, count + 1):
        loss, rate = 3 + 4 * math.exp(-number / count), 0.01 * (1 - number / count)
        found.append(step(number, loss, learning_rate=rate, memory_gib=memory_gib))
        if number % max(1, count // 5) == 0:
            found.append(evaluation(number, loss + 0.2))
    return found


def pixels(path: Path, colour: tuple[int, int, int]) -> int:
    """How many pixels of the picture have exactly this colour."""
    picture = np.round(imread(path)[..., :3] * 255).astype(int)
    return int((picture == np.array(colour)).all(axis=-1).sum())


def test_the_picture_has_its_size_and_every_line(tmp_path: Path) -> None:
    out = tmp_path / "new" / "loss.png"

    draw_curves(events(100), out, title="a run")

    assert out.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert imread(out).shape[:2] == (660, 1080)
    assert min(pixels(out, colour) for colour in (BLUE, VERMILION, GREEN, PURPLE)) > 100


def test_a_quantity_that_was_not_logged_has_no_panel(tmp_path: Path) -> None:
    out = tmp_path / "loss.png"

    draw_curves(events(100, memory_gib=math.nan), out, title="a run")

    assert pixels(out, GREEN) > 100
    assert pixels(out, PURPLE) == 0


@pytest.mark.parametrize("lines", [[], [step(1, 3.0)], [evaluation(5, 2.0)], [step(1, None)]])
def test_a_run_that_has_hardly_begun_has_a_picture_too(tmp_path: Path, lines: list[Event]) -> None:
    out = tmp_path / "loss.png"

    draw_curves(lines, out, title="a run")

    assert imread(out).shape[:2] == (660, 1080)


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    clean, broken = tmp_path / "clean.png", tmp_path / "broken.png"
    lines = events(20)

    draw_curves(lines, clean, title="a run")
    draw_curves([*lines, evaluation(30, math.nan), evaluation(31, math.inf), evaluation(32, None)], broken, title="a run")

    assert clean.read_bytes() == broken.read_bytes()


def test_of_a_step_that_was_logged_twice_the_later_line_counts(tmp_path: Path) -> None:
    once, twice = tmp_path / "once.png", tmp_path / "twice.png"
    lines = events(20)

    draw_curves(lines, once, title="a run")
    draw_curves([step(7, 99.0), *lines], twice, title="a run")

    assert once.read_bytes() == twice.read_bytes()


def test_a_chinese_title_needs_no_font(tmp_path: Path) -> None:
    out = tmp_path / "loss.png"

    draw_curves(events(20), out, title="思想钢印 𓀀")

    assert imread(out).shape[:2] == (660, 1080)


@pytest.mark.parametrize("title", ["a$b$c", "$\\frac$", "$$"])
def test_a_dollar_in_a_title_is_a_dollar(tmp_path: Path, title: str) -> None:
    draw_curves(events(20), tmp_path / "loss.png", title=title)

    assert imread(tmp_path / "loss.png").shape[:2] == (660, 1080)


def test_a_picture_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")

    with pytest.raises(UserError, match=r"loss\.png: cannot be written: a part of the path is a file, not a folder"):
        draw_curves(events(20), tmp_path / "run" / "loss.png", title="a run")


def test_a_refresh_replaces_the_picture_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "loss.png"

    draw_curves(events(20), out, title="a run")
    first = out.read_bytes()
    draw_curves(events(40), out, title="a run")

    assert out.read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_a_refresh_is_cheap_enough_to_happen_during_training(tmp_path: Path) -> None:
    lines = events(5000)
    draw_curves(lines, tmp_path / "loss.png", title="warm-up")

    start = time.process_time()
    draw_curves(lines, tmp_path / "loss.png", title="a run")

    assert time.process_time() - start < 0.5


def test_the_step_that_a_rescue_went_back_to_is_marked(tmp_path: Path) -> None:
    for name, rescues in (("without", ()), ("with", (40, 60))):
        draw_curves(events(100), tmp_path / f"{name}.png", title="a run", rescues=rescues)

    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()
