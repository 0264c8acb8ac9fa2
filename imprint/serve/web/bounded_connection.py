"""HTTP/1.1 of h11, with bounds that it lacks: on header lines, chunks and trailers, each before it is parsed.

h11 takes two microseconds a header line, whatever stands in it, and parses all that has come at once: a request of 64 KiB may have 15,000.
"""

import re
from typing import Final, NoReturn

import h11

MAX_HEADER_BYTES: Final = 64 << 10
MAX_HEADER_LINES: Final = 100
"""Most lines of a header, or of a trailer: browsers and proxies send about twenty."""
MAX_LIST_ITEMS: Final = 1000
"""Most commas in a header: some of its lines are lists, which are divided several times."""
MAX_TARGET_BYTES: Final = 8 << 10
"""Most bytes of the line with method and address; each `%` in an address takes time, too."""
MAX_CHUNKS: Final = 100
"""Most chunks of a body, and one more for each KiB of it, as networks divide it: each takes 7 microseconds, and all that have come are
read at once."""
MAX_CHUNK_LINE: Final = 256
"""Most bytes of the line before a chunk: its size, and extensions, of which none is known."""
HEADER_TOO_LARGE: Final = 431
TARGET_TOO_LONG: Final = 414
HEADER_END: Final = re.compile(rb"\n\r?\n")
LAST_CHUNK: Final = re.compile(rb"0+(?![0-9A-Fa-f])")
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class BoundedConnection(h11.Connection):
    """Reads requests, and refuses what would take long to parse, or what two readers could divide in two ways."""

    refused_with = 400
    """HTTP status of the answer to what was refused."""
    _chunks = _chunk_bytes = 0
    _before_chunk = False
    """Whether the line before a chunk comes next; once all of it has come h11 takes it, also where nothing of the chunk has."""
    _in_trailer = False

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADER_BYTES)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next part of a request. Raises RemoteProtocolError, with `refused_with` as its status."""
        if self.their_state is h11.IDLE:
            self._check_header()
        elif self.their_state is h11.SEND_BODY and self._in_trailer:
            self._check_trailer(self.trailing_data[0])
        elif self.their_state is h11.SEND_BODY and self._before_chunk:
            self._check_chunk_line()
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.refused_with = error.error_status_hint
            raise
        if isinstance(event, h11.Request):
            self._begin_body(event)
        elif isinstance(event, h11.Data):
            self._count_chunk(event)
        return event

    def _begin_body(self, request: h11.Request) -> None:
        """Note how the body is framed. RFC 9112 6.1: with both headers a proxy in front may see another end of it than we do."""
        named = FRAMING & {name for name, _ in request.headers}
        if named == FRAMING or (b"transfer-encoding" in named and request.http_version < b"1.1"):
            self._refuse(400, "the length is said in two ways")
        self._chunks = self._chunk_bytes = 0
        self._before_chunk, self._in_trailer = b"transfer-encoding" in named, False

    def _count_chunk(self, data: h11.Data) -> None:
        """Count a chunk where it ends, which it does once, in however many parts it came."""
        self._chunk_bytes += len(data.data)
        if data.chunk_end:
            self._before_chunk = True
            self._chunks += 1
            if self._chunks > MAX_CHUNKS + (self._chunk_bytes >> 10):
                self._refuse(400, "too many chunks")

    def _check_header(self) -> None:
        data = self.trailing_data[0]
        line = data.find(b"\n")
        if (len(data) if line < 0 else line) > MAX_TARGET_BYTES:
            self._refuse(TARGET_TOO_LONG, "the address is too long")
        self._check_count(data, b"\n", MAX_HEADER_LINES + 2)  # the first line, and the empty one
        self._check_count(data, b",", MAX_LIST_ITEMS)

    def _check_chunk_line(self) -> None:
        """Refuse a long line before a chunk, whether or not all of it has come, and note what follows it."""
        begin = bytes(self._receive_buffer._data[: MAX_CHUNK_LINE + 4])  # all of it may be long; the chunk before it ends in "\r\n"
        line = begin.removeprefix(b"\r").removeprefix(b"\n")
        end = line.find(b"\r\n")
        if (len(line.removesuffix(b"\r")) if end < 0 else end) > MAX_CHUNK_LINE:
            self._refuse(400, "the line before a chunk is too long")
        if end < 0:
            return
        self._before_chunk = False
        if LAST_CHUNK.match(line):
            self._in_trailer = True
            self._check_trailer(self.trailing_data[0][len(begin) - len(line) + end + 2 :])

    def _check_trailer(self, data: bytes) -> None:
        """Refuse a trailer of many lines; one that has none begins with its end, and the next request may follow that."""
        if not data.startswith((b"\n", b"\r\n")):
            self._check_count(data, b"\n", MAX_HEADER_LINES + 1)  # and the empty one

    def _check_count(self, data: bytes, letter: bytes, most: int) -> None:
        """Refuse a header or trailer that begins here with more of a letter, whether or not all of it has come."""
        if data.count(letter) > most:
            end = HEADER_END.search(data)
            if data.count(letter, 0, end.end() if end else len(data)) > most:
                self._refuse(HEADER_TOO_LARGE, "too many header lines or items")

    def _refuse(self, status: int, reason: str) -> NoReturn:
        self.refused_with = status
        raise h11.RemoteProtocolError(reason, error_status_hint=status)
