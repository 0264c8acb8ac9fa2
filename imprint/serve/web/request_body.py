"""Reads the body of a request within bounds, before anything parses it: size, type, encoding, depth, names and numbers."""

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from imprint.messages import Bilingual
from imprint.serve.json_bounds import MAX_DEPTH, MAX_VALUES, broken_bound
from imprint.serve.web.errors import ApiError

MAX_BODY_BYTES: Final = 1 << 20
SMALL_BODY_BYTES: Final = 1 << 16
"""Of those who show no credential, the largest body; of others, one up to which any number may be received and parsed at a time."""
VISITOR_VALUES: Final = 64
"""Most values in the body of guests, and of those who show no credential; of others, `MAX_VALUES`."""
MAX_DIGITS: Final = 300
"""Most digits of a number."""
SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half a character: no UTF-8 text has one, but JSON can write one as \\ud800."""
NO_JSON_TYPE: Final = Bilingual("Send JSON, with Content-Type: application/json.", "请发送 JSON，并设置 Content-Type: application/json。")
COMPRESSED: Final = Bilingual("Send the body without Content-Encoding.", "请求体不要使用 Content-Encoding。")


T = TypeVar("T")


async def read_body(
    scope: Scope,
    receive: Receive,
    parse: Callable[[bytes], Awaitable[T]],
    *,
    most: int = MAX_BODY_BYTES,
    large: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[bytes, T]:
    """The body, and what it says. `most`: bytes; `large`: held while a body of more than `SMALL_BODY_BYTES` is received and parsed.

    Raises ApiError for what breaks a bound, ClientDisconnect if the client leaves.
    """
    _check_headers(scope["headers"], most)
    with ExitStack() as held:
        body = await _received(receive, most, partial(held.enter_context, large()))
        return body, await parse(body)


def _check_headers(headers: list[tuple[bytes, bytes]], most: int) -> None:
    content_type = header(headers, b"content-type").partition(b";")[0].strip().lower()
    length = header(headers, b"content-length")
    if length.isdigit() and int(length[:20]) > most:
        raise _too_large(most)
    if content_type != b"application/json":
        raise ApiError("unsupported_media_type", NO_JSON_TYPE)
    if header(headers, b"content-encoding").strip().lower() not in {b"", b"identity"}:
        raise ApiError("unsupported_media_type", COMPRESSED)


def header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header; empty without it."""
    return next((value for key, value in headers if key == name), b"")


async def _received(receive: Receive, most: int, becomes_large: Callable[[], None]) -> bytes:
    """The whole body; what follows the bound is not kept. `becomes_large` is called once it has more than `SMALL_BODY_BYTES`."""
    body, is_large = bytearray(), False
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if len(body) > SMALL_BODY_BYTES and not is_large:
            is_large = True
            becomes_large()
        if not message.get("more_body", False):
            return bytes(body)


def parse_json(body: bytes, most_values: int = MAX_VALUES) -> Any:
    """What the JSON says. Raises ApiError for invalid UTF-8 and JSON, NaN, lone surrogates, repeated names, too deep or too many values."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"Byte {error.start} is no UTF-8", f"第 {error.start} 字节不是 UTF-8") from None
    broken = broken_bound(text, most_values)
    if broken == "depth":
        raise _invalid(f"Lists and objects are nested more than {MAX_DEPTH} deep", f"列表和对象的嵌套超过 {MAX_DEPTH} 层")
    if broken == "values":
        raise _invalid(f"There are more than {most_values:,} values", f"数值、文本、列表和对象合计超过 {most_values:,} 个")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer, parse_float=_float)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise _invalid(f"No JSON at {position}", f"第 {error.lineno} 行第 {error.colno} 列不是 JSON") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def _check_surrogates(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and SURROGATE.search(item):
            raise _invalid("A text has half a character (a lone surrogate)", "文本中有半个字符（孤立的代理项）")
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _invalid("An object has the same name twice", "同一对象中有重复的键")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _too_long()
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise _too_long()
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _invalid("A number is too large", "数值过大")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _invalid(f"{name} is no number of JSON", f"JSON 中没有数值 {name}")


def _too_long() -> ApiError:
    return _invalid(f"A number has more than {MAX_DIGITS} digits", f"数值超过 {MAX_DIGITS} 位")


def _too_large(most: int) -> ApiError:
    return ApiError(
        "payload_too_large", Bilingual(f"The body has more than {most:,} bytes; send less.", f"请求体超过 {most:,} 字节；请缩短。")
    )


def _invalid(english: str, chinese: str) -> ApiError:
    return ApiError("invalid_json", Bilingual(f"{english}.", f"{chinese}。"))
