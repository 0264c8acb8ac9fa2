"""What goes on beside the requests: streams end when rights do, and what has expired is removed."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.concurrency import run_in_threadpool

from imprint.serve.store.errors import StoreError
from imprint.serve.web.errors import log_store
from imprint.serve.web.log import log
from imprint.serve.web.services import Services
from imprint.serve.web.tasks import running_beside

WATCH_SECONDS: Final = 0.4
"""Seconds after which an ended session, key or right is noticed by what goes on; requests ask each time."""
CHECK_SECONDS: Final = 30.0
"""Seconds after which what goes on is asked for its rights in any case: that counts as a use of its session, which ends without one."""
TIDY_SECONDS: Final = 600.0


@asynccontextmanager
async def watching_rights(services: Services) -> AsyncIterator[None]:
    """Watch as long as the service runs."""
    async with running_beside(_watch(services)):
        yield


async def _watch(services: Services) -> None:
    seen, checked, tidied, logged = -1, 0.0, time.monotonic(), ""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            revocations = await run_in_threadpool(services.store.revocations)
            if revocations != seen or time.monotonic() - checked > CHECK_SECONDS or _has_expired(services):
                seen, checked = revocations, time.monotonic()
                await end_revoked(services)
            if time.monotonic() - tidied > TIDY_SECONDS:
                tidied = time.monotonic()
                await run_in_threadpool(services.store.tidy)
            await retry_settlements(services)
            services.has_store, logged = True, ""
        except StoreError as error:
            services.has_store = error.kind != "unavailable"
            if error.message.english != logged:
                log_store(error)
            seen, logged = -1, error.message.english
        except Exception as error:  # without it no right would ever end again
            log("watch", {}, level=logging.ERROR, problem=error)
            seen = -1


def _has_expired(services: Services) -> bool:
    """Whether a session or key for which something goes on has ended by the clock."""
    return any(live.principal is not None and services.store.has_expired(live.principal) for live in services.live)


async def retry_settlements(services: Services) -> None:
    """Count what the database could not count before. Raises StoreError where it still cannot."""
    while services.unsettled:
        await run_in_threadpool(services.store.quota.settle, *services.unsettled[0])
        services.unsettled.pop(0)


async def end_revoked(services: Services) -> None:
    """Ask for each live answer whether its owner may still have it, and end it if not."""
    for live in list(services.live):
        if live.principal is not None and not await run_in_threadpool(services.may_go_on, live.principal):
            live.cancel()
