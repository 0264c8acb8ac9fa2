import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from imprint.messages import Bilingual
from imprint.serve.store import COMMAND_LINE, Limits, Principal, Store, StoreError
from tests.serve.injections import INJECTIONS
from tests.serve.stores import HOME, Clock, begin_answer, keep_answer, keep_question, open_store, read_message, user


def ask(store: Store, principal: Principal, question: str, title: str = "-") -> str:
    """The id of a new chat with one question."""
    chat = store.chats.create(principal, title)
    keep_question(store, principal, chat.id, question)
    return chat.id


def found(store: Store, principal: Principal, search: str) -> set[str]:
    return {chat.id for chat in store.chats.list(principal, search=search).chats}


def test_a_chat_is_a_tree_and_a_branch_is_a_conversation(store: Store) -> None:
    me = user(store)
    chat = store.chats.create(me, "门票")
    question = keep_question(store, me, chat.id, "门票多少钱？")
    first = keep_answer(store, me, chat.id, "三十元。", parent_id=question)
    second = keep_answer(store, me, chat.id, "免费。", parent_id=question, model="tuned")
    follow = keep_question(store, me, chat.id, "真的吗？", parent_id=second)
    assert [message.id for message in store.chats.messages(me, chat.id)] == [question, first, second, follow]
    assert [message.text for message in store.chats.path(me, chat.id, follow)] == ["门票多少钱？", "免费。", "真的吗？"]
    assert [message.id for message in store.chats.path(me, chat.id, first)] == [question, first]
    kept = read_message(store, me, chat.id, first)
    assert (kept.parent_id, kept.model, kept.state) == (question, "base", "done")


def test_an_answer_grows_and_ends_once(store: Store) -> None:
    me = user(store)
    chat_id = ask(store, me, "你好")
    answer = begin_answer(store, me, chat_id)
    assert store.chats.write(me, answer, "你")
    assert read_message(store, me, chat_id, answer).text == "你"
    assert store.chats.finish(me, answer, "你好！", state="done", finish="stop", prompt_tokens=5, new_tokens=3)
    assert not store.chats.write(me, answer, "late")
    assert not store.chats.finish(me, answer, "late", state="error")
    kept = read_message(store, me, chat_id, answer)
    assert (kept.text, kept.state, kept.finish, kept.prompt_tokens, kept.new_tokens, kept.error) == ("你好！", "done", "stop", 5, 3, None)


def test_a_failure_is_kept_in_both_languages(store: Store) -> None:
    me = user(store)
    chat_id = ask(store, me, "x")
    answer = begin_answer(store, me, chat_id)
    store.chats.finish(me, answer, "", state="error", error=Bilingual("out of memory", "内存不足"))
    assert read_message(store, me, chat_id, answer).error == Bilingual("out of memory", "内存不足")


def test_an_answer_whose_chat_was_deleted_is_told_to_stop(store: Store) -> None:
    me = user(store)
    chat_id = ask(store, me, "x")
    answer = begin_answer(store, me, chat_id)
    store.chats.delete(me, chat_id)
    assert not store.chats.write(me, answer, "more")
    assert not store.chats.finish(me, answer, "more", state="done")
    with pytest.raises(StoreError, match="there is no such chat"):
        store.chats.messages(me, chat_id)


def test_after_a_restart_half_answers_are_interrupted_with_their_text(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        me = user(store)
        chat_id = ask(store, me, "x")
        half = begin_answer(store, me, chat_id)
        whole = keep_answer(store, me, chat_id, "all")
        store.chats.write(me, half, "三十")
    with open_store(tmp_path) as again:
        assert read_message(again, me, chat_id, half).state == "writing"  # `imprint user` opens it while the service runs
        again.start_serving()
        kept = read_message(again, me, chat_id, half)
        assert (kept.state, kept.text) == ("interrupted", "三十")
        assert read_message(again, me, chat_id, whole).state == "done"


def test_no_function_finds_what_is_another_owners(store: Store) -> None:
    me, other = user(store), user(store, "小红")
    guest, second_guest = (store.sessions.guest(HOME).principal for _ in range(2))
    for owner, strangers in ((me, (other, guest)), (guest, (second_guest, store.sessions.guest(HOME).principal))):
        chat = store.chats.create(owner, "秘密")
        message = begin_answer(store, owner, chat.id)
        store.chats.write(owner, message, "秘密")
        for stranger in strangers:
            own_chat = store.chats.create(stranger)
            chats = store.chats
            tries: list[Callable[[], object]] = [
                *(partial(chats.get, stranger, chat.id), partial(chats.rename, stranger, chat.id, "x")),
                *(partial(chats.delete, stranger, chat.id), partial(chats.messages, stranger, chat.id)),
                *(partial(chats.path, stranger, chat.id, message), partial(chats.path, stranger, own_chat.id, message)),
                *(partial(keep_question, store, stranger, chat.id, "x"), partial(begin_answer, store, stranger, chat.id, message)),
                partial(keep_question, store, stranger, own_chat.id, "x", parent_id=message),
                partial(begin_answer, store, stranger, own_chat.id, message),
                partial(store.chat_export.one, stranger, chat.id, "json"),
            ]
            for attempt in tries:
                with pytest.raises(StoreError, match="there is no such") as refused:
                    attempt()
                assert refused.value.kind == "not_found"
            assert not store.chats.write(stranger, message, "x")
            assert not store.chats.finish(stranger, message, "x", state="done")
            assert found(store, stranger, "秘密") == set()
            assert {one.id for one in store.chats.list(stranger).chats} == {own_chat.id}
            assert store.chats.delete_all(stranger) == 1
        assert read_message(store, owner, chat.id, message).text == "秘密"


def test_a_message_hangs_on_one_of_the_same_chat(store: Store) -> None:
    me = user(store)
    first, second = ask(store, me, "a"), ask(store, me, "b")
    parent = store.chats.messages(me, first)[0]
    with pytest.raises(StoreError, match="there is no such message"):
        keep_question(store, me, second, "x", parent_id=parent.id)


@pytest.mark.parametrize(
    ("search", "hits"),
    [
        *(("门票", {"a"}), ("票", {"a", "c"}), ("多少钱", {"a"}), ("门票 公园", {"a"}), ("公园　门票", {"a"}), ("天气", {"b"})),
        *(("TICKET", {"c"}), ("100%", {"b"}), ("0_0", set()), ("门钱", set()), ("", {"a", "b", "c"}), ("   ", {"a", "b", "c"})),
    ],
)
def test_a_search_finds_words_of_two_characters_and_of_any_script(store: Store, search: str, hits: set[str]) -> None:
    me = user(store)
    chats = {
        "a": ask(store, me, "门票多少钱？", "公园"),
        "b": ask(store, me, "天气 100% 好"),
        "c": ask(store, me, "how much is a ticket 票"),
    }
    assert found(store, me, search) == {chats[name] for name in hits}


@pytest.mark.parametrize("search", ["café", "cafe\u0301", "CAFÉ", "ＡＢＣ", "abc", "100% cafe\u0301"])
def test_a_search_finds_accents_and_widths_however_they_are_written(store: Store, search: str) -> None:
    me = user(store)
    chats = {ask(store, me, "un cafe\u0301 noir 100% ＡＢＣ"), ask(store, me, "?", title="un café 100% abc")}
    ask(store, me, "the du matin")
    assert found(store, me, search) == chats


def test_a_search_is_bounded(store: Store) -> None:
    me = user(store)
    with pytest.raises(StoreError, match="q: must have 0 to 200 characters"):
        store.chats.list(me, search="x" * 201)
    chat_id = ask(store, me, "1a 1b 1c 1d 1e 1f 1g 1h 1i")
    assert found(store, me, "1i 1h 1g 1f 1e 1d 1c 1b 1a") == set()  # the last two are one
    assert found(store, me, "1i 1h 1g 1f 1e 1d 1c 1b") == {chat_id}


@pytest.mark.long
def test_a_search_in_50_000_messages_takes_less_than_a_second(store: Store) -> None:
    me = user(store)
    for number in range(500):
        chat = store.chats.create(me)
        with vars(store)["_database"].writing() as connection:
            connection.exec_driver_sql(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO messages "
                "(public_id, chat_id, role, text, state, prompt_tokens, new_tokens, created_at) SELECT lower(hex(randomblob(16))), "
                "(SELECT id FROM chats WHERE public_id = ?), 'user', ?, 'done', 0, 0, 0 FROM n",
                (chat.id, "天地玄黄宇宙洪荒日月盈昃辰宿列张" * 20 + str(number)),
            )
    began = time.process_time()
    assert found(store, me, "门票") == set()
    assert time.process_time() - began < 1.0


def test_a_list_goes_on_where_it_ended_though_chats_come_and_go(store: Store, clock: Clock) -> None:
    me = user(store)
    ids = []
    for number in range(10):
        clock.now += number % 3 / 7  # several at the same time
        ids.append(store.chats.create(me, str(number)).id)
    seen, cursor = [], None
    while True:
        page = store.chats.list(me, cursor=cursor, limit=3)
        seen += [chat.id for chat in page.chats]
        clock.now += 1
        store.chats.create(me, "new")
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert sorted(seen) == sorted(ids)
    for wrong in ("x", "1-2", "1e999-" + "0" * 32, f"{'9' * 400}-{'0' * 32}", f"1.000000-{'0' * 32}-1.000000-1"):
        with pytest.raises(StoreError, match="cursor: is not one that this list gave"):
            store.chats.list(me, cursor=wrong)


@pytest.mark.parametrize("search", ["", "chat"])
def test_a_chat_that_changes_while_the_pages_of_a_list_are_read_is_in_one_of_them(store: Store, clock: Clock, search: str) -> None:
    me = user(store)
    ids = []
    for number in range(9):
        clock.now += 1
        ids.append(store.chats.create(me, f"chat {number}").id)
    pages: list[list[int]] = []
    cursor = None
    while len(pages) < 10:
        page = store.chats.list(me, search=search, cursor=cursor, limit=3)
        pages.append([ids.index(chat.id) for chat in page.chats if chat.id in ids])
        clock.now += 1
        if len(pages) < 3:
            store.chats.rename(me, ids[len(pages) - 1], "chat again")
            store.chats.create(me, "chat of later")
        elif len(pages) == 3:
            store.chats.rename(me, ids[5], "chat once more")
        cursor = page.next_cursor
        if cursor is None:
            break
    assert pages == [[8, 7, 6], [5, 4, 3], [2], [5, 1, 0]]


def test_a_chat_that_changes_comes_first(store: Store, clock: Clock) -> None:
    me = user(store)
    first = ask(store, me, "a")
    clock.now += 1
    second = ask(store, me, "b")
    assert [chat.id for chat in store.chats.list(me).chats] == [second, first]
    clock.now += 1
    assert store.chats.rename(me, first, "  新名字 ").title == "新名字"
    assert [chat.id for chat in store.chats.list(me).chats] == [first, second]


def test_a_guests_chats_end_with_its_session(store: Store, clock: Clock) -> None:
    kept = ask(store, me := user(store), "kept")
    one, other = store.sessions.guest(HOME), store.sessions.guest(HOME)
    first, second = ask(store, one.principal, "a"), ask(store, other.principal, "b")
    store.sessions.end(one.token)
    with pytest.raises(StoreError, match="there is no such chat"):
        store.chats.get(one.principal, first)
    with pytest.raises(StoreError, match="this session has ended"):
        store.chats.create(one.principal)
    assert store.chats.get(other.principal, second)
    clock.now += 13 * 3600
    store.tidy()
    with pytest.raises(StoreError, match="there is no such chat"):
        store.chats.get(other.principal, second)
    assert store.chats.get(me, kept)


def test_a_deleted_chat_leaves_no_text_in_the_file(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        me = user(store)
        for _ in range(3):
            store.chats.delete(me, ask(store, me, "a very secret question" * 50))
        store.backup(tmp_path / "copy" / "after.db")
    assert b"very secret question" not in (tmp_path / "copy" / "after.db").read_bytes()


def test_chats_and_messages_are_bounded(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(chats_an_owner=2, messages_a_chat=2, characters_a_message=5)) as store:
        me = user(store)
        chat_id = ask(store, me, "12345")
        with pytest.raises(StoreError, match="content: must have at most 5 characters, got 6"):
            keep_question(store, me, chat_id, "123456")
        answer = begin_answer(store, me, chat_id)
        assert store.chats.write(me, answer, "1234567")
        assert read_message(store, me, chat_id, answer).text == "12345"
        with pytest.raises(StoreError, match="has 2 messages and may have 2, too few for 1 more"):
            keep_question(store, me, chat_id, "x")
        store.chats.create(me)
        with pytest.raises(StoreError, match="there are 2 chats already") as refused:
            store.chats.create(me)
        assert refused.value.kind == "quota_exceeded"
        guest = store.sessions.guest(HOME).principal
        for _ in range(50):
            store.chats.create(guest)
        with pytest.raises(StoreError, match="there are 50 chats already"):
            store.chats.create(guest)
        for text in ("\0", "\ud800"):
            with pytest.raises(StoreError, match="NUL character or half"):
                keep_question(store, me, chat_id, text)
        assert store.chats.write(me, answer, "\ud800")  # a model's text is kept as far as it can be


def test_a_text_that_would_change_a_query_is_a_plain_text(store: Store) -> None:
    me, other = user(store), user(store, "小红")
    ask(store, other, "秘密", "秘密")
    chat = store.chats.create(me, "mine")
    sample = INJECTIONS[::12]
    for text in sample:
        kept = keep_question(store, me, chat.id, text)
        assert read_message(store, me, chat.id, kept).text == text
        assert store.chats.rename(me, chat.id, text).title == text.strip()
        assert found(store, me, text[:200]) <= {chat.id}
        with pytest.raises(StoreError):
            store.chats.get(me, text)
        with pytest.raises(StoreError):
            store.chats.list(me, cursor=text)
    assert [message.text for message in store.chats.messages(me, chat.id)] == list(sample)
    assert [account.role for account in store.accounts.list()] == ["admin", "guest", "user", "user"]


def test_no_text_opens_an_account_a_session_or_a_key(store: Store) -> None:
    user(store)
    for number, text in enumerate(INJECTIONS):
        assert store.sessions.of(text) is None
        assert store.keys.of(text) is None
        if number % 6 == 0:
            with pytest.raises(StoreError):
                store.sessions.login(text, text, f"203.0.113.{number % 250}-{number}")
            with pytest.raises(StoreError):
                store.accounts.named(text)
            with pytest.raises(StoreError):
                store.keys.revoke(1, text, COMMAND_LINE)
            with pytest.raises(StoreError):
                store.requests.approve(text, COMMAND_LINE)
    assert len(INJECTIONS) >= 500
    assert len(store.accounts.list()) == 3


def test_a_search_ends_after_some_time_and_the_next_one_is_whole(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(search_seconds=0.02)) as store:
        ada = user(store, "ada")
        chats = [store.chats.create(ada, "t").id for _ in range(40)]
        for chat in chats:
            keep_question(store, ada, chat, "e\u0301" * 100_000)
        begun = time.monotonic()
        with pytest.raises(StoreError, match="the search takes too long"):
            store.chats.list(ada, search="a" * 199 + "b")
        assert time.monotonic() - begun < 1
        assert len(store.chats.list(ada, search="t").chats) == 40
