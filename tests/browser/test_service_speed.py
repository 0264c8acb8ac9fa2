"""How long the service's page stands still, whatever text it shows: no text may take more than a moment to lay out."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from imprint.serve.generation.job import Ended, Generation, Job, TextDelta
from tests.browser.hostile_texts import RUNS
from tests.browser.service import Visitor
from tests.serve.web.page import Browser
from tests.serve.web.scripted import ScriptedBackend, token

pytestmark = pytest.mark.browser

LEFT_BELOW = """() => {
    const { scrollHeight, scrollTop, clientHeight } = document.querySelector(".conversation");
    return scrollHeight - scrollTop - clientHeight;
}"""
"""Pixels of the conversation below what is in sight."""
STALLS = """() => {
    window.stalls = [];
    let last = performance.now();
    setInterval(() => { stalls.push(performance.now() - last); last = performance.now(); }, 20);
}"""
"""Notes for how long the page stands still: milliseconds between ticks that should come every 20."""
HEARD = """async ([piece, times]) => {
    const { Answer } = await import("/page/answer.js");
    const answer = new Answer({ id: "1", model: "base", text: "", state: "writing", generation: "g" }, false);
    const announcer = document.getElementById("announcer");
    const heard = [];
    const began = performance.now();
    const take = (event) => {
        announcer.textContent = "";
        answer.on(event);
        if (announcer.textContent !== "") heard.push(announcer.textContent);
    };
    for (let time = 0; time < times; time += 1) take({ name: "text", data: { text: piece } });
    take({ name: "end", data: { finish: "stop", new_tokens: 1 } });
    return [heard, (performance.now() - began) / 1000, answer.words.data];
}"""
"""What a screen reader says of an answer of many pieces, how many seconds all events take, and the text that is shown at the end."""
SHOWN = """async ([place, selector, characters]) => {
    const began = performance.now();
    location.hash = place;
    const isThere = () => [...document.querySelectorAll(selector)].some((one) => one.textContent.length === characters);
    while (!isThere()) await new Promise((resolve) => setTimeout(resolve, 5));
    document.getElementById("app").offsetHeight;
    return performance.now() - began;
}"""
"""Milliseconds from a change of the address until an element with as many characters is there and laid out."""
NARROWED = """() => {
    const began = performance.now();
    document.body.style.width = "1000px";
    document.getElementById("app").offsetHeight;
    document.body.style.width = "";
    return performance.now() - began;
}"""
"""Milliseconds that a change of the window's width takes."""


def run_of(unit: str, characters: int) -> str:
    """A text repeated up to a number of characters as a browser counts them (UTF-16), cut between its repetitions."""
    return unit * (characters // (len(unit.encode("utf-16-le")) // 2))


def chat_with(user: Browser, text: str, **changes: Any) -> str:
    """A chat with the text as its answer; its id."""
    question = {"id": "q", "parent_id": None, "role": "user", "content": "hi"}
    answer = {"id": "a", "parent_id": "q", "role": "assistant", "content": text, "model": "base"}
    made = user.post("/api/chats/import", json={"title": "t", "messages": [question, answer], **changes})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def seconds_to_open(visitor: Visitor, chat: str, text: str) -> float:
    """How long it takes until a chat is shown, from the click on."""
    length = len(text.encode("utf-16-le")) // 2
    return float(visitor.page.evaluate(SHOWN, [f"#/chat/{chat}", ".answer .text", length])) / 1000


def test_runs_of_punctuation_are_shown_as_fast_as_other_text(visitor: Visitor) -> None:
    user = visitor.service.user("punctuation")
    visitor.sign_in("punctuation").page.wait_for_selector("#question")
    for unit in ("。", "（", "「」"):
        text = unit * 8000
        chat = chat_with(user, text[:8000], title=text[:200])
        assert seconds_to_open(visitor, chat, text[:8000]) < 1.5, unit
        visitor.page.fill("#question", text[:8000])
    assert visitor.page.evaluate(NARROWED) < 1500


def ask_for_accounts(visitor: Visitor, reason: str, visitors: int) -> tuple[float, float]:
    """How long an admin waits for the list of requests after so many were made, and after a change of the window's width; seconds."""
    anybody = visitor.service.browser()
    for number in range(visitors):
        body = {"name": f"a{number}", "contact": reason[:200], "reason": reason}
        assert anybody.post("/api/requests", json=body).status_code == 202
    shown = float(visitor.page.evaluate(SHOWN, ["#/admin/requests", "blockquote", len(reason.encode("utf-16-le")) // 2]))
    return shown / 1000, float(visitor.page.evaluate(NARROWED)) / 1000


def test_requests_for_accounts_are_shown_at_once_to_an_admin_whatever_their_reasons_are(visitor: Visitor) -> None:
    admin = visitor.service.admin()
    visitor.sign_in("admin").page.wait_for_selector("#question")
    assert max(ask_for_accounts(visitor, "。" * 2000, visitors=50)) < 1.5
    for request in admin.get("/api/admin/requests").json()["requests"]:
        assert admin.post(f"/api/admin/requests/{request['id']}/decline", json={}).status_code == 200


@pytest.mark.long
def test_no_run_of_any_text_holds_the_page(visitor: Visitor) -> None:
    user = visitor.service.user("runs")
    visitor.sign_in("runs").page.wait_for_selector("#question")
    slow = {}
    for unit in RUNS:
        text = run_of(unit, 16_000)
        taken = seconds_to_open(visitor, chat_with(user, text, title=run_of(unit, 200)), text)
        if taken > 2:
            slow[unit] = taken
        visitor.open()
    assert slow == {}


def test_a_screen_reader_hears_all_of_an_answer_by_the_sentence_and_long_sentences_in_parts(visitor: Visitor) -> None:
    page = visitor.open().page
    heard, _, shown = page.evaluate(HEARD, ["来。花开", 3])
    assert heard == ["来。", "花开来。", "花开来。", "花开"]
    for piece, times in (("春天来了，花开", 800), ("spring ", 800)):
        heard, seconds, shown = page.evaluate(HEARD, [piece, times])
        assert "".join(heard) == shown == piece * times
        assert all(200 < len(part) < 400 for part in heard[:-1])
        assert seconds < 0.5


def play(visitor: Visitor, monkeypatch: pytest.MonkeyPatch, pieces: Sequence[str], pause: float) -> None:
    """Let the question `play` be answered by these pieces."""

    async def push(generation: Generation) -> None:
        for piece in pieces:
            generation.push(TextDelta(piece, (token(piece[0], None),)))
            await asyncio.sleep(pause)
        generation.push(Ended("stop", 4, len(pieces)))

    begin = ScriptedBackend._begin

    def begin_or_play(backend: ScriptedBackend, generation: Generation, job: Job, text: str) -> None:
        if text != "play":
            return begin(backend, generation, job, text)
        backend.generations.append(generation)
        task = asyncio.create_task(push(generation))
        backend.tasks.add(task)
        task.add_done_callback(backend.tasks.discard)
        return None

    monkeypatch.setattr(ScriptedBackend, "_begin", begin_or_play)


def test_the_end_of_an_answer_stays_in_sight_however_much_comes_at_once(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    play(visitor, monkeypatch, ["行\n" * 40] * 4, 0.2)
    page = visitor.be_guest().page
    assert visitor.ask_whole("play")[0].count("行") == 160
    assert page.evaluate(LEFT_BELOW) < 5


@pytest.mark.long
def test_no_answer_holds_the_page_while_it_is_written(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    page = visitor.be_guest().page
    page.evaluate(STALLS)
    slow = {}
    for unit in ("好", "\n", "ب", "ก", "。", "a"):
        play(visitor, monkeypatch, [unit * 8] * 2000, 0.004)
        page.evaluate("stalls.length = 0")
        page.get_by_role("button", name="New chat").click()
        visitor.ask("play")
        page.locator(".answer:not([data-state=writing])").wait_for(timeout=60_000)
        longest = page.evaluate("Math.max(...stalls)")
        if longest > 1500:
            slow[unit] = longest
    assert slow == {}
