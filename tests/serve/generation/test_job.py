import asyncio
import time

import pytest

from imprint.messages import Bilingual
from imprint.serve.generation.job import Ended, Event, Generation, Job, Piece, RefusedError, TokenPiece, Waiting
from tests.serve.scripted import ANSWER, Script, ScriptedBackend


async def events_of(generation: Generation) -> list[Event]:
    return [event async for event in generation]


def piece(text: str) -> Piece:
    return Piece(text, (TokenPiece(5, text.encode(), -1.0, text),))


class TestGeneration:
    def test_what_comes_while_nobody_reads_becomes_one_part(self) -> None:
        async def run() -> list[Event]:
            generation = Generation(3)
            for event in (Waiting(4), Waiting(2), piece("白"), piece("色"), Ended("stop", 3, 2)):
                generation.push(event)
            return await events_of(generation)

        waiting, joined, end = asyncio.run(run())

        assert (waiting, end) == (Waiting(2), Ended("stop", 3, 2))
        assert isinstance(joined, Piece)
        assert (joined.text, len(joined.tokens)) == ("白色", 2)

    def test_ends_once_whatever_comes_after(self) -> None:
        async def run() -> tuple[list[Event], list[str]]:
            calls: list[str] = []
            generation = Generation(3, lambda: calls.append("cancel"))
            generation.push(piece("白"))
            generation.cancel()
            generation.cancel()
            generation.push(piece("色"))
            generation.push(Ended("stop", 3, 2))
            return await events_of(generation), calls

        events, calls = asyncio.run(run())

        assert events == [piece("白"), Ended("cancelled", 3, 1)]
        assert calls == ["cancel"]

    def test_a_reader_waits_for_what_is_not_there_yet(self) -> None:
        async def run() -> list[Event]:
            generation = Generation(3)
            reader = asyncio.create_task(events_of(generation))
            for event in (Waiting(1), piece("白"), Ended("length", 3, 1)):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                generation.push(event)
            return await reader

        assert asyncio.run(run()) == [Waiting(1), piece("白"), Ended("length", 3, 1)]

    def test_parts_that_come_close_together_are_one_and_the_end_waits_for_nothing(self) -> None:
        async def run() -> list[Event]:
            generation = Generation(3)
            generation.spacing = 30.0
            reader = asyncio.create_task(events_of(generation))
            for event in (Waiting(1), piece("白"), piece("色"), piece("上"), Ended("length", 3, 3)):
                await asyncio.sleep(0.001)
                generation.push(event)
            return await asyncio.wait_for(reader, 5)

        waiting, first, later, end = asyncio.run(run())

        assert (waiting, first, end) == (Waiting(1), piece("白"), Ended("length", 3, 3))
        assert isinstance(later, Piece)
        assert later.text == "色上"

    def test_after_the_spacing_the_next_part_is_there(self) -> None:
        async def run() -> tuple[float, list[Event]]:
            generation = Generation(3)
            generation.spacing = 0.02
            for text in "白色上":
                generation.push(piece(text))
            first, begun = await anext(generation), time.monotonic()
            generation.push(piece("衣"))
            return time.monotonic() - begun if await anext(generation) == piece("衣") else 0.0, [first]

        seconds, (first,) = asyncio.run(run())

        assert isinstance(first, Piece)
        assert (first.text, seconds >= 0.019) == ("白色上", True)


class TestScriptedBackend:
    def test_plays_what_the_prompt_says(self) -> None:
        async def run() -> tuple[list[Event], list[Event]]:
            failed = Script(("白",), positions=(2, 1), reason="error", error=Bilingual("broken.", "坏了。"), kind="unavailable")
            backend = ScriptedBackend({"fail": failed})
            good = await backend.submit(Job("base", "ann", messages=({"role": "user", "content": "hello"},)))
            bad = await backend.submit(Job("base", "bob", text="fail"))
            return await events_of(good), await events_of(bad)

        good, bad = asyncio.run(run())

        assert "".join(event.text for event in good if isinstance(event, Piece)) == "".join(ANSWER)
        assert good[-1] == Ended("stop", 5, len(ANSWER))
        assert [event for event in bad if isinstance(event, Waiting)][-1].position == 1
        assert bad[-1] == Ended("error", 4, 1, Bilingual("broken.", "坏了。"), "unavailable")

    def test_refuses_and_hangs_as_scripted(self) -> None:
        async def run() -> list[Event]:
            refusal = RefusedError("queue_full", Bilingual("full.", "已满。"), retry_after=2.0)
            backend = ScriptedBackend({"full": Script(refusal=refusal), "hang": Script(("白",), hangs=True)})
            with pytest.raises(RefusedError, match="full"):
                await backend.submit(Job("base", "ann", text="full"))
            with pytest.raises(RefusedError, match="no model"):
                await backend.submit(Job("other", "ann", text="hello"))
            generation = await backend.submit(Job("base", "ann", text="hang"))
            first = await anext(generation)
            await backend.close(0)
            return [first, *await events_of(generation)]

        assert asyncio.run(run()) == [Piece("白", (TokenPiece(100, "白".encode(), -0.5, "白"),)), Ended("cancelled", 4, 1)]
