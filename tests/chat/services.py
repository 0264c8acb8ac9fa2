"""Services on a free port: ours over a scripted backend, and one that answers each request with given bytes."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

MODELS = {"object": "list", "data": [{"id": "toy"}]}


def listed(models: object = MODELS) -> bytes:
    """The answer to a request for the models."""
    return whole(json.dumps(models).encode())


def whole(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A complete answer with JSON."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def streamed(*events: object, done: bool = True) -> bytes:
    """A stream that ends with its connection; bytes are sent as they are."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    lines = [event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return head + b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def piece(text: object, finish: str | None = None) -> dict[str, object]:
    """A chunk of an answer."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


class Requests(list[bytes]):
    """What was asked, and where."""

    port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bodies(self) -> list[dict[str, object]]:
        """The JSON of the questions."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self if request.startswith(b"POST")]


@contextmanager
def answering(answers: Sequence[bytes]) -> Iterator[Requests]:
    """A service that gives these answers, one to each request, and closes."""
    seen = Requests()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        seen.port = listening.getsockname()[1]

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    seen.append(_request(connection))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield seen


@contextmanager
def repeating(head: bytes, part: bytes, *, pause: float = 0.0) -> Iterator[str]:
    """The address of a service that answers one request with `head` and then `part` without an end; `pause`: seconds between two."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                _request(connection)
                connection.sendall(head)
                while True:
                    connection.sendall(part)
                    time.sleep(pause)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _request(connection: socket.socket) -> bytes:
    text = b""
    while b"\r\n\r\n" not in text:
        text += connection.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
