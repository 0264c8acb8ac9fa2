"""JSON of long answers, written piece by piece: one call of the encoder for all of it would hold the interpreter, and so the service."""

from collections.abc import Iterator
from typing import Any

from imprint.serve.web.sse import ENCODER


def json_bytes(value: Any) -> bytes:
    """The JSON of a value, written in pieces; call it from a thread for what is long."""
    return b"".join(piece.encode() for piece in json_pieces(value))


def json_pieces(value: Any) -> Iterator[str]:
    """The JSON of a value in parts; an iterator in it becomes a list, of which one element at a time is made and written."""
    if isinstance(value, dict):
        separator = "{"
        for key, inner in value.items():
            yield f"{separator}{ENCODER.encode(key)}:"
            yield from json_pieces(inner)
            separator = ","
        yield "}" if value else "{}"
    elif isinstance(value, Iterator):
        yield "["
        for number, inner in enumerate(value):
            if number:
                yield ","
            yield from json_pieces(inner) if _has_iterator(inner) else (ENCODER.encode(inner),)
        yield "]"
    else:
        yield ENCODER.encode(value)


def _has_iterator(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(inner, Iterator) or _has_iterator(inner) for inner in value.values())
