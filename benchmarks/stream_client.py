"""Streamed answers of a service, for benchmarks: a client that costs little beside the server on the same machine."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

EVENT = re.compile(rb"data: (\{.*?\})\n\n")


class Stream(asyncio.Protocol):
    """One answer over a connection of its own. What comes is kept with its time, and read when all is over."""

    def __init__(self, port: int, key: str, body: dict[str, Any]) -> None:
        content = json.dumps({"stream": True, **body}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        self._request = f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        self._transport: asyncio.Transport | None = None
        self.parts: list[tuple[float, bytes]] = []
        """What came, and when, in seconds of the event loop."""
        self.asked = 0.0
        """When it was asked."""
        self.begun = asyncio.Event()
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.parts.append((asyncio.get_running_loop().time(), data))
        self.begun.set()
        if b"[DONE]" in data:
            self.done.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.begun.set()
        self.done.set()

    def ask(self) -> None:
        """Send the request."""
        assert self._transport is not None
        self.asked = asyncio.get_running_loop().time()
        self._transport.write(self._request)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    @property
    def is_whole(self) -> bool:
        return any(b"[DONE]" in data for _, data in self.parts[-2:])

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Each event, and when it was there."""
        rest = b""
        for seconds, data in self.parts:
            rest += data
            for match in EVENT.finditer(rest):
                yield seconds, json.loads(match[1])
            rest = rest[rest.rfind(b"\n\n") + 2 :] if b"\n\n" in rest else rest

    def texts(self) -> Iterator[tuple[float, str]]:
        """Each part of the answer's text, and when it was there. Raises AssertionError for an error in its place."""
        for seconds, event in self.events():
            assert "choices" in event, event
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    yield seconds, choice["delta"]["content"]


def processor_seconds(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def connect(port: int, key: str, body: dict[str, Any]) -> Stream:
    """A stream that is not asked yet."""
    _, stream = await asyncio.get_running_loop().create_connection(partial(Stream, port, key, body), "127.0.0.1", port)
    return stream


async def answer(port: int, key: str, body: dict[str, Any]) -> Stream:
    """A whole answer."""
    stream = await connect(port, key, body)
    stream.ask()
    await stream.done.wait()
    stream.close()
    assert stream.is_whole, stream.parts[-1:]
    return stream
