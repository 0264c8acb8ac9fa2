from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import imprint
import imprint.training.general_answers as general_answers
from imprint.config import read_recipe
from imprint.data.general_rows import answered_row
from imprint.files.atomic import append_jsonl, read_jsonl, write_jsonl
from imprint.inference.generate import generate
from imprint.inference.request import Request
from imprint.inference.sampling import NotFiniteError
from imprint.messages import UserError
from imprint.model import Model
from imprint.quant.names import FORMAT_NAMES
from imprint.runs import RunFolder
from imprint.training.general_answers import Questions, answer_questions
from imprint.training.recipe import Recipe
from tests.tiny import QUESTION_TEXTS, QUESTIONS, tiny_questions
from tests.tinyrun import losses, tiny_recipe, tiny_run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose general questions the base answers."""
    file = tiny_recipe(tmp_path)
    mix = f"mix_general: {{rows: {tiny_questions(tmp_path / 'questions.txt')}, answers: base, temperature: 0}}"
    file.write_text(file.read_text(encoding="utf-8").replace("max_target_length: 24", f"max_target_length: 24, {mix}"), encoding="utf-8")
    return file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions were asked in each batch."""
    counts: list[int] = []

    def counting(model: Model, requests: Sequence[Request]) -> list[list[int]]:
        counts.append(len(requests))
        return generate(model, requests)

    monkeypatch.setattr(general_answers, "generate", counting)
    return counts


def kept(run: RunFolder) -> list[dict[str, Any]]:
    """The kept answers."""
    return list(read_jsonl(run.general_answers)[1:])


def test_the_base_answers_before_training_and_its_answers_are_what_is_learned(
    recipe: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(recipe, "own")
    said = capsys.readouterr().out
    assert "9 general questions are answered by the base itself" in said
    assert "cut at data.max_target_length=24 and learned without an end" in said
    base = imprint.load(recipe.parent / "base", device="cpu")
    first = kept(run)[0]
    assert [line["row"] for line in kept(run)] == list(range(QUESTIONS))
    assert "颜色0" in first["prompt"]
    assert [first["ids"]] == base.generate([base.prompt("颜色0")], 23)
    assert asked == [QUESTIONS]
    tiny_run(recipe, "own")
    assert asked == [QUESTIONS]  # a resumed run asks nothing again


def test_a_killed_run_goes_on_with_the_questions_that_have_no_answer_yet(
    recipe: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_run(recipe, "whole")
    monkeypatch.setattr(general_answers, "BATCH_ROWS", 2)
    append = append_jsonl

    def killed(path: Path, value: object) -> None:
        append(path, value)
        if len(read_jsonl(path)) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(general_answers, "append_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(recipe, "killed")
    monkeypatch.setattr(general_answers, "append_jsonl", append)
    asked.clear()
    run = tiny_run(recipe, "killed")
    assert sum(asked) == QUESTIONS - 5
    assert kept(run) == kept(whole)
    assert losses(run) == losses(whole)


def test_a_run_asks_only_what_its_steps_take_and_a_longer_one_goes_on_with_the_same(recipe: Path, asked: list[int]) -> None:
    few = ["data.mix_general.share=0.05", "train.steps=4", "train.batch_size=20"]
    run = tiny_run(recipe, "few", *few)
    assert sum(asked) == len(kept(run)) == 4  # one in each of four epochs
    before = run.general_answers.read_bytes()
    tiny_run(recipe, "few", *few[:1], few[2], "train.steps=6")
    assert sum(asked) == 4
    assert run.general_answers.read_bytes() == before


def test_a_run_that_has_learned_refuses_other_questions_and_keeps_its_answers(recipe: Path) -> None:
    run = tiny_run(recipe, "begun", "train.steps=2")
    before = run.general_answers.read_bytes()
    tiny_questions(recipe.parent / "questions.txt", 8)
    with pytest.raises(UserError, match=r"general-answers\.jsonl: these answers.* are to other general questions or of another base\. Put"):
        tiny_run(recipe, "begun", "train.steps=3")
    assert run.general_answers.read_bytes() == before
    tiny_questions(recipe.parent / "questions.txt")
    lines = read_jsonl(run.general_answers)
    write_jsonl(run.general_answers, [*lines[:1], *({**line, "ids": [5, *line["ids"][1:]]} for line in lines[1:])])
    with pytest.raises(UserError, match="is not what this run began with"):  # the answers are part of the digest of the rows
        tiny_run(recipe, "begun", "train.steps=3")


def test_answers_of_another_base_or_other_settings_are_given_anew_before_training(recipe: Path, asked: list[int]) -> None:
    run = tiny_run(recipe, "anew")
    fresh = RunFolder(recipe.parent / "fresh")
    lines = read_jsonl(run.general_answers)
    for spoiled in (
        [{**lines[0], "base": [1.0]}, *lines[1:]],
        [{**lines[0], "base": None}, *lines[1:]],
        [{**lines[0], "bits": 8}, *lines[1:]],
        [{**lines[0], "temperature": 1}, *lines[1:]],
        [5, *lines[1:]],
        [lines[0], *({**line, "ids": [10**9]} for line in lines[1:])],
        [lines[0], *({**line, "row": line["row"] + 100} for line in lines[1:])],
    ):
        write_jsonl(fresh.general_answers, spoiled)
        asked.clear()
        model = imprint.load(recipe.parent / "base", device="cpu")
        questions = Questions([model.prompt(question) for question in QUESTION_TEXTS], QUESTIONS, 23, 0.0, 0)
        assert len(answer_questions(questions, fresh, model)) == QUESTIONS
        assert sum(asked) == QUESTIONS
        assert read_jsonl(fresh.general_answers) == lines


def test_an_answer_without_an_end_is_learned_without_one_and_an_empty_one_as_its_end() -> None:
    assert answered_row([1, 2], [3, 4], None).labels == (-100, -100, 3, 4)
    assert answered_row([1, 2], [3, 4], 9).labels == (-100, -100, 3, 4, 9)
    assert answered_row([1, 2], [], 9).labels == (-100, -100, 9)


def test_a_temperature_samples_from_the_seed_of_the_run(recipe: Path) -> None:
    warm = ["data.mix_general.temperature=1", "train.steps=1"]
    one, again, other = (tiny_run(recipe, name, *warm, f"train.seed={seed}") for name, seed in (("one", 0), ("again", 0), ("other", 1)))
    assert kept(one) == kept(again)
    assert [line["ids"] for line in kept(one)] != [line["ids"] for line in kept(other)]
    with pytest.raises(UserError, match=r"data\.mix_general\.temperature=0\.5: is only for answers that the base gives"):
        tiny_run(recipe, "not", "data.mix_general.temperature=0.5", "data.mix_general.answers=rows")


def test_the_answers_of_a_file_are_not_read_and_a_limit_leaves_room_for_those_of_the_base(recipe: Path, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text('{"content": "颜色", "summary": "' + "白色" * 200 + '"}\n{"content": "红色"}\n', encoding="utf-8")
    run = tiny_run(recipe, "room", f"data.mix_general.rows={general}", "data.max_target_length=null", "train.steps=1")
    assert len(kept(run)) == 2
    data = read_recipe(run.config, [], Recipe).data
    assert data.max_target_length == 64


@pytest.mark.parametrize(
    "knobs",
    [
        ["tune={method: lora, rank: 2}"],
        ["tune={method: full}", "optimizer.learning_rate=0.001"],
        ["model.quantize=8", "tune={method: lora, rank: 2}"],
        ["model.quantize=4"],
        ["model.quantize=int4-g128"],
        ["data.truncation=original"],
    ],
)
def test_every_method_learns_them_also_on_quantized_weights(recipe: Path, knobs: list[str]) -> None:
    run = tiny_run(recipe, "method", *knobs, "train.steps=1")
    names = {f"model.quantize={name}": name for name in FORMAT_NAMES}
    name = next((names[knob] for knob in knobs if "quantize" in knob), None)
    base = imprint.load(recipe.parent / "base", device="cpu", quantize=name)
    assert [kept(run)[0]["ids"]] == base.generate([base.prompt("颜色0")], 23)
    assert kept(run)[0]["ids"]


def test_memory_that_runs_out_halves_the_batch_and_a_network_without_numbers_is_told(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept(tiny_run(recipe, "whole", "train.steps=1"))

    def small(model: Model, requests: Sequence[Request]) -> list[list[int]]:
        if len(requests) > 2:
            raise torch.OutOfMemoryError
        return generate(model, requests)

    monkeypatch.setattr(general_answers, "generate", small)
    assert kept(tiny_run(recipe, "small", "train.steps=1")) == whole

    def broken(_model: Model, requests: Sequence[Request]) -> list[list[int]]:
        raise NotFiniteError(0, len(requests))

    monkeypatch.setattr(general_answers, "generate", broken)
    with pytest.raises(UserError, match=r"data\.mix_general\.answers, general row \d: prompt 1 of 9"):
        tiny_run(recipe, "broken")
