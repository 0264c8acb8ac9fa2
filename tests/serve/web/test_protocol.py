import asyncio
import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import cast

import pytest

from imprint.serve.command import raise_file_limit
from imprint.serve.web.protocol import RECEIVE_SECONDS, SEND_SECONDS, BoundedProtocol
from imprint.serve.web.request_body import MAX_BODY_BYTES
from imprint.terminal import say
from tests.serve.web.readers import read_streams
from tests.serve.web.scripted import KEY, FastProtocol, Running, ScriptedBackend, serving

HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n".encode()
)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(protocol=FastProtocol) as server:
        yield server


def answer_to(running: Running, data: bytes) -> tuple[bytes, float]:
    """All that comes back until the connection is closed, and the seconds that it took."""
    begun = time.monotonic()
    with running.connect() as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
    return received, time.monotonic() - begun


@pytest.mark.parametrize(
    "data", [b"", b"GET / HT", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Half: ", HEAD + b"Content-Length: 100\r\n\r\n{"]
)
def test_half_a_request_is_closed_at_its_deadline(running: Running, data: bytes) -> None:
    received, seconds = answer_to(running, data)
    assert received.startswith(b"HTTP/1.1 408")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert seconds < 10  # RECEIVE_SECONDS of the service is longer


def test_a_header_that_drips_keeps_its_deadline(running: Running) -> None:
    with running.connect() as connection:
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 12:
                connection.sendall(b"GET / HTTP/1.1\r\nX-A: b\r\n"[:1])
                time.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        HEAD + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET  HTTP/9.9\r\n\r\n",
    ],
)
def test_malformed_requests_get_4xx_or_nothing(running: Running, data: bytes) -> None:
    received, seconds = answer_to(running, data)
    assert received == b"" or received.startswith(b"HTTP/1.1 4")
    assert seconds < 10  # RECEIVE_SECONDS of the service is longer


MANY_LINES = b"a:\r\n" * 101


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + MANY_LINES + b"\r\n", 431),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + MANY_LINES, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + MANY_LINES + b"\r\n", 431),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000, 431),
        (b"GET /" + b"%41" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 300 + b"\r\n{}\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    ],
)
def test_what_takes_long_to_read_is_refused_before_it_is_read_and_the_connection_closed(running: Running, data: bytes, status: int) -> None:
    received, _ = answer_to(running, data)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nx-content-type-options: nosniff\r\n" in received.lower()
    message = json.loads(received.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert any("\u4e00" < letter < "\u9fff" for letter in message)  # in both languages


def test_a_body_of_many_chunks_is_refused_before_it_stops_the_others(running: Running) -> None:
    chunked, chunk, end = HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b"2\r\n{}\r\n0\r\n\r\n"
    refused, _ = answer_to(running, chunked + chunk * 100_000)
    assert refused == b"" or refused.startswith(b"HTTP/1.1 400")  # nothing, where it was closed before all was sent
    asked = chunked.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert b"no HTTP request" in answer_to(running, asked + chunk * 101)[0]
    assert b"model is missing" in answer_to(running, asked + chunk * 99 + end)[0]


def test_a_client_that_asks_first_is_refused_before_it_sends_a_large_body(running: Running) -> None:
    size = MAX_BODY_BYTES * 30
    received, _ = answer_to(running, HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size)
    assert received.startswith(b"HTTP/1.1 413")


def test_requests_may_follow_each_other_without_waiting(running: Running) -> None:
    received, _ = answer_to(
        running,
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3
        + b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    )
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"HTTP/1.1 421") == 1


def test_a_client_that_does_not_read_is_dropped_and_others_go_on(running: Running) -> None:
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "flood"}], "stream": True}).encode()
    with running.connect() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with running.client() as client:
            assert client.get("/health/live").status_code == 200
        deadline = time.monotonic() + 8
        while running.app.state.services.backend.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.app.state.services.backend.running == 0


def test_a_client_that_leaves_the_rest_of_an_answer_unread_is_dropped(running: Running) -> None:
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        stalled.connect(("127.0.0.1", running.port))
        ours = ("127.0.0.1", stalled.getsockname()[1])
        connections = cast("set[BoundedProtocol]", running.server.server_state.connections)
        while not (found := [one for one in list(connections) if one.client == ours]):
            time.sleep(0.002)
        found[0].transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
        stalled.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 10
        while found[0] in connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found[0] not in connections


def hold_half_requests(running: Running, count: int) -> float:
    """Let so many half headers and half bodies wait; the seconds that a request took meanwhile. All are closed at their deadline."""
    half = [running.connect() for _ in range(count)]
    for number, connection in enumerate(half):
        connection.sendall(b"GET / HT" if number % 2 else HEAD + b"Content-Length: 9\r\n\r\n{")
    with running.client() as client:
        tries = []
        for _ in range(5):
            begun = time.monotonic()
            assert client.get("/health/live").status_code == 200
            tries.append(time.monotonic() - begun)
    for connection in half:
        connection.settimeout(2 * RECEIVE_SECONDS)
        with suppress(ConnectionError):
            while connection.recv(4096):
                pass
        connection.close()
    deadline = time.monotonic() + 5
    while running.server.server_state.tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running.server.server_state.tasks
    return min(tries)


def test_a_hundred_half_requests_stop_nobody(running: Running) -> None:
    assert hold_half_requests(running, 100) < 2


@pytest.mark.long
def test_a_thousand_half_requests_stop_nobody() -> None:
    raise_file_limit()
    with serving() as running:  # with the deadlines of the service
        begun = time.monotonic()
        assert hold_half_requests(running, 1000) < 0.1
        assert time.monotonic() - begun < RECEIVE_SECONDS + 3


@pytest.mark.long
def test_fifty_clients_that_do_not_read_leave_fifty_others_their_speed() -> None:
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "flood"}], "stream": True}).encode()
    with serving(ScriptedBackend(delay=0.1)) as running, ExitStack() as stack:

        def seconds(rounds: int) -> tuple[float, float]:
            """Of the middle one of fifty who read, and of the slowest, in the best round: others may use the machine, too."""
            read = []
            for _ in range(rounds):
                streams = asyncio.run(read_streams(running, 50, f"say {'x' * 40}"))
                assert all("".join(said for _, said in parts) == "x" * 40 for parts in streams)
                read.append([parts[-1][0] - parts[0][0] for parts in streams])
            return min(map(statistics.median, read)), min(map(max, read))

        before = seconds(3)
        for _ in range(50):
            stalled = stack.enter_context(running.connect())
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(5)
        beside = seconds(6)
        assert running.app.state.services.backend.running == 50  # none of them was dropped meanwhile
        deadline = time.monotonic() + SEND_SECONDS + 10
        while running.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not running.server.server_state.connections
        after = seconds(3)
        speeds = [max(alone) / each for *alone, each in zip(before, after, beside, strict=True)]
        say(f"speed of 50 readers beside 50 who do not read: {speeds[0]:.1%} the middle one, {speeds[1]:.1%} the slowest")
        assert min(speeds) >= 0.95
