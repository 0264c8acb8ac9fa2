"""What goes on beside the requests: streams end when rights do, and what has expired is removed."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from anyio import to_thread
from starlette.concurrency import run_in_threadpool

from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal
from imprint.serve.web.errors import log_store
from imprint.serve.web.log import describe, log
from imprint.serve.web.services import Services
from imprint.serve.web.tasks import running_beside

WATCH_SECONDS: Final = 0.2
"""Seconds after which an ended session, key or right is noticed by what goes on; requests ask each time."""
CHECK_SECONDS: Final = 30.0
"""Seconds after which what goes on is asked for its rights in any case: that counts as a use of its session, which ends without one."""
TIDY_SECONDS: Final = 600.0
MAX_LOG_BYTES: Final = 64 * 2**20
"""Bytes of the database's log from which on it is emptied before: searches without a pause keep SQLite from beginning it anew."""
SHORTEN_SECONDS: Final = 10.0
"""Seconds between two tries."""


@asynccontextmanager
async def watching_rights(services: Services) -> AsyncIterator[None]:
    """Watch as long as the service runs, and do the rest beside it: that may take long or fail, and none of it waits for the other."""
    watch, tidying, removal = _Watch(services), _Tidying(services), _Removal(services)
    works: tuple[Callable[[], Awaitable[None]], ...] = (watch.look, tidying.work, removal.work, partial(retry_settlements, services))
    async with AsyncExitStack() as stack:
        stack.enter_context(services.store.leaving_removal(removal.is_due.set))
        for work in works:
            await stack.enter_async_context(running_beside(_repeat(work)))
        yield


async def _repeat(work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again, whatever goes wrong; the same trouble is logged once until it works again."""
    logged = ""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            await work()
            logged = ""
        except StoreError as error:
            if error.message.english != logged:
                log_store(error)
            logged = error.message.english
        except Exception as error:  # without it no right would ever end again
            if describe(error) != logged:
                log("watch", {}, level=logging.ERROR, problem=error)
            logged = describe(error)


class _Watch:
    """Ends what goes on without a right to it. It reads and does not write, so that it waits for nobody who does."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._seen: int | None = None
        """The revocations so far; None where some may have been missed."""
        self._checked_at = 0.0

    async def look(self) -> None:
        """Ask for the rights of what goes on, if any of them may have ended. Raises StoreError where the database cannot say it."""
        services, seen = self._services, self._seen
        self._seen = None
        try:
            revocations = await to_thread.run_sync(services.store.revocations, limiter=services.watching)
            if revocations != seen or time.monotonic() - self._checked_at > CHECK_SECONDS or _has_expired(services):
                self._checked_at = time.monotonic()
                await end_revoked(services)
        except StoreError as error:
            services.has_store = error.kind != "unavailable"
            raise
        services.has_store, self._seen = True, revocations


class _Tidying:
    """Removes what has expired, and empties the database's log."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tidied_at = self._shortened_at = time.monotonic()

    async def work(self) -> None:
        """Do what is due. Raises StoreError where the database cannot be written."""
        store, now = self._services.store, time.monotonic()
        if now - self._tidied_at > TIDY_SECONDS:
            self._tidied_at = now
            await run_in_threadpool(store.tidy)
        elif now - self._shortened_at > SHORTEN_SECONDS and store.log_bytes() > MAX_LOG_BYTES:
            self._shortened_at = now
            await run_in_threadpool(store.shorten_log)


class _Removal:
    """Removes guests' sessions that were ended, with their chats: nobody who ends them waits for it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.is_due = threading.Event()
        """Set where some have been ended."""

    async def work(self) -> None:
        """Remove them, if there are some."""
        if self.is_due.is_set():
            self.is_due.clear()
            await run_in_threadpool(self._services.store.remove_ended)


def _has_expired(services: Services) -> bool:
    """Whether a session or key for which something goes on has ended by the clock."""
    return any(live.principal is not None and services.store.has_expired(live.principal) for live in services.live)


async def retry_settlements(services: Services) -> None:
    """Count what the database could not count before. Raises StoreError where it still cannot."""
    while services.unsettled:
        await run_in_threadpool(services.store.quota.settle, *services.unsettled[0])
        services.unsettled.pop(0)


async def end_revoked(services: Services) -> None:
    """Ask in one call which of those for whom something goes on may still have it, and end what goes on for the others."""
    principals = {live.principal for live in services.live if live.principal is not None}
    ended = await to_thread.run_sync(partial(_without_right, services, [*principals]), limiter=services.watching)
    for live in [*services.live]:
        if live.principal in ended:
            live.cancel()


def _without_right(services: Services, principals: Sequence[Principal]) -> set[Principal]:
    """Which of these may not go on. Raises StoreError where the database cannot say it."""
    found = services.store.batch([partial(services.may_go_on, principal) for principal in principals], writes=False)
    for outcome in found:
        if outcome.error is not None:
            raise outcome.error
    return {principal for principal, outcome in zip(principals, found, strict=True) if not outcome.value}
