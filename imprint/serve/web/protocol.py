"""HTTP/1.1 of uvicorn, with what it lacks: deadlines for clients that send too slowly or do not read, and errors in our shape.

https://github.com/Kludex/uvicorn/issues/157 lists deadlines for receiving as missing.
"""

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from imprint.messages import Bilingual
from imprint.serve.web.bounded_connection import HEADER_TOO_LARGE, MAX_HEADER_LINES, MAX_LIST_ITEMS, TARGET_TOO_LONG, BoundedConnection
from imprint.serve.web.connections import ConnectionLimiter, reject, unmapped_address
from imprint.serve.web.errors import ApiError
from imprint.serve.web.middleware import HEADERS

RECEIVE_SECONDS: Final = 15.0
"""Most seconds for the whole header of a request, and again for its whole body."""
SEND_SECONDS: Final = 60.0
"""Most seconds that a client may leave unread what was written."""
MALFORMED: Final = Bilingual("This is no HTTP request that can be understood.", "无法理解的 HTTP 请求。")
LARGE_HEADER: Final = Bilingual(
    f"The header is too large: at most {MAX_HEADER_LINES} lines, {MAX_LIST_ITEMS:,} commas and 64 KiB.",
    f"请求头过大：至多 {MAX_HEADER_LINES} 行、{MAX_LIST_ITEMS:,} 个逗号、64 KiB。",
)
LONG_TARGET: Final = Bilingual("The address is too long: at most 8 KiB.", "地址过长：至多 8 KiB。")
REFUSALS: Final[Mapping[int, tuple[str, Bilingual]]] = MappingProxyType(
    {HEADER_TOO_LARGE: ("header_too_large", LARGE_HEADER), TARGET_TOO_LONG: ("uri_too_long", LONG_TARGET)}
)
"""HTTP status -> code and message of the error; all else is malformed."""
SLOW: Final = Bilingual(f"The request was not complete after {RECEIVE_SECONDS:g} seconds.", f"请求在 {RECEIVE_SECONDS:g} 秒内未发完。")


class BoundedProtocol(H11Protocol):
    """One connection."""

    limiter = ConnectionLimiter()
    """All connections; each server has its own."""
    receive_seconds = RECEIVE_SECONDS
    send_seconds = SEND_SECONDS
    _phase: object = None
    _receive_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first header, where there is a place."""
        super().connection_made(transport)
        self.conn = BoundedConnection()
        if self.client is not None:
            self.client = unmapped_address(self.client[0]), self.client[1]
            if not self.limiter.admit(self.client[0]):
                transport.abort()
                return
        if self.limiter.is_full:
            self.app = reject
        transport.set_write_buffer_limits(0)  # else the rest of an answer that nobody reads has no deadline, and its connection no end
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came; a header or a body that has begun keeps its deadline."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of the body, if the answer came before it, or for the next header if it has begun."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        _cancel(self._receive_timer)
        _cancel(self._send_timer)
        if self.client is not None:
            self.limiter.release(self.client[0])
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: it has this long to begin."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        _cancel(self._send_timer)
        self._send_timer = None
        super().resume_writing()

    def send_400_response(self, _msg: str) -> None:
        """Answer what is no HTTP, or more than is read, and close."""
        assert isinstance(self.conn, BoundedConnection)
        status = self.conn.refused_with
        code, message = REFUSALS.get(status, ("invalid_value", MALFORMED))
        self._refuse(code, status if status in REFUSALS else 400, message)

    def _watch(self) -> None:
        """A deadline for the header or the body that is being received."""
        phase = self._receiving()
        if phase == self._phase:
            return
        _cancel(self._receive_timer)
        self._phase = phase
        if phase is not None:
            self._receive_timer = self.loop.call_later(self.receive_seconds, self._too_slow)

    def _receiving(self) -> tuple[str, int] | None:
        """What is incomplete, and of which request; None while nothing is awaited from the client."""
        if self.transport.is_closing():
            return None
        number = 0 if self.cycle is None else id(self.cycle)
        if self.conn.their_state is h11.SEND_BODY:
            return "body", number
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            return "header", number
        return None

    def _too_slow(self) -> None:
        if self.cycle is not None and self.conn.their_state is h11.SEND_BODY and self.cycle.response_started:
            self.transport.abort()
        else:
            self._refuse("request_timeout", 408, SLOW)

    def _refuse(self, code: str, status: int, message: Bilingual) -> None:
        """Answer with an error and close; where an answer has begun, close alone."""
        if not self.transport.is_closing() and self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = json.dumps(ApiError(code, message).body(None), ensure_ascii=False).encode()
            own = {b"content-type": b"application/json", b"content-length": b"%d" % len(body), b"connection": b"close"}
            for event in (
                h11.Response(status_code=status, headers=[*HEADERS.items(), *own.items()], reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
