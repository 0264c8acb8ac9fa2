"""Calls of the store that many requests make at about the same time share one thread and one transaction."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from imprint.serve.store.database import Outcome
from imprint.serve.store.store import Store

T = TypeVar("T")


class StoreBatcher:
    """Makes calls of the store in batches: those that come while a batch runs wait for it, and are the next batch."""

    def __init__(self, store: Store, *, writes: bool) -> None:
        self._store = store
        self._writes = writes
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def call(self, function: Callable[[], T]) -> T:
        """What a call returns, when all that it wrote is kept; raises what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((function, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._make(), context=Context())  # without the permission of the one who comes first
        return await future

    async def _make(self) -> None:
        """Make the calls that wait, until none does."""
        while self._waiting:
            calls, self._waiting = self._waiting, []
            try:
                found = await run_in_threadpool(self._store.batch, [function for function, _ in calls], writes=self._writes)
            except BaseException:
                for _, future in (*calls, *self._waiting):
                    future.cancel()
                self._waiting = []
                raise
            for (_, future), outcome in zip(calls, found, strict=True):
                if not future.done():  # nobody waits for one that was cancelled
                    _resolve(future, outcome)


def _resolve(future: asyncio.Future[Any], outcome: Outcome) -> None:
    if outcome.error is None:
        future.set_result(outcome.value)
    else:
        future.set_exception(outcome.error)
