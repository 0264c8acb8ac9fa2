from dataclasses import replace

import pytest

from imprint.chat.conversation import ChatTurn, Conversation
from imprint.chat.section import SamplingSection
from imprint.messages import UserError

START = Conversation(SamplingSection(), "你是小印。", has_adapter=True)


def spoken(*turns: tuple[str, str]) -> Conversation:
    """A conversation in which this was said."""
    conversation = START
    for question, answer in turns:
        conversation = conversation.ask(question).answered(answer)
    return conversation


def test_a_conversation_grows_by_what_was_asked_and_answered() -> None:
    conversation = spoken(("你好", "你好呀！"), ("你是谁？", "我是小印。"))
    assert conversation.history == [("你好", "你好呀！"), ("你是谁？", "我是小印。")]
    assert START.history == []


def test_a_question_without_an_answer_is_not_in_the_conversation_but_can_be_asked_again() -> None:
    request = spoken(("你好", "你好呀！")).ask("你是谁？")
    assert request.before.history == request.without_answer.history == [("你好", "你好呀！")]
    again = request.without_answer.retry()
    assert (again.question, again.tries) == ("你是谁？", 0)
    assert again.answered("我是小印。").history == [("你好", "你好呀！"), ("你是谁？", "我是小印。")]
    assert again.answered("我是小印。").pending is None


def test_a_retry_asks_the_last_question_without_its_answer_which_stays_until_there_is_another() -> None:
    conversation = spoken(("你好", "你好呀！"), ("你是谁？", "我是小印。"))
    request = conversation.retry()
    assert request.question == "你是谁？"
    assert request.before.history == [("你好", "你好呀！")]
    assert request.without_answer == conversation
    assert request.answered("小印。").history == [("你好", "你好呀！"), ("你是谁？", "小印。")]


def test_each_retry_draws_with_another_seed_and_always_with_the_same_ones() -> None:
    conversation = START.with_setting("seed", "7")
    first = conversation.ask("你好")
    second = first.answered("一").retry()
    third = second.answered("二").retry()
    assert [request.seed for request in (first, second, third)] == [7, 8, 9]
    assert third.answered("三").ask("再见").seed == 7
    assert START.ask("你好").seed is None


def test_an_answer_that_was_stopped_is_kept_and_marked() -> None:
    assert START.ask("你好").answered("你", stopped=True).turns == (ChatTurn("你好", "你", stopped=True),)


def test_undo_takes_the_last_turn_back_and_clear_all_of_them() -> None:
    conversation = spoken(("你好", "你好呀！"), ("你是谁？", "我是小印。")).with_setting("temperature", "0.5")
    left, turn = conversation.undo()
    assert left.history == [("你好", "你好呀！")]
    assert turn.question == "你是谁？"
    cleared = conversation.clear()
    assert (cleared.history, cleared.system, cleared.settings.temperature) == ([], "你是小印。", 0.5)


def test_where_nothing_was_said_there_is_nothing_to_undo_or_retry() -> None:
    with pytest.raises(UserError, match=r"^/undo: the conversation is empty"):
        START.undo()
    with pytest.raises(UserError, match=r"^/retry: nothing was asked yet"):
        START.retry()


def test_a_prefix_is_switched_where_there_is_one() -> None:
    assert START.with_adapter(on=False).adapter_on is False
    assert START.with_adapter(on=False).with_adapter(on=True).adapter_on
    with pytest.raises(UserError, match=r"^/adapter: there is no adapter to switch"):
        Conversation(SamplingSection()).with_adapter(on=False)


ALLOWED = "temperature, top_p, top_k, repetition_penalty, stop, seed, max_length"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("temperature", "hot", '/set temperature=hot: must be a number, got "hot"'),
        ("temperature", "-1", "/set temperature=-1: must be at least 0, got -1"),
        ("top_p", "0", "/set top_p=0: must be above 0, got 0"),
        ("top_p", "1.5", "/set top_p=1.5: must be at most 1, got 1.5"),
        ("max_length", "2", "/set max_length=2: must be at least 3, got 2"),
        ("seed", "1.5", "/set seed=1.5: must be an integer, got 1.5"),
        ("temprature", "1", f"/set temprature=1: is unknown; did you mean temperature? allowed here: {ALLOWED}"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_the_words_of_the_recipe(name: str, value: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        START.with_setting(name, value)
    english, chinese = str(error.value).splitlines()
    assert english == sentence
    assert chinese.startswith("/set ")


def test_a_setting_changes_alone() -> None:
    conversation = START.with_setting("temperature", "0").with_setting("seed", "3").with_setting("seed", "null")
    assert conversation.settings == SamplingSection(temperature=0.0)


def test_another_model_of_a_service_is_asked_and_the_conversation_goes_on() -> None:
    remote = replace(spoken(("你好", "你好呀！")), model="a", models=("base", "a", "b")).with_model("b")
    assert (remote.model, remote.history, remote.has_adapter) == ("b", [("你好", "你好呀！")], True)
    assert remote.with_adapter(on=False).with_model("a").adapter_on
    assert not remote.with_model("base").has_adapter
    assert replace(remote, models=()).with_model("any").model == "any"
    with pytest.raises(UserError, match=r"/model c: the service listed no such model\. .*It has base, a, b\."):
        remote.with_model("c")
    with pytest.raises(UserError, match="this chat has one model, on this machine"):
        START.with_model("a")
