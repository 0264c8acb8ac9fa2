import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from imprint.serve.web.errors import ApiError
from imprint.serve.web.request_body import MAX_BODY_BYTES, SMALL_BODY_BYTES, VISITOR_VALUES, parse_json, read_body

BAD_BODIES: dict[str, bytes] = {
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "1e400": b'{"a": 1e400}',
    "many digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "many digits of a fraction": b'{"a": 0.' + b"9" * 100_000 + b"}",
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a lone surrogate in a name": b'{"\\udfff": 1}',
    "no UTF-8": b'{"a": "\xff"}',
    "a surrogate as UTF-8": b'{"a": "\xed\xa0\x80"}',
    "a mark at the begin": b'\xef\xbb\xbf{"a": 1}',
    "100k brackets": b"[" * 100_000,
    "50k objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a text of quotes without an end": b"[" + b"[]," * 66 + b'"' + b'\\"' * 10_000,
    "200k repeated names": b"{" + b",".join([b'"a":1'] * 150_000) + b"}",
    "350k objects": b"[" + b",".join([b"{}"] * 349_000) + b"]",
    "500k numbers": b"[" + b",".join([b"1"] * 500_000) + b"]",
    "a repeated name": b'{"a": 1, "a": 2}',
    "cut": b'{"a": ',
    "empty": b"",
    "a control character": b'{"a": "\x00"}',
    "comments": b"{} // no",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_what_is_no_sound_json_is_refused_soon_and_in_few_words(name: str) -> None:
    begun = time.process_time()
    with pytest.raises(ApiError) as caught:
        parse_json(BAD_BODIES[name])
    assert caught.value.status == 400
    assert len(caught.value.message.line) < 200
    assert time.process_time() - begun < 5


def test_what_is_sound_is_read_as_it_is() -> None:
    assert parse_json('{"a": [1, -0.0, true, null, "钢\\ud83d\\ude00", "[[[[" ]}'.encode()) == {"a": [1, 0.0, True, None, "钢😀", "[[[["]}
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_those_who_have_not_signed_in_may_send_few_values_of_any_kind() -> None:
    assert parse_json(b'{"name": "a,b,c[[[[' + b"," * 60_000 + b'", "password": "x"}', VISITOR_VALUES)["password"] == "x"
    assert len(parse_json(b"[" + b"1," * 62 + b"1]", VISITOR_VALUES)) == 63
    for body in (b"[" + b"[]," * 9_990 + b"[]]", b"[" + b'{"a":1},' * 7_000 + b"{}]", b'{"a":[' + b"1," * 64 + b"1]}"):
        begun = time.process_time()
        for _ in range(20):
            with pytest.raises(ApiError, match="more than 64 values"):
                parse_json(body, VISITOR_VALUES)
        assert time.process_time() - begun < 0.1  # read, the first would take 18 ms and its errors as long again


def test_marks_within_texts_are_no_values() -> None:
    assert parse_json(('{"a": "' + '[{\\"' * 5000 + '"}').encode())["a"].startswith("[{")
    assert parse_json(('{"a": "' + "，,[" * 100_000 + '"}').encode())["a"].startswith("，")


def test_a_body_of_very_many_values_costs_no_more_than_one_of_many() -> None:
    for name in ("350k objects", "500k numbers"):
        with pytest.raises(ApiError, match="more than 30,000 values"):
            parse_json(BAD_BODIES[name])
    message = dict.fromkeys(("id", "parent_id", "role", "content", "model", "state", "finish_reason", "created_at"), "")
    chat = {"messages": [{**message, "prompt_tokens": 1, "completion_tokens": 1}] * 2000}  # as many as a chat has, as an export says them
    assert parse_json(json.dumps(chat).encode()) == chat
    assert len(parse_json(b"[" + b",".join([b"1"] * 30_000) + b"]")) == 30_000


async def parse(body: bytes) -> Any:
    return parse_json(body)


def read(parts: Sequence[bytes], headers: dict[str, str], *, cut: bool = False) -> Any:
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return messages[asked - 1]

    scope = {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    try:
        return asyncio.run(read_body(scope, receive, parse))[1]
    finally:
        read.asked = asked  # type: ignore[attr-defined]


JSON = {"content-type": "application/json; charset=utf-8"}


def test_a_body_in_parts_is_read_whole() -> None:
    assert read([b'{"a"', b": 1}"], JSON) == {"a": 1}


def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    with pytest.raises(ApiError) as caught:
        read([b" " * 400_000] * 100, JSON)
    assert caught.value.status == 413
    assert read.asked <= MAX_BODY_BYTES // 400_000 + 1  # type: ignore[attr-defined]


def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    with pytest.raises(ApiError) as caught:
        read([b"{}"], {**JSON, "content-length": "30000000"})
    assert (caught.value.status, read.asked) == (413, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {**JSON, "content-encoding": "gzip"}])
def test_anything_but_plain_json_is_refused_by_its_type(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        read([b"{}"], headers)
    assert caught.value.status == 415


def test_a_client_that_leaves_in_the_middle_is_no_error() -> None:
    with pytest.raises(ClientDisconnect):
        read([b"{"], JSON, cut=True)


def test_a_large_body_has_a_slot_for_as_long_as_it_is_received_and_parsed() -> None:
    held: list[str] = []

    async def note(_: bytes) -> None:
        held.append("parsed")

    @contextmanager
    def slot() -> Iterator[None]:
        held.append("taken")
        yield
        held.append("given back")

    def held_for(*parts: int) -> list[str]:
        held.clear()
        bodies = [b"[" + b" " * (size - 1) if place == 0 else b" " * size for place, size in enumerate(parts)]
        messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": "http.request", "body": b"]", "more_body": False}

        asyncio.run(read_body({"headers": [(b"content-type", b"application/json")]}, receive, note, large=slot))
        return [*held]

    assert held_for(SMALL_BODY_BYTES - 1) == ["parsed"]
    for parts in ((SMALL_BODY_BYTES,), (SMALL_BODY_BYTES, 1, 1), (SMALL_BODY_BYTES + 1,)):
        assert held_for(*parts) == ["taken", "parsed", "given back"]
