from pathlib import Path
from typing import Annotated, Literal

from imprint.config import Field, Knob, Section, describe


class Prefix(Section):
    method: Literal["prefix"] = Field("prefix", description="How to tune.")
    length: int = Field(128, ge=1, le=4096, description="How many virtual tokens.")


class Full(Section):
    method: Literal["full"] = Field("full", description="How to tune.")


class Train(Section):
    steps: int = Field(gt=0, lt=9, description="How long.")
    rate: float = Field(1e-5, gt=0, le=10**6, description="Step size.")
    probes: tuple[str, ...] = Field(("你好",), min_length=1, max_length=3, description="Prompts.")
    pair: tuple[int, float] | None = Field(None, description="A pair.")
    names: dict[str, int] = Field({}, description="Names.")
    resume: bool = Field(True, description="Go on.")


class Recipe(Section):
    data: Path = Field(Path("rows.jsonl"), description="The rows.")
    tune: Annotated[Prefix | Full, Field(discriminator="method")] = Field(Prefix(length=5), description="What is trained.")
    train: Train = Field(Train(steps=3), description="The run.")
    extra: Full | None = Field(None, description="More.")


def test_every_knob_has_its_row() -> None:
    assert describe(Recipe) == [
        Knob("data", "path", "rows.jsonl", "", "The rows."),
        Knob("tune", "section", "", "", "What is trained."),
        Knob("tune.method", "prefix | full", "prefix", "", "How to tune."),
        Knob("tune.length", "integer", "5", "≥ 1, ≤ 4096", "How many virtual tokens.", "tune.method = prefix"),
        Knob("train", "section", "", "", "The run."),
        Knob("train.steps", "integer", "3", "> 0, < 9", "How long."),
        Knob("train.rate", "number", "1.0e-05", "> 0, ≤ 1000000", "Step size."),
        Knob("train.probes", "list of text", "[你好]", "length ≥ 1, length ≤ 3", "Prompts."),
        Knob("train.pair", "[integer, number] | null", "null", "", "A pair."),
        Knob("train.names", "text: integer", "{}", "", "Names."),
        Knob("train.resume", "true | false", "true", "", "Go on."),
        Knob("extra", "section", "null", "", "More."),
        Knob("extra.method", "full", "full", "", "How to tune."),
    ]


def test_a_knob_without_default_is_required() -> None:
    assert describe(Train)[0].default == "required"


def test_sections_within_a_choice_stand_behind_its_own_knobs_and_each_word_is_told() -> None:
    class Inner(Section):
        share: float = Field(0.5, description="How much.")

    class Rows(Section):
        kind: Literal["rows"] = Field("rows", description="Questions.")
        mix: Inner | None = Field(None, description="More.")

    class Texts(Section):
        kind: Literal["texts"] = Field(description="Books.")
        length: int = Field(9, description="How long.")

    class Job(Section):
        data: Annotated[Rows | Texts, Field(discriminator="kind")] = Field(description="What it learns from.")

    knobs = describe(Job)
    assert [knob.path for knob in knobs] == ["data", "data.kind", "data.length", "data.mix", "data.mix.share"]
    assert knobs[1].description == "rows: Questions. texts: Books."
