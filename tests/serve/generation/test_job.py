import asyncio
import time

from imprint.serve.generation.job import Ended, Event, Generation, TextDelta, TokenPiece, Waiting


async def events_of(generation: Generation) -> list[Event]:
    return [event async for event in generation]


def delta(text: str) -> TextDelta:
    return TextDelta(text, (TokenPiece(5, text.encode(), -1.0, text),))


class TestGeneration:
    def test_what_comes_while_nobody_reads_becomes_one_part(self) -> None:
        async def run() -> list[Event]:
            generation = Generation(3)
            for event in (Waiting(4), Waiting(2), delta("白"), delta("色"), Ended("stop", 3, 2)):
                generation.push(event)
            return await events_of(generation)

        waiting, joined, end = asyncio.run(run())

        assert (waiting, end) == (Waiting(2), Ended("stop", 3, 2))
        assert isinstance(joined, TextDelta)
        assert (joined.text, len(joined.tokens)) == ("白色", 2)

    def test_ends_once_whatever_comes_after(self) -> None:
        async def run() -> tuple[list[Event], list[str]]:
            calls: list[str] = []
            generation = Generation(3, lambda: calls.append("cancel"))
            generation.push(delta("白"))
            generation.cancel()
            generation.cancel()
            generation.push(delta("色"))
            generation.push(Ended("stop", 3, 2))
            return await events_of(generation), calls

        events, calls = asyncio.run(run())

        assert events == [delta("白"), Ended("cancelled", 3, 1)]
        assert calls == ["cancel"]

    def test_a_reader_waits_for_what_is_not_there_yet(self) -> None:
        async def run() -> list[Event]:
            generation = Generation(3)
            reader = asyncio.create_task(events_of(generation))
            for event in (Waiting(1), delta("白"), Ended("length", 3, 1)):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                generation.push(event)
            return await reader

        assert asyncio.run(run()) == [Waiting(1), delta("白"), Ended("length", 3, 1)]

    def test_parts_that_come_close_together_are_one_and_the_end_waits_for_nothing(self) -> None:
        async def run() -> list[Event]:
            generation = Generation(3)
            generation.spacing = 30.0
            reader = asyncio.create_task(events_of(generation))
            for event in (Waiting(1), delta("白"), delta("色"), delta("上"), Ended("length", 3, 3)):
                await asyncio.sleep(0.001)
                generation.push(event)
            return await asyncio.wait_for(reader, 5)

        waiting, first, later, end = asyncio.run(run())

        assert (waiting, first, end) == (Waiting(1), delta("白"), Ended("length", 3, 3))
        assert isinstance(later, TextDelta)
        assert later.text == "色上"

    def test_after_the_spacing_the_next_part_is_there(self) -> None:
        async def run() -> tuple[float, list[Event]]:
            generation = Generation(3)
            generation.spacing = 0.02
            for text in "白色上":
                generation.push(delta(text))
            first, begun = await anext(generation), time.monotonic()
            generation.push(delta("衣"))
            return time.monotonic() - begun if await anext(generation) == delta("衣") else 0.0, [first]

        seconds, (first,) = asyncio.run(run())

        assert isinstance(first, TextDelta)
        assert (first.text, seconds >= 0.019) == ("白色上", True)
