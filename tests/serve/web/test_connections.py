import json
import socket
from contextlib import ExitStack

import httpx2
import pytest

from imprint.serve.web import connections as connections_module
from imprint.serve.web.connections import ConnectionLimiter, unmapped_address
from imprint.serve.web.log import FIELDS, LOGGER
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import Running, serving

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_one_address_has_an_eighth_of_the_connections_and_a_proxy_and_this_machine_all() -> None:
    limiter = ConnectionLimiter(["10.0.0.0/8"])
    for address in ("203.0.113.9", "2001:db8::1", "10.1.2.3", "127.0.0.1"):
        assert all(limiter.admit(address) for _ in range(512))
    assert [limiter.admit(address) for address in ("203.0.113.9", "2001:db8::2", "10.1.2.3", "127.0.0.1", "203.0.113.8")] == [
        *(False, False, True, True, True),
    ]
    limiter.release("203.0.113.9")
    limiter.release("203.0.113.9")
    assert limiter.admit("203.0.113.9")
    assert not limiter.is_full


def test_a_site_of_ipv6_has_half_of_the_connections() -> None:
    limiter = ConnectionLimiter()
    admitted = [limiter.admit(f"2001:db8:0:{number % 100:x}::1") for number in range(4096)]
    assert sum(admitted) == 2048
    for number in range(2048, 4096):
        limiter.release(f"2001:db8:0:{number % 100:x}::1")
    assert limiter.admit("2001:db8:1::1")
    assert not limiter.admit("2001:db8::1")
    assert not limiter.is_full


def test_an_address_of_ipv4_is_the_same_whatever_the_socket_calls_it() -> None:
    assert [unmapped_address(one) for one in ("::ffff:203.0.113.9", "203.0.113.9", "2001:db8::1", "fe80::1%eth0", "")] == [
        *("203.0.113.9", "203.0.113.9", "2001:db8::1", "fe80::1%eth0", ""),
    ]


def answered(running: Running) -> tuple[bytes, bytes]:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(REQUEST)
        received = b""
        while b"}" not in received and (part := connection.recv(65536)):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


def test_beyond_all_connections_a_request_is_refused_in_our_shape_and_those_that_are_there_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 3)
    with serving() as running, ExitStack() as stack:
        open_ones = [stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(3)]
        head, body = answered(running)
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in head.lower()
        assert b"connection: close" in head.lower()
        assert json.loads(body)["error"]["code"] == "engine_unavailable"
        open_ones[0].sendall(REQUEST)
        assert open_ones[0].recv(65536).startswith(b"HTTP/1.1 200")
    with serving() as running:
        assert answered(running)[0].startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs a socket for IPv6 and IPv4")
def test_a_proxy_of_ipv4_is_believed_by_a_service_that_listens_on_ipv6_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", LOGGER)
    with serving(settings=WebSettings("::", proxies=("127.0.0.1",), grace=0.5), host="::") as running:
        httpx2.get(f"{running.url}/v1/models", headers={"X-Forwarded-For": "203.0.113.9"})
    assert [vars(record)[FIELDS]["address"] for record in caplog.records if record.message == "request"] == ["203.0.113.9"]
