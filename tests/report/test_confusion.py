from pathlib import Path

import pytest
from matplotlib.image import imread

from imprint.report.confusion import Panel, draw_confusion_matrices

COUNTS = [[8, 1, 0], [2, 7, 0]]


@pytest.mark.parametrize("labels", [("good", "bad"), ("好评", "差评"), ("a very long label indeed", "b")])
def test_every_classifier_has_its_matrix(labels: tuple[str, str], tmp_path: Path) -> None:
    widths = []
    for count in (1, 3):
        draw_confusion_matrices([Panel(f"model {place}", COUNTS) for place in range(count)], labels, tmp_path / "out.png")
        picture = imread(tmp_path / "out.png")
        widths.append(picture.shape[1])
        assert picture.std() > 0.02
    assert widths[1] > 2 * widths[0]
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


def test_answers_that_are_no_label_have_a_column_where_there_are_any(tmp_path: Path) -> None:
    draw_confusion_matrices([Panel("model", COUNTS)], ("a", "b"), tmp_path / "none.png")
    draw_confusion_matrices([Panel("model", [[8, 1, 3], [2, 7, 0]])], ("a", "b"), tmp_path / "some.png")
    assert (tmp_path / "none.png").read_bytes() != (tmp_path / "some.png").read_bytes()


def test_many_labels_are_told_by_colour_alone(tmp_path: Path) -> None:
    labels = [f"label {place}" for place in range(40)]
    counts = [[int(place == other) for other in range(41)] for place in range(40)]
    draw_confusion_matrices([Panel("model", counts)], labels, tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size < 60_000
