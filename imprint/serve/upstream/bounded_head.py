"""What a server may send before an answer begins: answers with a status 1xx, which the HTTP library reads without an end."""

import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final

import httpx2

from imprint.serve.upstream.faults import FaultError

MAX_HEAD_BYTES: Final = 2**15
"""Most bytes up to the end of an answer's header, of all that comes before it, too."""
PIECE_BYTES: Final = 2**12
"""So many are read at once of it, so that others have their turn."""


class Head:
    """The beginning of an answer that a task waits for."""

    def __init__(self) -> None:
        self.bytes_left = MAX_HEAD_BYTES
        self.is_over = False
        """Whether the answer has begun."""
        AWAITED.set(self)


AWAITED: Final[ContextVar[Head]] = ContextVar("AWAITED")


class BoundedStream:
    """A connection of which no answer's header is longer than that. Raises FaultError where one is."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes."""
        head = AWAITED.get(None)
        if head is None or head.is_over:
            return bytes(await self._stream.read(max_bytes, timeout=timeout))
        if head.bytes_left <= 0:
            raise FaultError("oversized")
        data = bytes(await self._stream.read(min(max_bytes, PIECE_BYTES), timeout=timeout))
        head.bytes_left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes."""
        await self._stream.write(buffer, timeout=timeout)

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        """The connection with TLS on it."""
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname=server_hostname, timeout=timeout))

    def get_extra_info(self, info: str) -> Any:
        """What is known of it."""
        return self._stream.get_extra_info(info)


class BoundedNetwork:
    """Makes such connections."""

    def __init__(self, network: Any) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """A new connection."""
        stream = await self._network.connect_tcp(host, port, timeout=timeout, local_address=local_address, socket_options=socket_options)
        return BoundedStream(stream)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._network.sleep(seconds)


def bounded_transport(limits: httpx2.Limits, verify: ssl.SSLContext) -> httpx2.AsyncHTTPTransport:
    """The HTTP library's connections, with that bound, for which it has no setting."""
    transport = httpx2.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)
    pool: Any = transport._pool
    pool._network_backend = BoundedNetwork(pool._network_backend)
    return transport
