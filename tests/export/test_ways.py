from pathlib import Path

from imprint.export.ways import METHODS, REFUSED, TARGETS, possible, table


def test_the_table_has_a_row_for_each_target_and_a_cell_for_each_method() -> None:
    lines = table().splitlines()

    assert [line.split("`")[1] for line in lines[2:]] == list(TARGETS)
    assert {line.count("|") for line in lines} == {len(METHODS) + 2}
    assert sum(line.count("refused: ") for line in lines) == len(REFUSED)


def test_what_is_refused_is_not_possible() -> None:
    assert possible("prefix") == ["official", "int8", "int4", "bundle"]
    assert "peft" in possible("lora")
    assert "peft" not in possible("full")


def test_the_page_of_the_docs_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")

    assert table() in page
