import json

from imprint.serve.store import Principal, Store
from tests.serve.stores import begin_answer, keep_answer, keep_question, user


def conversation(store: Store, me: Principal) -> str:
    chat = store.chats.create(me, "门票 # 1")
    question = keep_question(store, me, chat.id, "门票多少钱？")
    keep_answer(store, me, chat.id, "三十元。", parent_id=question)
    half = begin_answer(store, me, chat.id, question, "tuned")
    store.chats.finish(me, half, "免", state="interrupted", finish="cancelled", prompt_tokens=4, new_tokens=1)
    return chat.id


def test_markdown_is_the_conversation_that_ends_with_the_newest_message(store: Store) -> None:
    me = user(store)
    text = store.chat_export.one(me, conversation(store, me), "md")
    assert text == (
        "# 门票 # 1\n\n2026-11-28T12:00:00+00:00\n\n"
        "## User / 用户\n\n门票多少钱？\n\n"
        "## Assistant / 助手 (tuned)\n\n免\n\n*interrupted / 已中断*\n\n"
        "*1 messages on other branches are in the JSON form. / 其他分支的 1 条消息见 JSON 格式。*\n"
    )


def test_json_has_the_whole_tree(store: Store) -> None:
    me = user(store)
    chat_id = conversation(store, me)
    kept = json.loads(store.chat_export.one(me, chat_id, "json"))
    assert (kept["id"], kept["title"], kept["created_at"]) == (chat_id, "门票 # 1", "2026-11-28T12:00:00+00:00")
    question, first, second = kept["messages"]
    assert [first["parent_id"], second["parent_id"]] == [question["id"]] * 2
    assert (second["content"], second["state"], second["finish_reason"], second["completion_tokens"]) == (
        "免",
        "interrupted",
        "cancelled",
        1,
    )


def test_all_chats_are_lines_of_json(store: Store) -> None:
    me, other = user(store), user(store, "小红")
    store.chats.create(other, "not mine")
    for number in range(120):
        store.chats.create(me, str(number))
    kept = [json.loads(line) for line in store.chat_export.all(me)]
    assert sorted(int(chat["title"]) for chat in kept) == list(range(120))
    assert store.chat_export.one(me, kept[0]["id"], "md").startswith("# ")


def test_a_chat_that_changes_meanwhile_is_exported_once_and_one_that_is_deleted_is_left_out(store: Store) -> None:
    me = user(store)
    chats = [store.chats.create(me, str(number)).id for number in range(120)]
    lines = store.chat_export.all(me)
    first = json.loads(next(lines))["id"]
    changed, deleted = [one for one in reversed(store.chats.ids(me)) if one != first][:2]
    store.chats.rename(me, changed, "renamed")
    store.chats.delete(me, deleted)
    store.chats.create(me, "of later")
    rest = [json.loads(line) for line in lines]
    assert sorted([first, *(chat["id"] for chat in rest)]) == sorted(set(chats) - {deleted})
    assert [chat["title"] for chat in rest if chat["id"] == changed] == ["renamed"]
