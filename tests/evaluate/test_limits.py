from pathlib import Path

import pytest

import imprint
from imprint.data.sample import Sample
from imprint.evaluate.limits import with_limits
from imprint.evaluate.section import EvaluateSection
from imprint.model import Model
from imprint.runs import RunFolder
from tests.evaluate.answers import Ask, scores


@pytest.fixture(scope="module")
def model() -> Model:
    return imprint.load("embedded", device="cpu")


def samples(answer: str) -> list[Sample]:
    return [Sample("类型#上衣" * 40, answer, None, "a:1"), Sample("你好", "", None, "a:2")]


def test_limits_that_nothing_gives_cut_no_prompt_and_leave_room_for_the_references(model: Model) -> None:
    found = with_limits(EvaluateSection(), samples("这件上衣很好看。" * 12), model)
    prompt = model.prompt("类型#上衣" * 40)
    assert found.max_source_length == len(prompt) > 64
    assert found.max_new_tokens == found.max_target_length == len(model.tokenizer.encode("这件上衣很好看。" * 12)) + 1


def test_limits_that_are_given_stay(model: Model) -> None:
    found = with_limits(EvaluateSection(max_source_length=64, max_target_length=20, max_new_tokens=7), samples("好" * 90), model)
    assert (found.max_source_length, found.max_target_length, found.max_new_tokens) == (64, 20, 7)
    assert with_limits(EvaluateSection(truncation="original"), samples("好"), model).max_new_tokens is None  # bounded by max_length
    assert with_limits(EvaluateSection(max_source_length=64), samples(""), model).max_target_length == 64  # no reference to go by


def test_prompt_and_answer_stay_within_what_the_base_reads(model: Model) -> None:
    found = with_limits(EvaluateSection(), samples("这件上衣很好看。" * 300), model)
    assert found.max_source_length is not None
    assert found.max_target_length is not None
    assert found.max_source_length + found.max_target_length == model.network.shape.max_length


def test_the_numbers_stand_in_the_scores_of_a_base(ask: Ask, run: RunFolder, tmp_path: Path) -> None:
    settings = scores(ask(folder=run.path.parent / "talk" / "model", limit=3))["settings"]
    assert settings["max_source_length"] > 4
    assert settings["max_new_tokens"] == settings["max_target_length"] > 4
