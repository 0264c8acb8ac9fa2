import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import ValidationError

from imprint.config import Field, Section
from imprint.config.problems import Problem, explain_errors, quote_value, unknown_key
from imprint.messages import Bilingual


class Lora(Section):
    method: Literal["lora"] = Field(description="How.")
    rank: int = Field(8, ge=1, le=64, description="The rank.")


class Full(Section):
    method: Literal["full"] = Field(description="How.")


class Recipe(Section):
    tune: Annotated[Lora | Full, Field(discriminator="method")] | None = Field(None, description="What is trained.")
    share: float = Field(0.5, gt=0, lt=1, description="A share.")
    size: int | Literal["auto"] = Field(8, multiple_of=8, description="A size.")
    name: str = Field("ab", min_length=2, max_length=3, description="A name.")
    steps: tuple[int, ...] = Field((1,), min_length=1, max_length=2, description="Steps.")
    limits: dict[str, int] = Field({}, description="Limits.")
    resume: bool = Field(True, description="Go on.")


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"share": 0}, "share", "must be above 0, got 0"),
    ({"share": 1.0}, "share", "must be below 1, got 1.0"),
    ({"size": 12}, "size", "must be a multiple of 8, got 12"),
    ({"name": "a"}, "name", 'must be at least 2 characters long, got "a"'),
    ({"name": "abcd"}, "name", 'must be at most 3 characters long, got "abcd"'),
    ({"steps": []}, "steps", "must be at least 1 long, got []"),
    ({"steps": [1, 2, 3]}, "steps", "must be at most 2 long, got [1, 2, 3]"),
    ({"steps": 3}, "steps", "must be a list, got 3"),
    ({"limits": {"a": "b"}}, "limits.a", 'must be an integer, got "b"'),
    ({"limits": 1}, "limits", "must be a section with keys of its own, got 1"),
    ({"resume": "yes"}, "resume", 'must be true or false, got "yes"'),
    ({"resume": None}, "resume", "must be true or false, got null"),
    ({"tune": {"method": "lora", "rank": 65}}, "tune.rank", "must be at most 64, got 65"),
    ({"tune": {"method": "lora", "rank": 10**15}}, "tune.rank", "must be at most 64, got 1000000000000000"),
    ({"tune": {"method": "lora", "lora": 1}}, "tune.lora", "is unknown; allowed here: method, rank"),
    ({"tune": {"method": "lara"}}, "tune.method", 'must be one of lora, full, got "lara"'),
    ({"tune": {}}, "tune.method", "is missing: it chooses what the section is about, one of lora, full"),
]


@pytest.mark.parametrize(("values", "path", "text"), CASES)
def test_each_problem_says_what_is_allowed_and_what_was_found(values: dict[str, Any], path: str, text: str) -> None:
    with pytest.raises(ValidationError) as error:
        Recipe.model_validate_json(json.dumps(values))
    (problem,) = explain_errors(error.value.errors(), Recipe)
    assert (problem.path, problem.text.english) == (path, text)
    assert any("\u4e00" <= character <= "\u9fff" for character in problem.text.chinese)


def test_a_knob_of_another_choice_says_with_which_it_is_there() -> None:
    class Chosen(Section):
        tune: Lora | Full = Field(discriminator="method", description="What is trained.")

    with pytest.raises(ValidationError) as error:
        Chosen.model_validate({"tune": {"method": "full", "rank": 8}})
    (problem,) = explain_errors(error.value.errors(), Chosen)
    assert problem == Problem(
        "tune.rank",
        Bilingual("exists only with tune.method=lora; allowed here: method", "仅在 tune.method=lora 时可用；此处可用：method"),
    )


def test_a_long_value_is_cut() -> None:
    assert quote_value("长" * 100) == '"' + "长" * 56 + "..."
    assert quote_value({"a": None}) == '{"a": null}'


def test_an_unknown_key_gets_the_closest_known_one() -> None:
    assert unknown_key("lenght", ["method", "length"]).english == "is unknown; did you mean length? allowed here: method, length"
    assert unknown_key("zzz", ["method", "length"]).english == "is unknown; allowed here: method, length"
    assert (
        unknown_key("steps", ["train", "stage"], ["train.steps"]).english
        == "is unknown; did you mean train.steps? allowed here: train, stage"
    )


def test_of_thousands_of_problems_a_hundred_are_explained() -> None:
    with pytest.raises(ValidationError) as error:
        Recipe.model_validate({f"knob{number}": 1 for number in range(15_000)})

    problems = explain_errors(error.value.errors(), Recipe)

    assert len(problems) == 101
    assert problems[-1] == Problem("", Bilingual("and 14,900 more problems", "另有 14,900 个问题"))
