import time
from collections.abc import Iterator

import pytest

from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError
from imprint.serve.web import background_answers
from tests.serve.web.page import Page, page, read_events, said


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("generations")) as made:
        yield made


def test_a_single_turn_is_answered_and_nothing_of_it_is_kept(shown: Page) -> None:
    guest = shown.guest()
    answers = guest.post("/api/generations", json={"models": ["base", "tuned"], "text": "queue"}).json()["answers"]
    for answer in answers:
        events = guest.events(answer["generation"])
        assert said(events) == "echo: queue"
        assert events[-1][0] == "end"
    assert guest.get("/api/chats").json()["chats"] == []


def test_a_page_that_is_loaded_again_goes_on_where_it_was(shown: Page) -> None:
    browser = shown.user("reloader")
    chat = browser.new_chat()
    job = browser.ask(chat, "slow")["answers"][0]["generation"]
    with browser.stream("GET", f"/api/generations/{job}/events") as first:
        for line in first.iter_lines():
            if line.startswith("id: 3"):
                break
    assert browser.messages(chat)[1]["generation"] == job
    time.sleep(0.25)
    assert browser.post(f"/api/generations/{job}/cancel").status_code == 200
    rest = browser.events(job, after=3)
    whole = browser.events(job)
    assert said(whole) == "..." + said(rest)
    assert len(said(rest)) >= 1
    assert rest[-1][1]["finish"] == "cancelled"


def test_an_id_that_is_none_begins_at_the_begin(shown: Page) -> None:
    guest = shown.guest()
    job = guest.post("/api/generations", json={"models": ["base"], "text": "hi"}).json()["answers"][0]["generation"]
    for wrong in (b"-1", b"x", b"99999999", "²".encode()):
        answer = guest.get(f"/api/generations/{job}/events", headers={b"Last-Event-ID": wrong})
        assert answer.status_code == 200
        assert read_events(answer.text)[-1][0] == "end"


def test_what_does_not_fit_any_more_is_left_out_from_the_oldest(shown: Page) -> None:
    browser = shown.user("talker")
    chat = browser.new_chat()
    parent = None
    for text in ("a", "b", "c"):
        asked = browser.ask(chat, text, parent=parent)
        browser.events(asked["answers"][0]["generation"])
        parent = asked["answers"][0]["message"]
    shown.backend.max_messages = 3
    try:
        asked = browser.ask(chat, "d", parent=parent)
        browser.events(asked["answers"][0]["generation"])
    finally:
        shown.backend.max_messages = 1000
    assert asked["dropped_messages"] == 6
    assert [message["content"] for message in shown.backend.jobs[-1].messages or ()] == ["d"]


def test_an_unknown_field_of_the_page_is_a_mistake(shown: Page) -> None:
    answer = shown.guest().post("/api/generations", json={"models": ["base"], "text": "hi", "temprature": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temprature")


def test_an_owner_looks_in_so_many_places_at_a_time_and_no_failed_look_counts(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_answers, "MAX_VIEWERS", 1)
    guest, services = shown.guest(), shown.running.app.state.services
    first, second = (guest.ask(guest.new_chat(), text)["answers"][0]["generation"] for text in ("slow", "say x"))

    def refuse(_: object) -> bool:
        raise StoreError("busy", Bilingual("busy", "忙"))

    with monkeypatch.context() as patched:
        patched.setattr(services, "may_go_on", refuse)
        assert guest.get(f"/api/generations/{second}/events").status_code == 503
    with guest.stream("GET", f"/api/generations/{first}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines)
        assert guest.get(f"/api/generations/{second}/events").status_code == 429
    assert guest.post(f"/api/generations/{first}/cancel").status_code == 200
