import time
from collections.abc import Iterator, Sequence

import h11
import pytest

from imprint.serve.web.bounded_connection import MAX_CHUNK_LINE, MAX_HEADER_BYTES, MAX_HEADER_LINES, BoundedConnection

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def events(data: bytes, size: int | None = None) -> Iterator[h11.Event]:
    """The parts of requests that come in pieces of this size, each of which is answered by nothing."""
    return events_of([data[start : start + (size or len(data))] for start in range(0, len(data), size or len(data))])


def events_of(pieces: Sequence[bytes]) -> Iterator[h11.Event]:
    """The parts of requests that come in these pieces."""
    connection = BoundedConnection()
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            assert not isinstance(event, type)
            yield event


def status_of(data: bytes, size: int | None = None) -> int:
    """With which status a request is refused; 0 for one that is read."""
    return read(events(data, size))[0]


def read(found: Iterator[h11.Event]) -> tuple[int, bytes]:
    """With which status a request is refused, 0 for one that is read and -1 for one that has no end; and the body as far as it was read."""
    body, is_whole = b"", False
    try:
        for event in found:
            body += bytes(event.data) if isinstance(event, h11.Data) else b""
            is_whole = isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError as error:
        return error.error_status_hint, body
    return (0 if is_whole else -1), body


def splits(data: bytes) -> Iterator[Sequence[bytes]]:
    """A stream as networks may divide it: in two at every byte, in three around every byte, and at every line or byte."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    yield data.splitlines(keepends=True)
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
        if at + 1 < len(data):
            yield [data[:at], data[at : at + 1], data[at + 1 :]]


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunks of so many bytes."""
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_header_and_a_trailer_have_so_many_lines_and_no_more(size: int | None, end: bytes) -> None:
    for before, lines, after in (
        (GET, MAX_HEADER_LINES - 1, b""),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", MAX_HEADER_LINES, b""),
        (CHUNKED + b"000;x\r\n", MAX_HEADER_LINES, b""),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", 0, GET + b"a:\r\n" * 90 + b"\r\n" + b"\n" * 1000),  # the next request is none of its lines
        (POST + b"Content-Length: 2000\r\n", 0, b"\n" * 2000),
    ):
        assert status_of(before + (b"a:" + end) * lines + end + after, size) == 0
        if not after:
            assert status_of(before + (b"a:" + end) * (lines + 2) + end, size) == 431


@pytest.mark.parametrize("name", [b"Connection", b"Expect", b"Upgrade", b"X-Anything"])
def test_a_header_has_no_very_long_lists_and_a_body_may(name: bytes) -> None:
    assert status_of(GET + name + b": " + b"a," * 30_000 + b"\r\n\r\n") == 431
    assert status_of(POST + b"Content-Length: 30000\r\n" + name + b": " + b"a," * 900 + b"\r\n\r\n" + b"," * 30_000) == 0


def test_the_body_is_that_of_h11_wherever_the_network_cuts_it() -> None:
    data = CHUNKED + b"3;ext=1\r\n{\n0\r\n1\r\n\n\r\nA\r\n0123456789\r\n00\r\nX-Trailer: 1\r\n\r\n"
    for size in range(1, len(data)):
        found = list(events(data, size))
        assert b"".join(bytes(event.data) for event in found if isinstance(event, h11.Data)) == b"{\n0\n0123456789"
        assert isinstance(found[-1], h11.EndOfMessage)


BODIES = (b'{"text": "' + b"x" * 300 + b'"}', b"0,\n" + b"1\n" * 150, b"\r\n0\r\n\r\n" * 40 + b"\n\n0;")


@pytest.mark.parametrize("body", BODIES, ids=["long", "lines", "ends"])
@pytest.mark.parametrize("size", [9, 64, 290, 1000])
def test_an_honest_body_in_chunks_is_read_as_it_was_sent_wherever_the_network_cuts_it(body: bytes, size: int) -> None:
    for end in (b"0\r\n\r\n", b"0\r\na:\r\n\r\n"):
        stream = chunked(body, size) + end
        assert {read(events_of([CHUNKED, *pieces])) for pieces in splits(stream)} == {(0, body)}


@pytest.mark.parametrize("size", [1, 7, 1024, 8192, 65536])
def test_a_line_before_a_chunk_may_come_before_its_data(size: int) -> None:
    body = b"\n0" * min(50 * size, 450_000)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    pieces = [piece for part in parts for piece in (b"%x" % len(part), b"\r\n", part, b"\r\n")]
    assert read(events_of([CHUNKED, *pieces, b"0\r\n\r\n"])) == (0, body)


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (chunked(b"a" * 101, 1) + b"0\r\n\r\n", 400),
        pytest.param(chunked(b"a" * 99, 1) + chunked(b"a" * 400, 200) + b"0\r\n\r\n", 400, marks=pytest.mark.long),
        (b"2;" + b"a" * (MAX_CHUNK_LINE - 1) + b"\r\n{}\r\n0\r\n\r\n", 400),
        (b"2\r\n{}\r\n0;" + b"a" * (MAX_CHUNK_LINE - 1) + b"\r\n\r\n", 400),
        (b"2\r\n{}\r\n0\r\n" + b"a:\r\n" * (MAX_HEADER_LINES + 1) + b"\r\n", 431),
        pytest.param(chunked(b"a" * 100, 1) + b"0\r\n" + b"a:\r\n" * MAX_HEADER_LINES + b"\r\n", 0, marks=pytest.mark.long),
        (b"2;" + b"a" * (MAX_CHUNK_LINE - 2) + b"\r\n{}\r\n0;" + b"a" * (MAX_CHUNK_LINE - 2) + b"\r\n\r\n", 0),
    ],
    ids=["small chunks", "a chunk too many", "line", "last line", "trailer", "as many chunks", "as long lines"],
)
def test_the_bounds_of_a_body_hold_wherever_the_network_cuts_it(stream: bytes, status: int) -> None:
    assert {read(events_of([CHUNKED, *pieces]))[0] for pieces in splits(stream)} == {status}


@pytest.mark.parametrize("size", [None, 3])
def test_the_line_before_a_chunk_is_short(size: int | None) -> None:
    assert status_of(CHUNKED + b"2;" + b"a" * 200 + b"\r\n{}\r\n0\r\n\r\n", size) == 0
    assert status_of(CHUNKED + b"2;" + b"a" * 300 + b"\r\n{}\r\n0\r\n\r\n", size) == 400
    assert status_of(CHUNKED + b"2\r\n{}\r\n0;" + b"a" * 300, size) == 400


def test_a_body_may_have_as_many_chunks_as_a_network_makes_of_it_and_not_very_many_small_ones() -> None:
    end = b"0\r\n\r\n"
    assert status_of(CHUNKED + b"400\r\n" + (b"a" * 1024 + b"\r\n400\r\n") * 1023 + b"a" * 1024 + b"\r\n" + end, 65536) == 0
    assert status_of(CHUNKED + b"1\r\na\r\n" * 100 + end) == 0
    assert status_of(CHUNKED + b"1\r\na\r\n" * 101 + end) == 400
    assert status_of(CHUNKED + (b"f0\r\n" + b"a" * 240 + b"\r\n") * 1000 + end) == 400


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\ncontent-length: 4\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: Chunked\r\n",
    ],
)
def test_a_length_that_is_said_in_two_ways_is_refused(headers: bytes) -> None:
    assert status_of(POST + headers + b"\r\n0\r\n\r\n") == 400
    assert status_of(CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n") == 400


def test_very_many_lines_cost_less_than_a_millisecond_to_refuse() -> None:
    lines = b"a:\r\n" * ((MAX_HEADER_BYTES - len(CHUNKED) - 10) // 4)
    for data in (GET + lines + b"\r\n", CHUNKED + b"0\r\n" + lines + b"\r\n"):
        begun = time.process_time()
        for _ in range(100):
            assert status_of(data) == 431
        assert time.process_time() - begun < 1  # parsed, each would take 30 ms
