import re
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.training.run import train
from tests.bases import FAMILIES
from tests.matrix import CELLS, LEARNED, METHODS, PRECISIONS, QUICK, Cell, recipe_of, run

PAGE = Path(__file__).parents[1] / "docs" / "matrix.md"


def named(cell: Cell) -> str:
    return f"{cell.family}-{cell.method}-{cell.precision}".replace(" ", "")


def is_quick(cell: Cell) -> bool:
    return (cell.family, cell.method, cell.precision) in QUICK


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=[] if is_quick(cell) else pytest.mark.long) for cell in CELLS if not cell.refused], ids=named
)
def test_eight_rows_are_learned_by_heart_and_what_is_saved_answers_the_same(cell: Cell, tmp_path: Path) -> None:
    found = run(cell, tmp_path)

    assert found.last < LEARNED * found.first
    assert found.same


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.refused and cell.family in ("ChatGLM-6B", "Qwen3")], ids=named)
def test_a_base_in_few_bits_is_not_tuned_as_a_whole(cell: Cell, tmp_path: Path) -> None:
    recipe, overrides = recipe_of(cell, tmp_path)

    with pytest.raises(UserError, match="bits is not possible: rounded weights take no small updates"):
        train(recipe, overrides)


def test_the_quick_cells_have_every_family_method_and_precision() -> None:
    assert [{cell[place] for cell in QUICK} for place in range(3)] == [set(FAMILIES), set(METHODS), set(PRECISIONS)]


def test_the_page_has_every_cell_and_counts_them() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [line.split("|")[2:-1] for line in page.splitlines() if line.split("|")[1:2] and line.split("|")[1].strip() in FAMILIES]
    refused = sum(cell.refused for cell in CELLS)

    assert [len(row) for row in rows] == [len(METHODS) * len(PRECISIONS)] * len(FAMILIES)
    assert sum(text.strip() == "refused" for row in rows for text in row) == refused
    assert f"{len(CELLS) - refused} cells run, {refused} are refused" in page
    assert all(float(share) < 100 * LEARNED for share in re.findall(r"([\d.]+) %", page))
