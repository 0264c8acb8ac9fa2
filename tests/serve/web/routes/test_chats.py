import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from imprint.messages import Bilingual
from imprint.serve.generation.job import Generation, Job
from imprint.serve.store import Limits, StoreError
from imprint.serve.store.chat_import import ImportedMessage
from imprint.serve.store.quota import least_tokens
from imprint.serve.web import services as web_services
from imprint.serve.web.json_pieces import json_bytes
from imprint.serve.web.routes import chats
from imprint.serve.web.services import MAX_OPENING, MAX_SLOW
from tests.serve.web import scripted
from tests.serve.web.page import Page, page, said
from tests.serve.web.scripted import principal, prompt_text


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("chats")) as made:
        yield made


def wait_until_done(shown: Page, browser: object, chat: str) -> None:
    deadline = time.monotonic() + 5
    while any(one["state"] == "writing" for one in browser.messages(chat)):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_question_is_answered_kept_and_can_be_followed(shown: Page) -> None:
    browser = shown.user("chatter")
    chat = browser.new_chat()
    asked = browser.ask(chat, "你好，钢印")
    events = browser.events(asked["answers"][0]["generation"])
    assert said(events) == "echo: 你好，钢印"
    assert (events[-1][0], events[-1][1]["finish"]) == ("end", "stop")
    wait_until_done(shown, browser, chat)
    question, answer = browser.messages(chat)
    assert (question["role"], question["text"], answer["text"], answer["parent_id"]) == (
        "user",
        "你好，钢印",
        "echo: 你好，钢印",
        question["id"],
    )
    assert (answer["model"], answer["state"], answer["new_tokens"]) == ("base", "done", 11)
    browser.events(browser.ask(chat, "more", parent=answer["id"])["answers"][0]["generation"])
    assert [message["content"] for message in shown.backend.jobs[-1].messages or ()] == ["你好，钢印", "echo: 你好，钢印", "more"]
    assert browser.get(f"/api/chats/{chat}").json()["title"] == "你好，钢印"
    assert [one["id"] for one in browser.get("/api/chats?q=钢印").json()["chats"]] == [chat]
    assert browser.get("/api/chats?q=没有").json()["chats"] == []


def test_a_question_can_be_answered_again_and_by_several_models(shown: Page) -> None:
    browser = shown.user("again")
    chat = browser.new_chat()
    asked = browser.ask(chat, "hi", models=["base", "tuned"])
    assert [answer["model"] for answer in asked["answers"]] == ["base", "tuned"]
    for answer in asked["answers"]:
        assert said(browser.events(answer["generation"])) == "echo: hi"
    repeated = browser.ask(chat, None, parent=asked["question"])
    assert repeated["question"] == asked["question"]
    wait_until_done(shown, browser, chat)
    assert [message["parent_id"] for message in browser.messages(chat)] == [None, *[asked["question"]] * 3]


def test_nobody_reaches_what_belongs_to_somebody_else(shown: Page) -> None:
    owner, other, guest = shown.user("owner"), shown.user("other"), shown.guest()
    chat = owner.new_chat()
    asked = owner.ask(chat, "slow")
    job, message = asked["answers"][0]["generation"], asked["question"]
    for thief in (other, guest, shown.admin()):
        attempts = [
            thief.get(f"/api/chats/{chat}"),
            thief.patch(f"/api/chats/{chat}", json={"title": "mine"}),
            thief.delete(f"/api/chats/{chat}"),
            thief.get(f"/api/chats/{chat}/messages"),
            thief.post(f"/api/chats/{chat}/messages", json={"models": ["base"], "text": "x"}),
            thief.post(f"/api/chats/{thief.new_chat()}/messages", json={"models": ["base"], "text": "x", "parent": message}),
            thief.get(f"/api/generations/{job}/events"),
            thief.post(f"/api/generations/{job}/cancel"),
        ]
        assert [answer.status_code for answer in attempts] == [404] * len(attempts)
    assert other.get(f"/api/chats/{chat}/export").status_code == 404
    assert owner.post(f"/api/generations/{job}/cancel").status_code == 200


def test_a_refused_question_is_not_kept(shown: Page) -> None:
    browser = shown.user("refused")
    chat = browser.new_chat()
    full = browser.post(f"/api/chats/{chat}/messages", json={"models": ["tuned", "base"], "text": "full"})
    assert (full.status_code, full.headers["retry-after"]) == (429, "3")
    long = browser.post(f"/api/chats/{chat}/messages", json={"models": ["base"], "text": "x" * 500})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert browser.messages(chat) == []
    used = browser.get("/api/me/usage").json()
    assert used["used"] == 0


def test_a_question_that_cannot_be_kept_is_refused_before_a_model_works_for_it(shown: Page) -> None:
    browser = shown.user("stored")
    messages = [{"id": str(number), "parent_id": None, "role": "user", "content": "x"} for number in range(1998)]
    full = browser.post("/api/chats/import", json={"title": "full", "messages": messages}).json()["id"]
    chat, jobs = browser.new_chat(), len(shown.backend.jobs)
    for where, fields, status in (
        (full, {"models": ["base", "tuned"], "text": "hello"}, 429),
        (chat, {"models": ["base", "tuned"], "text": "abc\0"}, 400),
        (chat, {"models": ["base"], "text": "hello", "parent": "gone"}, 404),
        (chat, {"models": ["base", "gone"], "text": "hello"}, 404),
    ):
        assert browser.post(f"/api/chats/{where}/messages", json=fields).status_code == status
    assert (len(browser.messages(full)), browser.messages(chat)) == (1998, [])
    assert (len(shown.backend.jobs), browser.get("/api/me/usage").json()["used"]) == (jobs, 0)


def test_where_the_queue_refuses_the_second_model_neither_question_nor_answers_are_kept(
    shown: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, begin = shown.user("second"), shown.backend._begin
    chat = browser.new_chat()

    def begin_base(generation: Generation, job: Job, text: str) -> None:
        begin(generation, job, "full" if job.model == "tuned" else text)

    with monkeypatch.context() as patched:
        patched.setattr(shown.backend, "_begin", begin_base)
        refused = browser.post(f"/api/chats/{chat}/messages", json={"models": ["base", "tuned"], "text": "slow"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert shown.backend.generations[-1].ended
    assert (browser.messages(chat), browser.get(f"/api/chats/{chat}").json()["title"]) == ([], "")
    assert browser.get("/api/me/usage").json()["used"] == 0


def test_a_question_that_the_disk_does_not_take_begins_no_model(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = shown.user("disk")
    chat, jobs = browser.new_chat(), len(shown.backend.jobs)

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("unavailable", Bilingual("no space", "没有空间"))

    with monkeypatch.context() as patched:
        patched.setattr(shown.store.questions, "keep", refuse)
        assert browser.post(f"/api/chats/{chat}/messages", json={"models": ["base"], "text": "hello"}).status_code == 503
    assert (len(shown.backend.jobs), browser.messages(chat), browser.get("/api/me/usage").json()["used"]) == (jobs, [], 0)
    assert said(browser.events(browser.ask(chat, "hello")["answers"][0]["generation"])) == "echo: hello"


def test_a_question_costs_what_is_kept_of_it_whatever_the_vocabulary_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, most = "\ufeff" * 199_998 + "hi", Limits().guest_tokens_a_day
    monkeypatch.setattr(scripted, "prompt_text", lambda job: prompt_text(job).replace("\ufeff", ""))
    with page(tmp_path) as shown:
        guest = shown.guest()
        chat = guest.new_chat()
        guest.ask(chat, text, max_tokens=1)
        wait_until_done(shown, guest, chat)
        refused = guest.post(f"/api/chats/{chat}/messages", json={"models": ["base"], "text": text, "max_tokens": 1})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
        used = guest.get("/api/me/usage").json()["used"]
        assert (used, len(guest.messages(chat))) == (least_tokens(text), 2)
        assert most / 2 < used <= most
        guest.ask(chat, "hi")
        wait_until_done(shown, guest, chat)
        assert guest.get("/api/me/usage").json()["used"] == used + 2 + len("echo: hi")


def test_a_failed_answer_says_why_and_keeps_its_text(shown: Page) -> None:
    browser = shown.user("unlucky")
    chat = browser.new_chat()
    events = browser.events(browser.ask(chat, "fail")["answers"][0]["generation"])
    assert events[-1][1]["error"]["code"] == "server_error"
    wait_until_done(shown, browser, chat)
    assert (browser.messages(chat)[1]["state"], browser.messages(chat)[1]["text"]) == ("error", "ec")
    assert "数值" in browser.messages(chat)[1]["error"]


def test_an_answer_ends_with_its_chat(shown: Page) -> None:
    browser = shown.user("deleter")
    chat = browser.new_chat()
    browser.ask(chat, "slow")
    running = shown.backend.generations[-1]
    assert browser.delete(f"/api/chats/{chat}").status_code == 200
    deadline = time.monotonic() + 3
    while not running.ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert browser.get(f"/api/chats/{chat}").status_code == 404


def test_a_chat_is_deleted_without_reading_its_messages(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = shown.user("remover")
    chat = browser.new_chat()

    def messages(*_: object) -> None:
        raise AssertionError("there may be thousands, and any number of requests at a time")

    monkeypatch.setattr(shown.store.chats, "messages", messages)
    assert browser.delete(f"/api/chats/{chat}").status_code == 200
    assert browser.delete(f"/api/chats/{chat}").status_code == 404


def test_chats_are_exported_and_all_deleted(shown: Page) -> None:
    browser = shown.user("exporter")
    chat = browser.new_chat()
    browser.events(browser.ask(chat, "<script>")["answers"][0]["generation"])
    wait_until_done(shown, browser, chat)
    markdown = browser.get(f"/api/chats/{chat}/export")
    assert "attachment" in markdown.headers["content-disposition"]
    assert "echo: <script>" in markdown.text
    assert json.loads(browser.get(f"/api/chats/{chat}/export?format=json").text)["id"] == chat
    assert [json.loads(line)["id"] for line in browser.get("/api/export").text.splitlines()] == [chat]
    assert browser.patch(f"/api/chats/{chat}", json={"title": "新"}).json()["title"] == "新"
    assert browser.delete("/api/chats").json() == {"deleted": 1}
    assert shown.guest().get("/api/export").status_code == 403


def test_an_exported_chat_can_be_imported_by_whoever_has_an_account(shown: Page) -> None:
    browser, other = shown.user("giver"), shown.user("taker")
    chat = browser.new_chat()
    browser.events(browser.ask(chat, "门票", models=["base", "tuned"])["answers"][0]["generation"])
    wait_until_done(shown, browser, chat)
    exported = browser.get(f"/api/chats/{chat}/export?format=json").json()
    made = other.post("/api/chats/import", json=exported)
    assert made.status_code == 201
    assert made.json()["title"] == "门票"
    assert [one["text"] for one in other.messages(made.json()["id"])] == [one["text"] for one in browser.messages(chat)]
    assert shown.guest().post("/api/chats/import", json=exported).status_code == 403
    refused = other.post("/api/chats/import", json=exported | {"owner": "account:1"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "owner")


def test_guests_leave_room_in_the_queue(shown: Page) -> None:
    for browser, share in ((shown.guest(), 0.5), (shown.user("member"), 1.0)):
        browser.ask(browser.new_chat(), "hi")
        assert shown.backend.jobs[-1].queue_share == share


def test_a_guest_s_comparison_is_written_side_by_side(shown: Page) -> None:
    guest = shown.guest()
    guest.ask(guest.new_chat(), "hi", models=["base", "tuned"])
    assert [job.concurrency for job in shown.backend.jobs[-2:]] == [2, 2]
    guest.ask(guest.new_chat(), "hi")
    assert shown.backend.jobs[-1].concurrency == 1


def test_one_model_named_twice_has_the_concurrency_of_one(shown: Page) -> None:
    guest = shown.guest()
    assert guest.post("/api/generations", json={"models": ["base", "base"], "text": "hi"}).status_code == 201
    assert [job.concurrency for job in shown.backend.jobs[-2:]] == [1, 1]


def test_files_of_all_chats_are_bounded_and_end_with_the_right_to_them(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, services = shown.user("many"), shown.running.app.state.services
    browser.new_chat()
    assert (browser.get("/api/export").status_code, dict(services.slow_counts)) == (200, {})
    owner = f"account:{shown.store.accounts.named('many').id}"
    with monkeypatch.context() as patched:
        patched.setitem(services.slow_counts, owner, MAX_SLOW)
        assert browser.get("/api/export").status_code == 429
    with monkeypatch.context() as patched:
        patched.setattr(services, "may_go_on", lambda _: False)
        with pytest.raises(httpx2.RemoteProtocolError):
            browser.get("/api/export")
        browser.delete("/api/chats")  # as an account that is deleted meanwhile has no chats any more
        with pytest.raises(httpx2.RemoteProtocolError):
            browser.get("/api/export")


def test_the_messages_of_a_chat_are_read_and_written_beside_the_event_loop_and_a_few_at_a_time_of_an_owner(shown: Page) -> None:
    browser, services = shown.user("reader"), shown.running.app.state.services
    chat = browser.new_chat()
    answer = browser.ask(chat, "hi")["answers"][0]
    assert said(browser.events(answer["generation"])) == "echo: hi"
    threads = []

    def write(value: object) -> bytes:
        threads.append(threading.current_thread().name)
        return json_bytes(value)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chats, "json_bytes", write)
        assert len(browser.messages(chat)) == 2
    assert [name.startswith("AnyIO") for name in threads] == [True]
    owner = f"account:{shown.store.accounts.named('reader').id}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(services.opening_counts, owner, MAX_OPENING)
        assert browser.get(f"/api/chats/{chat}/messages").status_code == 429
        again = {"models": ["base"], "text": "x", "parent": answer["message"]}
        assert browser.post(f"/api/chats/{chat}/messages", json=again).status_code == 429
    assert browser.messages(chat)
    assert not services.opening_counts


def test_a_client_that_does_not_read_a_chat_keeps_its_place_among_those_that_are_opened(shown: Page) -> None:
    browser, services = shown.user("stalling"), shown.running.app.state.services
    counts = services.sending_counts
    account = shown.store.accounts.named("stalling").id
    whose = replace(principal("stalling", "user"), account_id=account, owner=f"account:{account}")
    large = [ImportedMessage(str(number), None, "user", "😀" * 200_000, None, "done", None, 0, 0) for number in range(10)]
    chat = shown.store.chat_import.one(whose, "large", large).id
    with shown.running.connect() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        stalled.sendall(f"GET /api/chats/{chat}/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode())
        assert stalled.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.2)
        assert counts[whose.owner] == 1
        assert sum(len(one["text"]) for one in browser.messages(chat)) == 2_000_000
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(web_services, "MAX_OPENING", 1)
            assert browser.get(f"/api/chats/{chat}/messages").status_code == 429
            browser.ask(browser.new_chat(), "hello")  # reading slowly takes no place from one's questions
    deadline = time.monotonic() + 5
    while counts:
        assert time.monotonic() < deadline
        time.sleep(0.01)
