from collections.abc import Iterator
from itertools import pairwise

import pytest

import imprint
from imprint.chat.answer import ContextFit, answer, fit_context, truncation_notes
from imprint.chat.conversation import Conversation
from imprint.chat.section import SamplingSection
from imprint.inference.section import DecodingSection
from imprint.model import Model

GREEDY = Conversation(SamplingSection(temperature=0.0))


@pytest.fixture(scope="module")
def model() -> Model:
    return imprint.load("embedded", device="cpu")


def test_an_answer_grows_to_what_the_model_says(model: Model) -> None:
    conversation = GREEDY.ask("你好").answered("你好呀！")
    texts = list(answer(model, conversation.ask("你是谁？")))
    assert texts[-1] == model.chat("你是谁？", [("你好", "你好呀！")], temperature=0)[0]
    assert len(texts) > 3
    assert all(later.startswith(model.template.stable_prefix(text)) for text, later in pairwise(texts))


def test_the_system_text_and_the_settings_reach_the_model(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def stream(_question: str, _history: object, **settings: object) -> Iterator[tuple[str, list[object]]]:
        given.update(settings)
        yield "好", []

    monkeypatch.setattr(model, "stream_chat", stream)
    conversation = Conversation(
        SamplingSection(temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1, stop=("。",), max_length=99, seed=3), "你是诗人。"
    )
    assert list(answer(model, conversation.ask("你好").answered("好").retry())) == ["好"]
    assert given == {
        "max_length": 99,
        "top_p": 0.9,
        "temperature": 0.5,
        "seed": 4,
        "system": "你是诗人。",
        "top_k": 7,
        "repetition_penalty": 1.1,
        "stop": ("。",),
    }
    assert DecodingSection.model_fields.keys() <= given.keys()


def test_the_context_is_what_the_base_was_made_for_unless_more_is_asked_for(model: Model) -> None:
    assert fit_context(model, GREEDY.ask("你好")).max_length == model.network.shape.max_length == 512
    assert fit_context(model, GREEDY.with_setting("max_length", "600").ask("你好")).max_length == 600


def test_old_turns_that_are_no_longer_seen_are_counted_as_the_model_drops_them(model: Model) -> None:
    conversation = GREEDY.with_setting("max_length", "60")
    for number in range(5):
        conversation = conversation.ask(f"第{number}个问题").answered("这是一个回答。")
    fitted = fit_context(model, conversation.ask("你好"))
    assert 0 < fitted.dropped_turns < 5
    assert fitted.prompt_tokens <= 45
    seen = model.prompt("你好", conversation.history[fitted.dropped_turns :])
    assert len(seen) == fitted.prompt_tokens
    assert model.prompt("你好", conversation.history, max_source_length=45) == seen
    assert fit_context(model, GREEDY.ask("你好")).dropped_turns == 0


def test_a_question_that_is_too_long_is_counted_too(model: Model) -> None:
    fitted = fit_context(model, GREEDY.with_setting("max_length", "40").ask("白色的长裙很好看" * 20))
    assert fitted.cut_tokens > 0
    assert fitted.prompt_tokens == 30


def test_what_the_context_was_too_short_for_is_reported() -> None:
    assert truncation_notes(ContextFit(100, 50, 0, 0), 49) == []
    assert truncation_notes(ContextFit(100, 50, 2, 7), 50) == [
        "2 old turns no longer seen / 已略去最早 2 轮",
        "the question lost 7 tokens of its middle / 问题过长，中间略去 7 个词元",
        "ended by max_length=100 / 达到长度上限",
    ]
