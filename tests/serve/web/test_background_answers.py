import asyncio
import threading
import time
from typing import Any

import pytest

from imprint.serve.generation.job import Job
from imprint.serve.web import background_answers
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.background_answers import BackgroundAnswer, BackgroundAnswers, MessageWriter, Viewer
from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal

ADA = principal("ada", "user")


async def started(text: str, kept: MessageWriter | None = None) -> BackgroundAnswer:
    backend = ScriptedBackend()
    answers = AnswerSet(Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend)), ADA, "127.0.0.1")
    await answers.start([Job("base", ADA.owner, text=text)])
    return BackgroundAnswer(answers, "base", kept, "m1")


def test_an_answer_ends_after_its_last_viewer_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_answers, "LINGER_SECONDS", 0.15)

    async def look_and_leave() -> tuple[float, BackgroundAnswer]:
        answers, answer = BackgroundAnswers(), await started("slow")
        answers.start(answer)
        viewer = Viewer(answer, ADA)
        asyncio.get_running_loop().call_later(0.4, viewer.leave)
        async for _ in answer.events(0, viewer):
            pass
        assert answer.final is None
        left = time.monotonic()
        await answers.wait(30)
        return time.monotonic() - left, answer

    seconds, answer = asyncio.run(look_and_leave())
    assert 0.1 < seconds < 20  # the service lets it linger a minute
    assert answer.final is not None
    assert answer.final["finish"] == "cancelled"


def test_a_text_is_kept_while_it_is_written_and_whole_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_answers, "FLUSH_SECONDS", 0.05)
    kept: list[Any] = []

    def finish(text: str, **fields: Any) -> bool:
        kept.append((text, fields["state"], fields["finish"]))
        return True

    def write_text(text: str) -> bool:
        kept.append(text)
        return True

    async def write() -> None:
        answers = BackgroundAnswers()
        answer = await started("slow", MessageWriter(write_text, finish))
        answers.start(answer)
        await asyncio.sleep(0.45)
        answer.cancel()
        await answers.wait(3)

    asyncio.run(write())
    texts = [one for one in kept if isinstance(one, str)]
    assert len(texts) >= 2
    assert kept[-1][1:] == ("done", "cancelled")
    assert kept[-1][0].startswith(texts[-1])


def test_a_disk_that_hangs_holds_no_text_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_answers, "FLUSH_SECONDS", 0.0)
    hangs, goes_on, kept = threading.Event(), threading.Event(), list[str]()

    def write_text(text: str) -> bool:
        hangs.set()
        kept.append(text)
        return goes_on.wait(5)

    def finish(text: str, **_: Any) -> bool:
        kept.append(text)
        return True

    async def write() -> tuple[str, BackgroundAnswer]:
        answers, answer = BackgroundAnswers(), await started("say 白色的上衣", MessageWriter(write_text, finish))
        answers.start(answer)
        await asyncio.to_thread(hangs.wait)
        while len(answer.text) < 5:
            await asyncio.sleep(0.005)
        before = answer.text
        goes_on.set()
        await answers.wait(3)
        return before, answer

    before, answer = asyncio.run(write())
    assert before == answer.text == kept[-1] == "白色的上衣"
    assert len(kept) == 2
    assert answer.final is not None


def test_an_answer_whose_chat_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_answers, "FLUSH_SECONDS", 0.0)

    async def write() -> BackgroundAnswer:
        answers, answer = BackgroundAnswers(), await started("slow", MessageWriter(lambda _: False, lambda *_, **__: False))
        answers.start(answer)
        await answers.wait(3)
        return answer

    answer = asyncio.run(write())
    assert answer.answers.answers[0].generation.ended


def test_an_answer_is_found_by_its_owner_alone() -> None:
    async def find() -> None:
        answers, answer = BackgroundAnswers(), await started("hi")
        answers.start(answer)
        assert answers.find(ADA, answer.id) is answer
        assert answers.by_message(ADA) == {"m1": answer.id}
        for somebody, name in ((principal("bob", "user"), answer.id), (ADA, "x")):
            with pytest.raises(ApiError) as caught:
                answers.find(somebody, name)
            assert caught.value.status == 404
        await answers.wait(3)
        assert answers.by_message(ADA) == {}

    asyncio.run(find())
