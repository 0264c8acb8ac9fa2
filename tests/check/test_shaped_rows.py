import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from imprint.check.shaped_rows import CHECKING, read_progress, rows_with_shapes
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.data.shapes import Columns
from imprint.data.writers import write_samples
from imprint.messages import Bilingual, UserError
from imprint.progress import Progress
from tests.check.rows import SOUND, write


def test_each_file_of_a_folder_has_its_own_shape(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", SOUND[:1])
    write(tmp_path / "b.jsonl", ["no json", {"question": "问", "answer": "答"}, {"x": 1}])
    found = [(shape.kind, shape.prompt) for _location, _row, shape in rows_with_shapes(str(tmp_path), Columns())]
    assert found == [("named", "content"), ("named", "content"), ("pair", "question"), ("pair", "question")]


def test_rows_come_with_their_places_and_bad_ones_in_their_turn(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [SOUND[0], "[1]", "", SOUND[1]])
    rows = list(rows_with_shapes(file, Columns()))
    assert [location for location, _row, _shape in rows] == [f"{file}:1", f"{file}:2", f"{file}:4"]
    assert isinstance(rows[1][1], BadRowError)


def test_the_bar_counts_the_bytes_and_tells_the_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", SOUND * 50)
    out = io.StringIO()
    size = math.ceil((tmp_path / "a.jsonl").stat().st_size / 1000)
    with Progress(Bilingual("checking", "检查"), size, "kB", console=Console(file=out, width=200)) as progress:
        assert len(list(rows_with_shapes(file, Columns(), progress))) == 500
    assert out.getvalue().startswith(f"checking 检查: {size}/{size}  ")
    assert "rows 500" in out.getvalue()


def test_the_last_line_of_a_bar_tells_all_rows_of_a_small_file_and_of_a_workbook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workbook = tmp_path / "a.xlsx"
    write_samples(workbook, [Sample("问", "答", None, "a:1")] * 30, history=False, system=False)
    for file, rows in ((write(tmp_path / "a.jsonl", SOUND[:2]), 2), (str(workbook), 30)):
        with read_progress(file, CHECKING) as progress:
            assert len(list(rows_with_shapes(file, Columns(), progress))) == rows
        output = capsys.readouterr().out.replace("\n", " ")
        assert f"rows {rows} " in output
        done, _, total = output.removeprefix(f"checking 检查 {file}: ").partition("  ")[0].partition("/")
        assert done == total != "0"


def test_rows_that_must_be_repaired_decide_on_the_shape_too(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ["# rows", "{'prompt': '问', 'response': '答'}", '{"prompt": "问", "response": "答"},'])
    assert [shape.prompt for _location, _row, shape in rows_with_shapes(file, Columns())] == ["content", "prompt", "prompt"]


def test_a_file_that_is_not_there_is_reported() -> None:
    with pytest.raises(UserError, match="there is no such file"):
        list(rows_with_shapes("nowhere.jsonl", Columns()))
    with pytest.raises(UserError, match="cannot be read"):
        read_progress("nowhere.jsonl", CHECKING)
