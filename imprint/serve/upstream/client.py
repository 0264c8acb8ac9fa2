"""Requests to servers, within bounds of time and size. No redirect is followed, and no proxy of the environment is asked."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx2

from imprint.serve.json_bounds import MAX_VALUES, broken_bound
from imprint.serve.upstream.bounded_head import Head, bounded_transport
from imprint.serve.upstream.faults import FaultError, fault_of_status, read_json

MAX_EVENT_BYTES: Final = 2**20
"""Largest line of a stream, and most of it up to the end of an event: also of comments and empty lines, which would keep the event loop
busy without an end."""
MAX_ERROR_BYTES: Final = 2**16
"""What is read of an error; the rest tells nothing."""
MAX_BODY_BYTES: Final = 2**22
"""Largest answer that is no stream: the ids of a long prompt."""
MAX_BODY_VALUES: Final = 2**18
"""Most values of it: as many as a prompt of the largest request has tokens in common languages."""
MAX_PIECES: Final = 1000
"""Most pieces in which the network brings an answer, and one more for each 32 bytes: each takes time, whatever it holds."""
PIECES_AT_ONCE: Final = 64
"""After so many pieces all else has its turn."""
THREAD_BYTES: Final = 2**16
"""Longer JSON is parsed in a thread."""
KEEP_SECONDS: Final = 2.0
"""How long an idle connection is kept: shorter than servers keep one, so that none is closed as it is used again."""
PARTS_A_TURN: Final = 256
"""Chunks and lines that are read before others have their turn: what came at once may be ten thousand of either, a byte each."""
DONE: Final = "[DONE]"
RETRY_AFTER: Final = re.compile("[0-9]{1,9}")
"""Seconds; the header may also have a date, which nobody sends."""


@dataclass(frozen=True)
class Timeouts:
    """For how long a server is waited for, in seconds."""

    connect: float = 5.0
    """Until it takes a connection."""
    first: float = 120.0
    """Until the first part of an answer: the server may have a queue, and a long prompt takes time."""
    silence: float = 60.0
    """Between two parts of an answer."""
    short: float = 10.0
    """For a question that is answered at once: which models there are, how many tokens a prompt has."""
    check: float = 10.0
    """Between two checks of a server that answers."""
    retry: float = 1.0
    """Until the first new check of a server that does not; each time twice as long, up to `longest_retry`."""
    longest_retry: float = 30.0


class Client:
    """The connections to all servers."""

    def __init__(self, key: str | None, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        headers = {"Accept-Encoding": "identity"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=timeouts.connect, write=timeouts.silence),
            transport=bounded_transport(
                httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_SECONDS),
                ssl.create_default_context(),  # which honours SSL_CERT_FILE
            ),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none is kept: each answer could bring more, sent to all ports
            follow_redirects=False,
            trust_env=False,
        )

    async def ask(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON with which a short question is answered. Raises FaultError."""
        try:
            async with asyncio.timeout(self.timeouts.short), self._answer(url, body) as response:
                content = await _read(response, MAX_BODY_BYTES)
        except TimeoutError:
            raise FaultError("timeout") from None
        return await _parsed(content, MAX_BODY_VALUES)

    async def stream(self, url: str, body: Mapping[str, Any], most_bytes: int) -> AsyncGenerator[Any]:
        """The JSON of each event of a stream of at most so many bytes, which must end with [DONE].

        Raises FaultError; closing it closes the connection.
        """
        clock, begun = asyncio.get_running_loop().time, False
        try:
            async with asyncio.timeout(self.timeouts.first) as deadline, self._answer(url, body) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise FaultError("invalid_response", status=200)
                async with aclosing(_pieces(response, most_bytes)) as pieces, aclosing(event_texts(pieces)) as texts:
                    async for text in texts:
                        deadline.reschedule(None)  # whoever reads the events may take its time
                        if text == DONE:
                            return
                        payload = await _parsed(text, MAX_VALUES)
                        begun = True
                        yield payload
                        deadline.reschedule(clock() + self.timeouts.silence)
        except TimeoutError:
            raise FaultError("silent" if begun else "timeout") from None
        raise FaultError("unfinished")

    @asynccontextmanager
    async def _answer(self, url: str, body: Mapping[str, Any] | None) -> AsyncIterator[httpx2.Response]:
        """The beginning of an answer with the status 200."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        head = Head()
        try:
            async with self._http.stream("GET" if body is None else "POST", url, content=content, headers=headers) as response:
                head.is_over = True
                if response.status_code != 200:
                    raise await _fault_of(response)
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise FaultError("unreachable") from None
        except (httpx2.HTTPError, OSError):  # also ssl.SSLError, for what is no TLS
            raise FaultError("connection_lost") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


async def _fault_of(response: httpx2.Response) -> FaultError:
    body = await _read(response, MAX_ERROR_BYTES)
    fault, seconds = fault_of_status(response.status_code, body[:MAX_ERROR_BYTES]), response.headers.get("retry-after", "")
    fault.retry_after = float(seconds) if RETRY_AFTER.fullmatch(seconds) else None
    return fault


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """The content up to the piece with which it has more than `limit` bytes."""
    content = bytearray()
    async with aclosing(_pieces(response, MAX_BODY_BYTES)) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > limit:
                break
    return bytes(content)


async def _pieces(response: httpx2.Response, most_bytes: int) -> AsyncGenerator[bytes]:
    """The content as it comes. Raises FaultError for more than `most_bytes`, and for very many small pieces."""
    size = count = 0
    async with aclosing(response.aiter_raw()) as pieces:
        async for piece in pieces:
            size, count = size + len(piece), count + 1
            if size > most_bytes or count > MAX_PIECES + size // 32:
                raise FaultError("oversized")
            if not count % PIECES_AT_ONCE:
                await asyncio.sleep(0)
            yield piece


async def _parsed(data: bytes | str, most_values: int) -> Any:
    """The value of JSON. Raises FaultError for what is none, or has more values."""
    if len(data) > THREAD_BYTES:
        return await asyncio.to_thread(_parse, data, most_values)
    return _parse(data, most_values)


def _parse(data: bytes | str, most_values: int) -> Any:
    text = data if isinstance(data, str) else _text(data)
    broken = broken_bound(text, most_values)
    if broken == "values":
        raise FaultError("oversized")
    value = None if broken == "depth" else read_json(text)
    if value is None:
        raise FaultError("invalid_response")
    return value


async def event_texts(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The data of each event of a stream of server-sent events. Raises FaultError for what is too long, or no UTF-8, or cut.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html; a line ends with a line feed, before which may be a return.
    """
    data: list[bytes] = []
    size = 0
    async for line in _lines(chunks):
        size += len(line) + 1
        if size > MAX_EVENT_BYTES:
            raise FaultError("oversized")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield _text(b"\n".join(data))
            data, size = [], 0
    if data:
        raise FaultError("connection_lost")


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The lines, without their ends; what follows the last end is no line."""
    begun, parts = bytearray(), 0
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        parts += 1
        for part in whole:
            begun += part
            if len(begun) > MAX_EVENT_BYTES:
                raise FaultError("oversized")
            yield bytes(begun.removesuffix(b"\r"))
            begun.clear()
            parts += 1
            if parts % PARTS_A_TURN == 0:
                await asyncio.sleep(0)
        begun += rest
        if len(begun) > MAX_EVENT_BYTES:
            raise FaultError("oversized")
        if parts % PARTS_A_TURN == 0:
            await asyncio.sleep(0)
    if begun:
        raise FaultError("connection_lost")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FaultError("invalid_response") from None
