import json
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.serve.store import Limits, Store
from imprint.serve.store.chat_import import MESSAGE_CHARACTERS, ImportedMessage
from imprint.serve.store.errors import StoreError
from tests.serve.stores import open_store, user

ASKED = ImportedMessage("q", None, "user", "门票多少钱？", None, "done", None, 0, 0)
ANSWERED = ImportedMessage("a", "q", "assistant", "三十元。", "tuned", "writing", "stop", 4, 3)


def test_an_imported_chat_is_a_new_one_of_its_owner_alone(store: Store) -> None:
    me, other = user(store), user(store, "other")
    chat = store.chat_import.one(me, "门票", [ASKED, ANSWERED, replace(ANSWERED, id="b", state="done")])
    question, first, second = store.chats.messages(me, chat.id)
    assert (question.text, first.text, first.model, first.finish, first.new_tokens) == ("门票多少钱？", "三十元。", "tuned", "stop", 3)
    assert (first.state, second.state) == ("interrupted", "done")
    assert [first.parent_id, second.parent_id] == [question.id] * 2
    assert not {question.id, first.id} & {"q", "a"}
    again = json.loads(store.chat_export.one(me, chat.id, "json"))
    assert [message["content"] for message in again["messages"]] == ["门票多少钱？", "三十元。", "三十元。"]
    with pytest.raises(StoreError):
        store.chats.messages(other, chat.id)


@pytest.mark.parametrize(
    "messages",
    [
        [replace(ASKED, parent_id="q")],
        [ANSWERED, ASKED],
        [ASKED, ASKED],
        [ASKED, replace(ANSWERED, parent_id="elsewhere")],
        [replace(ASKED, text="\0")],
    ],
)
def test_what_is_no_tree_of_texts_is_refused_and_leaves_nothing(store: Store, messages: list[ImportedMessage]) -> None:
    me = user(store)
    with pytest.raises(StoreError) as error:
        store.chat_import.one(me, "", messages)
    assert error.value.kind == "invalid"
    assert store.chats.list(me).chats == ()


def test_no_import_has_more_messages_than_a_chat_may(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(messages_a_chat=2)) as store:
        me = user(store)
        with pytest.raises(StoreError, match="this chat has 3, and one may have 2"):
            store.chat_import.one(me, "", [replace(ASKED, id=str(number)) for number in range(3)])


def test_who_has_very_much_imports_no_more(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(characters_an_owner=8)) as store:
        me, other = user(store), user(store, "other")
        store.chat_import.one(me, "", [ASKED, ANSWERED])
        with pytest.raises(StoreError, match="there are 8 characters in your chats already"):
            store.chat_import.one(me, "", [ASKED])
        assert store.chat_import.one(other, "", [ASKED])


def test_messages_and_models_count_as_what_somebody_has_and_not_their_texts_alone(tmp_path: Path) -> None:
    empty = [replace(ANSWERED, id=str(number), parent_id=None, text="", model="😀" * 256) for number in range(10)]
    with open_store(tmp_path, limits=Limits(characters_an_owner=10 * (256 + MESSAGE_CHARACTERS))) as store:
        me = user(store)
        store.chat_import.one(me, "", empty[:-1])
        store.chat_import.one(me, "", empty[:1])
        with pytest.raises(StoreError, match="characters in your chats already"):
            store.chat_import.one(me, "", empty[:1])
