from pathlib import Path

import pytest
from pydantic import TypeAdapter

from imprint.config import describe, read_recipe
from imprint.data.section import AnyData, DataSection, MixSection, TextsSection
from imprint.messages import UserError


def test_every_knob_stands_in_the_docs_with_its_default() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("\n## The columns")[2].partition("\n## ")[0]
    rows = [[cell.strip().replace("`", "") for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("| `")]
    documented = {name: default for names, default in rows for name in names.split(", ")}

    assert documented == {knob.path: knob.default.replace("required", "") for knob in describe(DataSection)}


@pytest.mark.parametrize(
    ("fill", "said"),
    [({"na me": "x"}, "placeholder; use letters"), ({"name": " "}, "must not be empty"), ({"name": "a\0"}, "holds a NUL character")],
)
def test_a_fill_that_cannot_be_is_reported(fill: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataSection(train=Path("rows.jsonl"), fill=fill)


@pytest.mark.parametrize(("kind", "section"), [("rows", DataSection), ("texts", TextsSection)])
def test_kind_chooses_the_section(kind: str, section: type) -> None:
    assert isinstance(TypeAdapter(AnyData).validate_python({"kind": kind, "train": Path("train.jsonl")}), section)


def test_files_are_all_that_is_read() -> None:
    rows = DataSection(train=Path("a.jsonl"), dev=Path("b.jsonl"), mix_general=MixSection(rows="c.jsonl"))
    texts = TextsSection(kind="texts", train=Path("a.txt"))
    assert rows.files == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert texts.files == ["a.txt"]


@pytest.mark.parametrize(("length", "expected"), [(16, 16), (512, 64)])
def test_a_watched_prompt_is_continued_by_at_most_64_tokens(length: int, expected: int) -> None:
    section = TextsSection(kind="texts", train=Path("a.txt"), length=length)
    assert (section.source_prefix, section.max_source_length, section.max_target_length) == ("", length, expected)


@pytest.mark.parametrize("kind", ["rows", "texts"])
@pytest.mark.parametrize("knob", ["dev_share", "dev_seed"])
def test_how_rows_are_held_out_counts_on_the_command_line_over_the_recipes_file(kind: str, knob: str, tmp_path: Path) -> None:
    schema: type[DataSection | TextsSection] = DataSection if kind == "rows" else TextsSection
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"kind: {kind}\ntrain: a.jsonl\ndev: b.jsonl\n")
    assert str(read_recipe(recipe, [], schema).dev) == "b.jsonl"
    assert read_recipe(recipe, [f"{knob}=0"], schema).dev is None
    with pytest.raises(UserError, match=f"override {knob}=0: dev=c.jsonl is given too, and only one of them can count"):
        read_recipe(recipe, [f"{knob}=0", "dev=c.jsonl"], schema)
