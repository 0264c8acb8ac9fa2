"""The server: uvicorn, with signals of its own, so that every stream ends with an event before the process does."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from imprint.serve.web.connections import ConnectionLimiter
from imprint.serve.web.protocol import BoundedProtocol

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LAST_SECONDS: Final = 1
"""Seconds after the grace in which the last events reach their clients."""

SWITCH_SECONDS: Final = 0.0005
"""After so many seconds a thread that computes lets another one go on: a step of the decoder takes but a few milliseconds, of which it
would wait five for an event loop that has much to send, each time that it comes back from the GPU."""


def prepare_process() -> None:
    """Let all streams of this process go on evenly; called once, when what stays is there."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # to walk over what stays again and again would stop all streams for a tenth of a second


class Server(uvicorn.Server):
    """Serves an application until a signal: then `drain` runs, and the process ends after it. A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals on the event loop while the server runs; in another thread than the main one there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin to end: no new answers, and those that run may end within the grace. Called on the event loop."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True

    def _signalled(self, number: int) -> None:
        if self._draining is not None:
            os._exit(128 + number)  # what is stored is complete at any time, and threads that hang keep no one waiting
        self.stop()


def build_server(
    app: ASGIApp, drain: Callable[[], Awaitable[None]], *, proxies: Sequence[str] = (), protocol: type[BoundedProtocol] = BoundedProtocol
) -> Server:
    """A server for sockets that are bound already. `proxies`: the addresses whose X-Forwarded-For and -Proto are believed."""
    config = uvicorn.Config(
        app,
        http=type(protocol.__name__, (protocol,), {"limiter": ConnectionLimiter(proxies)}),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return Server(config, drain)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by this number asyncio knows to send at once
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
