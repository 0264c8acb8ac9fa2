import asyncio
import threading
import time
from typing import Any

import pytest

from imprint.serve.generation.job import Job
from imprint.serve.web import generations
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.errors import ApiError
from imprint.serve.web.generations import GenerationJob, GenerationJobs, Kept, Viewer
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal

ADA = principal("ada", "user")


async def started(text: str, kept: Kept | None = None) -> GenerationJob:
    backend = ScriptedBackend()
    answers = AnswerSet(Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend)), ADA, "127.0.0.1")
    await answers.start([Job("base", ADA.owner, text=text)])
    return GenerationJob(answers, "base", kept, "m1")


def test_a_job_ends_after_its_last_viewer_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "LINGER_SECONDS", 0.15)

    async def look_and_leave() -> tuple[float, GenerationJob]:
        jobs, job = GenerationJobs(), await started("slow")
        jobs.start(job)
        viewer = Viewer(job, ADA)
        asyncio.get_running_loop().call_later(0.4, viewer.leave)
        async for _ in job.events(0, viewer):
            pass
        assert job.final is None
        left = time.monotonic()
        await jobs.wait(30)
        return time.monotonic() - left, job

    seconds, job = asyncio.run(look_and_leave())
    assert 0.1 < seconds < 20  # the service lets it linger a minute
    assert job.final is not None
    assert job.final["finish"] == "cancelled"


def test_a_text_is_kept_while_it_is_written_and_whole_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "FLUSH_SECONDS", 0.05)
    kept: list[Any] = []

    def finish(text: str, **fields: Any) -> bool:
        kept.append((text, fields["state"], fields["finish"]))
        return True

    def write_text(text: str) -> bool:
        kept.append(text)
        return True

    async def write() -> None:
        jobs = GenerationJobs()
        job = await started("slow", Kept(write_text, finish))
        jobs.start(job)
        await asyncio.sleep(0.45)
        job.cancel()
        await jobs.wait(3)

    asyncio.run(write())
    texts = [one for one in kept if isinstance(one, str)]
    assert len(texts) >= 2
    assert kept[-1][1:] == ("done", "cancelled")
    assert kept[-1][0].startswith(texts[-1])


def test_a_disk_that_hangs_holds_no_text_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "FLUSH_SECONDS", 0.0)
    hangs, goes_on, kept = threading.Event(), threading.Event(), list[str]()

    def write_text(text: str) -> bool:
        hangs.set()
        kept.append(text)
        return goes_on.wait(5)

    def finish(text: str, **_: Any) -> bool:
        kept.append(text)
        return True

    async def write() -> tuple[str, GenerationJob]:
        jobs, job = GenerationJobs(), await started("say 白色的上衣", Kept(write_text, finish))
        jobs.start(job)
        await asyncio.to_thread(hangs.wait)
        while len(job.text) < 5:
            await asyncio.sleep(0.005)
        before = job.text
        goes_on.set()
        await jobs.wait(3)
        return before, job

    before, job = asyncio.run(write())
    assert before == job.text == kept[-1] == "白色的上衣"
    assert len(kept) == 2
    assert job.final is not None


def test_an_answer_whose_chat_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "FLUSH_SECONDS", 0.0)

    async def write() -> GenerationJob:
        jobs, job = GenerationJobs(), await started("slow", Kept(lambda _: False, lambda *_, **__: False))
        jobs.start(job)
        await jobs.wait(3)
        return job

    job = asyncio.run(write())
    assert job.answers.answers[0].generation.ended


def test_a_job_is_found_by_its_owner_alone() -> None:
    async def find() -> None:
        jobs, job = GenerationJobs(), await started("hi")
        jobs.start(job)
        assert jobs.find(ADA, job.id) is job
        assert jobs.by_message(ADA) == {"m1": job.id}
        for somebody, name in ((principal("bob", "user"), job.id), (ADA, "x")):
            with pytest.raises(ApiError) as caught:
                jobs.find(somebody, name)
            assert caught.value.status == 404
        await jobs.wait(3)
        assert jobs.by_message(ADA) == {}

    asyncio.run(find())
