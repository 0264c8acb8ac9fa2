import io
from pathlib import Path

import pytest
from rich.console import Console

from imprint.data.badrows import BadRowError
from imprint.data.shapes import Columns
from imprint.doctor.reading import bar_for, shaped_rows
from imprint.errors import UserError
from imprint.progress import Progress
from tests.doctor.rows import SOUND, write


def test_each_file_of_a_folder_has_its_own_shape(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", SOUND[:1])
    write(tmp_path / "b.jsonl", ["no json", {"question": "问", "answer": "答"}, {"x": 1}])
    found = [(shape.kind, shape.prompt) for _place, _row, shape in shaped_rows(str(tmp_path), Columns())]
    assert found == [("named", "content"), ("named", "content"), ("pair", "question"), ("pair", "question")]


def test_rows_come_with_their_places_and_bad_ones_in_their_turn(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [SOUND[0], "[1]", "", SOUND[1]])
    rows = list(shaped_rows(file, Columns()))
    assert [place for place, _row, _shape in rows] == [f"{file}:1", f"{file}:2", f"{file}:4"]
    assert isinstance(rows[1][1], BadRowError)


def test_the_bar_counts_the_bytes_and_tells_the_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", SOUND * 50)
    out = io.StringIO()
    with Progress("checking", (tmp_path / "a.jsonl").stat().st_size // 1000, "kB", console=Console(file=out, width=200)) as progress:
        assert len(list(shaped_rows(file, Columns(), progress))) == 500
    size = (tmp_path / "a.jsonl").stat().st_size // 1000
    assert out.getvalue().startswith(f"checking: {size}/{size}  ")
    assert "rows 500" in out.getvalue()


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="there is no such file"):
        list(shaped_rows("nowhere.jsonl", Columns()))
    with pytest.raises(UserError, match="cannot be read"):
        bar_for("nowhere.jsonl", "checking")
