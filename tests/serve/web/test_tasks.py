import asyncio

import pytest

from imprint.serve.web.tasks import running_beside


def test_what_runs_beside_a_block_ends_with_it() -> None:
    async def run() -> list[str]:
        said: list[str] = []

        async def work() -> None:
            try:
                said.append("begun")
                await asyncio.sleep(60)
            finally:
                said.append("ended")

        async with running_beside(work()):
            await asyncio.sleep(0)
            said.append("block")
        return said

    assert asyncio.run(run()) == ["begun", "block", "ended"]


def test_its_error_is_raised_at_the_end_of_the_block() -> None:
    async def run() -> None:
        async def work() -> None:
            raise ZeroDivisionError

        async with running_beside(work()):
            await asyncio.sleep(0)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
