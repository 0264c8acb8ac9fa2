import json
from pathlib import Path

import pytest

import imprint
from imprint.data.encode import encode_messages
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.export.verify import (
    FALLBACK_PROMPTS,
    GreedyAnswer,
    encode_prompts,
    greedy_answers,
    refuse_changed_answers,
    verification_samples,
)
from imprint.loading.load import load_model
from imprint.loading.run import RunConfig
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.templates import Message
from tests.bases import base_of
from tests.tinyrun import tiny_recipe, tiny_run

ASKED = [Sample("你好", "", None, location=""), Sample("再见", "", None, location="")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    folder = tmp_path_factory.mktemp("run")
    path = tiny_run(tiny_recipe(folder), "run", "train.steps=1").path
    found = resolve_source(path).run
    assert found is not None
    return path, found


def answers_from(*texts: str) -> list[GreedyAnswer]:
    return [GreedyAnswer(tuple(map(ord, text)), text) for text in texts]


def test_the_same_answers_pass() -> None:
    refuse_changed_answers(ASKED, answers_from("你好！", "再见。"), answers_from("你好！", "再见。"), rounding=["dtype"])
    with pytest.raises(UserError, match="answers 1 of 2 questions differently"):
        refuse_changed_answers(ASKED, answers_from("你好！", "再见。"), answers_from("你好！", "再见"), rounding=["dtype"])


def test_the_first_difference_is_shown() -> None:
    with pytest.raises(UserError) as caught:
        refuse_changed_answers(ASKED, answers_from("你好！", "再见。"), answers_from("你好？", "再见！"), rounding=["dtype", "proof_dtype"])

    assert 'answers 2 of 2 questions differently, so nothing was written. First: "你好", after 2 equal tokens' in str(caught.value)
    assert 'before "你好！", after "你好？". Rounding to 16 bit can do this' in str(caught.value)
    assert "dtype=float32 writes without rounding and proof_dtype=float32 compares without rounding." in str(caught.value)
    assert "可用 dtype=float32 和 proof_dtype=float32 排除舍入。" in str(caught.value)


def test_only_knobs_that_the_export_takes_are_advised() -> None:
    with pytest.raises(UserError) as caught:
        refuse_changed_answers(ASKED[:1], answers_from("好"), answers_from("坏"), rounding=["proof_dtype"])
    assert ": proof_dtype=float32 compares without rounding." in str(caught.value)
    assert " dtype=float32" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        refuse_changed_answers(ASKED[:1], answers_from("好"), answers_from("坏"), rounding=[])
    assert "float32" not in str(caught.value)
    assert "compare other questions (--prompts FILE)" in str(caught.value)


def test_held_out_rows_are_asked_and_questions_of_our_own_where_they_are_gone(run: tuple[Path, RunConfig], tmp_path: Path) -> None:
    _path, trained = run
    gone = trained.model_copy(update={"data": trained.data_section.model_copy(update={"train": tmp_path / "gone.jsonl"})})

    assert verification_samples(trained, 2)[0].query.startswith("类型#")
    assert [one.query for one in verification_samples(gone, 3)] == list(FALLBACK_PROMPTS[:3])


def test_rows_with_tools_are_asked_where_the_template_writes_tools(run: tuple[Path, RunConfig], tmp_path: Path) -> None:
    _path, trained = run
    turns = [{"role": "user", "content": "冷吗？"}, {"role": "assistant", "metadata": "天气", "content": "{}"}]
    rows = tmp_path / "tools.jsonl"
    rows.write_text(json.dumps({"tools": [{"name": "天气"}], "messages": turns}) + "\n", encoding="utf-8")
    known = trained.model_copy(update={"data": DataSection(train=rows, dev=rows)})

    assert [one.query for one in verification_samples(known, 2, tools=True)] == ["冷吗？"]
    assert [one.query for one in verification_samples(known, 2)] == list(FALLBACK_PROMPTS[:2])


def test_a_row_with_tools_is_asked_with_its_tools_and_earlier_calls(run: tuple[Path, RunConfig], tmp_path: Path) -> None:
    _path, trained = run
    template = imprint.load(base_of("ChatGLM3-6B", tmp_path / "glm3"), device="cpu").template
    turns = [{"role": "user", "content": "冷吗？"}, {"role": "assistant", "metadata": "天气", "content": "{}"}]
    turns += [{"role": "observation", "content": "冷"}, {"role": "assistant", "content": "冷。"}]
    rows = tmp_path / "tools.jsonl"
    rows.write_text(json.dumps({"tools": [{"name": "天气"}], "messages": turns}) + "\n", encoding="utf-8")
    known = trained.model_copy(update={"data": DataSection(train=rows, dev=rows, max_source_length=400)})
    samples = verification_samples(known, 2, tools=True)
    assert len(samples) == 2
    for sample, ids in zip(samples, encode_prompts(template, known, samples), strict=True):
        assert ids == encode_messages(template, sample.messages, max_source_length=400).ids
        assert len(ids) > len(encode_messages(template, [Message("user", sample.query)], max_source_length=400).ids)


def test_prompts_are_cut_as_the_run_cuts_and_answers_have_ids_and_text(run: tuple[Path, RunConfig]) -> None:
    path, trained = run
    model = load_model(resolve_source(path))

    (ids,) = encode_prompts(model.template, trained, [Sample("白色" * 200, "", None, location="")])
    (answer,) = greedy_answers(model, trained, ASKED[:1])

    assert len(ids) == trained.data_section.max_source_length
    assert model.tokenizer.decode(answer.ids) == answer.text
