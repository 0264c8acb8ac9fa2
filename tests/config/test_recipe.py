import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import model_validator

from imprint.config import Field, Section, dump, read_overrides, read_recipe
from imprint.messages import UserError


class Prefix(Section):
    method: Literal["prefix"] = Field(description="How to tune.")
    length: int = Field(128, ge=1, description="How many virtual tokens.")


class Lora(Section):
    method: Literal["lora"] = Field(description="How to tune.")
    rank: int = Field(8, ge=1, description="The rank.")


class Train(Section):
    batch_size: int = Field(16, ge=1, description="Rows per step.")
    learning_rate: float = Field(2e-2, gt=0, description="Step size.")
    epochs: int | Literal["auto"] = Field("auto", description="Rounds over the data.")
    loss_average: Literal["token", "micro_batch"] = Field("token", description="How the loss is averaged.")
    probes: tuple[str, ...] = Field((), description="Prompts shown during the run.")
    range: tuple[int, int] = Field((1, 2), description="From and to.")

    @model_validator(mode="after")
    def _even(self) -> "Train":
        if self.batch_size == 7:
            raise ValueError("batch_size 7 brings bad luck; choose another one")
        return self


class Recipe(Section):
    data: Path = Field(description="The file of training rows.")
    tune: Annotated[Prefix | Lora, Field(discriminator="method")] = Field(Prefix(method="prefix"), description="What is trained.")
    train: Train = Field(Train(), description="The run.")
    stages: tuple[Annotated[Prefix | Lora, Field(discriminator="method")], ...] = Field((), description="More.")
    note: str | None = Field(None, description="Anything.")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def read(recipe: Path, text: str, *overrides: str) -> Recipe:
    recipe.write_text(text, encoding="utf-8")
    return read_recipe(recipe, overrides, Recipe)


def complaint(recipe: Path, text: str, *overrides: str) -> list[str]:
    """The English lines of the error, with the folder of the recipe cut off; as many Chinese ones follow them."""
    with pytest.raises(UserError) as error:
        read(recipe, text, *overrides)
    return english(str(error.value).replace(f"{recipe.parent}/", ""))


def english(message: str) -> list[str]:
    lines = message.splitlines()
    assert len(lines) % 2 == 0
    return lines[: len(lines) // 2]


def test_a_recipe_and_its_overrides_become_a_section(recipe: Path) -> None:
    result = read(
        recipe, "data: rows.jsonl\ntune: {method: lora, rank: 4}\n", "tune.rank=16", "train.learning_rate=2e-2", "note=你好: 世界 # 1"
    )
    assert result == Recipe(data=Path("rows.jsonl"), tune=Lora(method="lora", rank=16), note="你好: 世界 # 1")


def test_numbers_without_a_dot_are_numbers_and_dates_and_yes_are_text(recipe: Path) -> None:
    result = read(recipe, "data: 2024-01-01\nnote: yes\ntrain: {learning_rate: 1e-3, batch_size: 010, probes: [1:30]}\n")
    assert (result.train.learning_rate, result.train.batch_size) == (1e-3, 10)
    assert (result.data, result.note, result.train.probes) == (Path("2024-01-01"), "yes", ("1:30",))


def test_an_integer_is_good_for_a_number(recipe: Path) -> None:
    assert read(recipe, "data: a", "train.learning_rate=1").train.learning_rate == 1.0


def test_the_last_override_wins_and_may_be_a_whole_section(recipe: Path) -> None:
    result = read(recipe, "data: a\ntrain:\n", "train.batch_size=2", "train.batch_size=3", "tune={method: lora}", "note='5'")
    assert (result.train.batch_size, result.tune, result.note) == (3, Lora(method="lora"), "5")


def test_all_problems_are_told_at_once_each_with_its_path(recipe: Path) -> None:
    text = """
tune: {method: prefix, length: 0, prefix: 3}
train:
  batch_sise: 3
  batch_size: "4"
  learning_rate: .nan
  epochs: all
  loss_average: row
  probes: [1]
  range: [1]
stages: [{method: lora, rank: 1.5}, {rank: 1}, {method: lara}]
"""
    allowed = "batch_size, learning_rate, epochs, loss_average, probes, range"
    assert complaint(recipe, text) == [
        "recipe.yaml: data: is missing: The file of training rows.",
        "recipe.yaml: tune.length: must be at least 1, got 0",
        "recipe.yaml: tune.prefix: is unknown; allowed here: method, length",
        'recipe.yaml: train.batch_size: must be an integer, got "4"',
        "recipe.yaml: train.learning_rate: must be a finite number, got NaN",
        'recipe.yaml: train.epochs: must be an integer or auto, got "all"',
        'recipe.yaml: train.loss_average: must be one of token, micro_batch, got "row"',
        "recipe.yaml: train.probes[0]: must be text, got 1",
        "recipe.yaml: train.range[1]: is missing",
        f"recipe.yaml: train.batch_sise: is unknown; did you mean batch_size? allowed here: {allowed}",
        "recipe.yaml: stages[0].rank: must be an integer, got 1.5",
        "recipe.yaml: stages[1].method: is missing: it chooses what the section is about, one of prefix, lora",
        'recipe.yaml: stages[2].method: must be one of prefix, lora, got "lara"',
    ]


def test_a_problem_of_an_override_names_the_override(recipe: Path) -> None:
    overrides = ["train.batch_size=0", "tune={method: lora, rank: x}", "trian.steps=3", "train.learning_rate=fast"]
    assert complaint(recipe, "data: a", *overrides) == [
        'override tune={method: lora, rank: x}: tune.rank: must be an integer, got "x"',
        "override train.batch_size=0: must be at least 1, got 0",
        'override train.learning_rate=fast: must be a number, got "fast"',
        "recipe.yaml: trian: is unknown; did you mean train? allowed here: data, tune, train, stages, note",
    ]


def test_a_rule_of_a_section_is_told_in_its_own_words(recipe: Path) -> None:
    assert complaint(recipe, "data: a\ntrain: {batch_size: 7}") == ["recipe.yaml: train: batch_size 7 brings bad luck; choose another one"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: prefix", 'recipe.yaml: train: must be a section with keys of its own, got "prefix"'),
        ("tune: prefix", 'recipe.yaml: tune: must be a section with keys of its own, got "prefix"'),
        ("note: [1, 2]", "recipe.yaml: note: must be text, got [1, 2]"),
        (f"note: [{'长' * 100}]", f'recipe.yaml: note: must be text, got ["{"长" * 55}...'),
    ],
)
def test_a_value_of_the_wrong_kind_is_shown(recipe: Path, text: str, sentence: str) -> None:
    assert complaint(recipe, f"data: a\n{text}") == [sentence]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "train.batch_size＝1",
            "override train.batch_size＝1: has a full-width ＝. Type =, as in train.steps=200",
        ),
        ("train.batch_size", "override train.batch_size: must look like section.key=value, for instance train.steps=200"),
        ("train..batch_size=1", "override train..batch_size=1: must look like section.key=value, for instance train.steps=200"),
        ("data.path=1", 'override data.path=1: data holds "a", not a section; set it as a whole: data=...'),
        ("tune={method", "override tune={method:1:8: this is not valid YAML: expected ',' or '}', but got '<stream end>'."),
        ("train=" + "[" * 600, f"override train={'[' * 74}...: this is nested too deeply for a recipe."),
        ("train={a: &a [*a]}", "recipe.yaml: cannot be a recipe: a value contains itself, or is nested too deeply."),
        ("note=a\0b", "override note=a\0b: holds a NUL character, which is allowed in no file name and no text of a recipe; remove it"),
        (
            "data=~/a",
            "override data=~/a: begins with ~, which a shell replaces only where a word begins, not after =; write the whole path",
        ),
        ("data=a\0b", "override data=a\0b: holds a NUL character, which is allowed in no file name and no text of a recipe; remove it"),
    ],
)
def test_an_override_that_cannot_be_read_is_told(recipe: Path, override: str, sentence: str) -> None:
    assert complaint(recipe, "data: a", override) == [sentence]


def test_a_nul_character_is_refused_in_a_list_too(recipe: Path) -> None:
    (said,) = complaint(recipe, "data: a", 'train.probes=["a", "b\\0"]')
    assert "holds a NUL character, which is allowed in no file name and no text of a recipe" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: a\ntrain: [1\n", "recipe.yaml:3:1: this is not valid YAML: expected ',' or ']', but got '<stream end>'."),
        ("data: a\ndata: b\n", "recipe.yaml:2:1: this is not valid YAML: the key 'data' occurs twice."),
        ("- data\n", 'recipe.yaml: must hold `key: value` lines, got ["data"]'),
        ("data: \x00", "recipe.yaml: this is not valid YAML: unacceptable character"),
        ("data: &a [*a]\n", "recipe.yaml: cannot be a recipe: a value contains itself, or is nested too deeply."),
        ("data: " + "[" * 300 + "]" * 300, "recipe.yaml: is nested too deeply for a recipe"),
    ],
)
def test_a_text_that_is_no_recipe_is_told(recipe: Path, text: str, sentence: str) -> None:
    assert complaint(recipe, text)[0].startswith(sentence)


def test_a_recipe_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "gb.yaml").write_bytes("数据: 一".encode("gb18030"))
    for name, sentence in {"absent.yaml": "there is no such recipe", ".": "this is a folder", "gb.yaml": "this is not UTF-8 text"}.items():
        with pytest.raises(UserError, match=re.escape(f"{tmp_path / name}: {sentence}")):
            read_recipe(tmp_path / name, [], Recipe)
    for name in ("gb.yaml/recipe.yaml", "x" * 300):
        with pytest.raises(UserError, match=re.escape(f"{tmp_path / name}: cannot be read: ")):
            read_recipe(tmp_path / name, [], Recipe)


def test_a_number_of_thousands_of_digits_is_told_and_not_shown_whole(recipe: Path) -> None:
    (line,) = complaint(recipe, "data: a", "train.batch_size=" + "9" * 5000)
    assert line.startswith(f"override train.batch_size={'9' * 63}...: this is not valid YAML: ")


@pytest.mark.parametrize(
    "note", ["yes", "1e-3", "010", "", "null", "2024-01-01", "多行\n文本\n", "'quoted'", "1:30", "a: b # c", "~", "0x1F"]
)
def test_what_was_dumped_reads_back_equal(recipe: Path, note: str) -> None:
    section = Recipe(
        data=Path("数据/rows.jsonl"), note=note, train=Train(learning_rate=1e-5, probes=(note, "你好")), stages=(Lora(method="lora"),)
    )
    assert read(recipe, dump(section)) == section
    assert "数据" in dump(section)


def test_a_knob_of_another_section_is_told_where_it_is(recipe: Path) -> None:
    (message,) = complaint(recipe, "data: a", "batch_size=4")
    assert message.startswith("override batch_size=4: is unknown; did you mean train.batch_size? allowed here: data, tune,")


def test_overrides_alone_make_a_section_and_are_told_when_wrong() -> None:
    assert read_overrides(["batch_size=2", "epochs=3"], Train) == Train(batch_size=2, epochs=3)
    with pytest.raises(UserError) as error:
        read_overrides(["batch_size=0", "epoch=3"], Train)
    assert english(str(error.value)) == [
        "override batch_size=0: must be at least 1, got 0",
        "override epoch=3: is unknown; did you mean epochs? allowed here: batch_size, learning_rate, epochs, loss_average, probes, range",
    ]
    with pytest.raises(UserError, match=r"^data: is missing: The file of training rows\.\n"):
        read_overrides([], Recipe)


@pytest.mark.parametrize("name", ["rows.jsonl", "shop.CSV", "shop.xlsx", "shop.arrow"])
def test_a_file_of_rows_in_the_place_of_a_recipe_is_told_where_it_goes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'{"question": "a", "answer": "b"}\n' * 2)
    with pytest.raises(UserError, match=r"is a file of rows, not a recipe\. Give it behind a recipe as data\.train="):
        read_recipe(tmp_path / name, [], Train)
