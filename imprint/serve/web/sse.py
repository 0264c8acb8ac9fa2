"""Server-sent events, and the clients that leave before their answer is whole."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imprint.serve.web.tasks import running_beside

KEEP_ALIVE_SECONDS: Final = 10.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""
ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""Made once: `json.dumps` would make one for every event."""
DONE: Final = b"data: [DONE]\n\n"


def data_event(value: Any) -> bytes:
    """An event with JSON."""
    return b"data: " + ENCODER.encode(value).encode() + b"\n\n"


def named_event(name: str, value: Any, *, identity: int | None = None) -> bytes:
    """An event with a name, and an id by which a browser says after which event it goes on."""
    line = b"" if identity is None else b"id: %d\n" % identity
    return line + b"event: " + name.encode() + b"\n" + data_event(value)


def comment(text: str) -> bytes:
    """A line that clients ignore."""
    return f": {text}\n\n".encode()


@asynccontextmanager
async def watching(receive: Receive, on_disconnect: Callable[[], None]) -> AsyncIterator[None]:
    """Call `on_disconnect` once the client of a request has left; the whole body must have been read before."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        on_disconnect()

    async with running_beside(watch()):
        yield


class EventStream(Response):
    """Sends events as they come, and comments between them."""

    media_type = "text/event-stream"
    keep_alive_seconds = KEEP_ALIVE_SECONDS

    def __init__(
        self, events: AsyncGenerator[bytes], on_disconnect: Callable[[], None], headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """`on_disconnect` is called when the client has left: the events should end soon after."""
        super().__init__(headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store", **headers})
        del self.headers["content-length"]
        self.events = events
        self.on_disconnect = on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of them."""

        def disconnected() -> None:
            scope["state"]["disconnected"] = True
            self.on_disconnect()

        try:
            async with running_beside(self._keep_alive(send)), watching(receive, disconnected), aclosing(self.events) as events:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for event in events:
                    self._sent = asyncio.get_running_loop().time()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            self.on_disconnect()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._sent = loop.time()
        while True:
            await asyncio.sleep(max(0.001, self._sent + self.keep_alive_seconds - loop.time()))
            if loop.time() - self._sent >= self.keep_alive_seconds:
                self._sent = loop.time()
                await send({"type": "http.response.body", "body": comment("alive"), "more_body": True})
