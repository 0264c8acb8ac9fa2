from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from imprint.serve.store import Principal, Store, StoreError
from imprint.serve.store.chat_import import ImportedMessage
from imprint.serve.store.limits import Limits
from tests.serve.stores import HOME, keep_answer, keep_question, open_store, user


def filled(store: Store, me: Principal, room: int) -> str:
    """A chat that has room for so many messages."""
    count = Limits().messages_a_chat - room
    messages = [ImportedMessage(str(number), None, "user", "x", None, "done", None, 0, 0) for number in range(count)]
    return store.chat_import.one(me, "full", messages).id


def test_a_question_is_kept_with_an_answer_of_each_model_and_names_the_chat(store: Store) -> None:
    me = user(store)
    chat = store.chats.create(me)
    asked = store.questions.keep(me, chat.id, " 门票\n多少钱？", parent_id=None, models=["base", "tuned"])
    question, *answers = store.chats.messages(me, chat.id)
    assert (question.id, question.text, question.state) == (asked.question, " 门票\n多少钱？", "done")
    assert [(one.id, one.parent_id, one.model, one.state) for one in answers] == [
        (message, question.id, model, "writing") for message, model in zip(asked.answers, ("base", "tuned"), strict=True)
    ]
    assert store.chats.get(me, chat.id).title == "门票 多少钱？"
    again = store.questions.keep(me, chat.id, None, parent_id=question.id, models=["base"])
    assert (again.question, again.is_new) == (question.id, False)
    assert store.chats.messages(me, chat.id)[-1].parent_id == question.id


def test_what_is_refused_is_refused_before_and_nothing_of_it_is_kept(store: Store) -> None:
    me, guest = user(store), store.sessions.guest(HOME).principal
    full, room_for_two = filled(store, me, 0), filled(store, me, 2)
    chat, other = store.chats.create(me, "mine"), store.chats.create(me)
    foreign = keep_question(store, me, other.id, "elsewhere")
    refused: list[tuple[Principal, str, str | None, str | None, int, str]] = [
        *((me, full, "hi", None, 1, "quota_exceeded"), (me, room_for_two, "hi", None, 2, "quota_exceeded")),
        *((me, chat.id, "a\0", None, 1, "invalid"), (me, chat.id, "x" * 10**7, None, 1, "invalid")),
        *((me, chat.id, "hi", foreign, 1, "not_found"), (me, chat.id, None, foreign, 1, "not_found")),
        *((me, "0" * 32, "hi", None, 1, "not_found"), (guest, chat.id, "hi", None, 1, "not_found")),
    ]
    counts = {one: len(store.chats.messages(me, one)) for one in (full, room_for_two, chat.id, other.id)}
    for who, where, text, parent, models, kind in refused:
        tries: list[Callable[[], object]] = [
            partial(store.questions.path, who, where, text, parent_id=parent, answers=models),
            partial(store.questions.keep, who, where, text, parent_id=parent, models=["base"] * models),
        ]
        for attempt in tries:
            with pytest.raises(StoreError) as error:
                attempt()
            assert error.value.kind == kind
    assert {one: len(store.chats.messages(me, one)) for one in counts} == counts
    assert store.questions.path(me, room_for_two, "hi", parent_id=None, answers=1) == ()
    assert store.questions.keep(me, room_for_two, "hi", parent_id=None, models=["base"]).answers


def test_a_chat_takes_no_question_beyond_its_characters(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(characters_a_chat=1000)) as store:
        me = user(store)
        chat, other = store.chats.create(me).id, store.chats.create(me).id
        keep_answer(store, me, chat, "a" * 500, parent_id=keep_question(store, me, chat, "一" * 400))
        tries: list[Callable[[str], object]] = [
            lambda text: store.questions.path(me, chat, text, parent_id=None, answers=1),
            lambda text: store.questions.keep(me, chat, text, parent_id=None, models=["base"]),
        ]
        for attempt in tries:
            with pytest.raises(StoreError, match="has 900 characters and may have 1,000, too few for 101 more") as error:
                attempt("b" * 101)
            assert error.value.kind == "quota_exceeded"
            assert "已有 900 个字符，上限为 1,000 个" in error.value.message.chinese
        assert len(store.chats.messages(me, chat)) == 2
        for attempt in tries:
            attempt("b" * 100)
        assert store.questions.keep(me, other, "b" * 101, parent_id=None, models=["base"]).answers


def test_who_asks_for_another_answer_in_a_chat_with_too_many_characters_hears_that_it_has_too_many(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(characters_a_chat=1000)) as store:
        me = user(store)
        chat = store.chats.create(me).id
        question = keep_question(store, me, chat, "一" * 400)
        keep_answer(store, me, chat, "a" * 601, parent_id=question)
        with pytest.raises(StoreError, match=r"has 1,001 characters and may have 1,000\. Begin another chat") as error:
            store.questions.path(me, chat, None, parent_id=question, answers=1)
        assert "已有 1,001 个字符，上限为 1,000 个：请" in error.value.message.chinese


def test_a_question_that_is_withdrawn_leaves_the_chat_as_it_was(store: Store) -> None:
    me = user(store)
    chat = store.chats.create(me)
    asked = store.questions.keep(me, chat.id, "你好", parent_id=None, models=["base", "tuned"])
    store.questions.withdraw(store.sessions.guest(HOME).principal, asked)
    assert len(store.chats.messages(me, chat.id)) == 3
    store.questions.withdraw(me, asked)
    assert (store.chats.messages(me, chat.id), store.chats.get(me, chat.id)) == ((), chat)
    question = keep_question(store, me, chat.id, "earlier")
    store.questions.withdraw(me, store.questions.keep(me, chat.id, None, parent_id=question, models=["base"]))
    assert [one.id for one in store.chats.messages(me, chat.id)] == [question]
    store.chats.delete(me, chat.id)
    store.questions.withdraw(me, asked)


def test_what_others_have_added_meanwhile_stays_when_a_question_is_withdrawn(store: Store) -> None:
    me = user(store)
    chat = store.chats.create(me)
    asked = store.questions.keep(me, chat.id, "你好", parent_id=None, models=["base", "tuned"])
    store.chats.rename(me, chat.id, "named")
    later = keep_question(store, me, chat.id, "more", parent_id=asked.answers[0])
    store.questions.withdraw(me, asked)
    kept = store.chats.messages(me, chat.id)
    assert [(one.id, one.state) for one in kept] == [(asked.question, "done"), (asked.answers[0], "interrupted"), (later, "done")]
    assert store.chats.get(me, chat.id).title == "named"
