import asyncio
import time
from collections.abc import Iterator

import pytest

from imprint.messages import Bilingual
from imprint.serve.generation.job import Generation, Job, context_exceeded
from imprint.serve.store.errors import StoreError
from imprint.serve.web import background_answers
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.routes.generations import prepare_fitting
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.page import Page, page, read_events, said
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal


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


def test_guests_from_one_address_have_one_turn_and_each_account_its_own(shown: Page) -> None:
    for browser in (shown.guest(), shown.guest(), shown.user("turn-taker")):
        answer = browser.post("/api/generations", json={"models": ["base"], "text": "turn"}).json()["answers"][0]
        browser.events(answer["generation"])
    first, second, account = shown.backend.jobs[-3:]
    assert first.owner != second.owner
    assert (first.turn, second.turn, first.gives_way) == ("127.0.0.1", "127.0.0.1", True)
    assert (account.turn, account.gives_way) == (account.owner, False)


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


class CountingBackend(ScriptedBackend):
    """Takes 100 tokens, one a character."""

    async def submit(self, job: Job, *, held: bool = False) -> Generation:
        tokens = sum(len(str(message["content"])) for message in job.messages or ())
        if tokens > 100:
            self.jobs.append(job)
            raise context_exceeded(tokens, 100)
        return await super().submit(job, held=held)


def test_what_a_long_conversation_leaves_out_is_found_by_its_length_and_not_by_many_tries() -> None:
    backend = CountingBackend()
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
    messages = tuple({"role": role, "content": "x" * 10} for role in [*("user", "assistant") * 500, "user"])

    async def ask(model: str, dropped: int) -> int:
        answers = AnswerSet(services, principal("ada", "user"), "127.0.0.1")
        found = await prepare_fitting(answers, Job(model, "account:ada", messages=messages), dropped)
        answers.begin()
        await answers.end()
        return found

    assert asyncio.run(ask("base", 0)) == 992
    assert len(backend.jobs) == 2
    assert asyncio.run(ask("tuned", 992)) == 992
    assert len(backend.jobs) == 3
