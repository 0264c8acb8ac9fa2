"""Servers that misbehave in every way that we know, and what becomes of it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from imprint.serve.upstream.client import MAX_EVENT_BYTES
from tests.serve.upstream.fakes import DONE, Asked, Behaviour, chunk, event, hang, head, whole


async def slow(asked: Asked) -> None:
    await asked.closed.wait()


async def endless_line(asked: Asked) -> None:
    await asked.send(head(200, "text/event-stream") + b"data: ")
    while not asked.closed.is_set():
        await asked.send(b"x" * 2**16)
        await asyncio.sleep(0)


async def pings(asked: Asked) -> None:
    await asked.stream(chunk("这", tokens=1))
    while not asked.closed.is_set():
        await asked.send(b": alive\n\n")
        await asyncio.sleep(0.02)


async def chatter(asked: Asked) -> None:
    await asked.send(head(200, "text/event-stream"))
    while not asked.closed.is_set():
        await asked.send(chunk("废话"))
        await asyncio.sleep(0)


def said(status: int, body: Any, kind: str = "application/json", more: str = "") -> Behaviour:
    return lambda asked: asked.reply(status, body, kind, more)


def streamed(*events: bytes) -> Behaviour:
    return lambda asked: asked.stream(*events)


def sent(data: bytes) -> Behaviour:
    return lambda asked: asked.send(data)


START = chunk("这", tokens=1)
CONTEXT = {"error": {"message": "This model's maximum context length is 64 tokens, secret", "type": "BadRequestError", "code": 400}}
ELSEWHERE = "Location: http://127.0.0.1:1/v1/chat/completions\r\n"
FAULTS: Mapping[str, tuple[Behaviour, str, str]] = {
    "401 with a string as body": (said(401, b'"Unauthorized secret"'), "unavailable", "does not accept the key"),
    "403": (said(403, {"detail": "secret"}), "unavailable", "does not accept the key"),
    "flat error": (said(400, {"object": "error", "message": "secret", "code": 400}), "invalid", "refuses this request"),
    "400 of the context": (said(400, CONTEXT), "context_length_exceeded", "ask for a shorter answer"),
    "413": (said(413, b"secret"), "context_length_exceeded", "ask for a shorter answer"),
    "429": (said(429, {"error": "secret"}), "unavailable", "takes no request now"),
    "500": (said(500, {"error": {"message": "secret"}}), "unavailable", "failed"),
    "HTML 502": (said(502, b"<html>Bad Gateway secret</html>", "text/html"), "unavailable", "takes no request now"),
    "HTML 200": (said(200, b"<html>secret", "text/html"), "unavailable", "no answer"),
    "JSON in place of a stream": (said(200, {"choices": []}), "unavailable", "no answer"),
    "HTML 404": (said(404, b"<html>secret", "text/html"), "unavailable", "failed"),
    "model that is gone": (said(404, {"error": {"message": "secret", "code": 404}}), "model_not_found", "this model no more"),
    "another model": (streamed(*whole(model="secret")), "unavailable", "another model"),
    "redirect": (said(307, b"", more=ELSEWHERE), "unavailable", "points to another place"),
    "cut in an event": (streamed(START, b'data: {"choices": [{"del'), "unavailable", "broke"),
    "cut after a line": (streamed(START, b'data: {"choices": []}\n'), "unavailable", "broke"),
    "cut before its length": (sent(head(200, "text/event-stream", "Content-Length: 9999\r\n") + START), "unavailable", "broke"),
    "cut in a chunk": (sent(head(200, "text/event-stream", "Transfer-Encoding: chunked\r\n") + b"ff\r\n" + START), "unavailable", "broke"),
    "closed without an answer": (sent(b""), "unavailable", "broke"),
    "no HTTP": (sent(b"secret\r\n\r\n"), "unavailable", "broke"),
    "no [DONE]": (streamed(START, chunk(reason="stop", tokens=1)), "unavailable", "did not finish"),
    "no finish_reason": (streamed(START, DONE), "unavailable", "did not finish"),
    "aborted": (streamed(START, chunk(reason="abort"), DONE), "unavailable", "failed while"),
    "filter": (streamed(START, chunk(reason="content_filter"), DONE), "invalid", "a filter of the server"),
    "filter in the middle": (streamed(START, event({"error": {"code": "content_filter"}})), "invalid", "a filter of the server"),
    "prompt above the context": (
        streamed(event({"choices": [], "usage": {"prompt_tokens": 65, "completion_tokens": 1}})),
        "context_length_exceeded",
        "ask for a shorter answer",
    ),
    "error in the middle": (streamed(START, event({"error": {"message": "secret", "code": 500}})), "unavailable", "failed while"),
    "flat error in the middle": (streamed(START, event({"object": "error", "message": "secret"})), "unavailable", "failed while"),
    "error as a string": (streamed(START, event({"error": "secret"})), "unavailable", "failed while"),
    "refusal in the middle": (streamed(event({"error": {"message": "secret", "code": 400}})), "invalid", "refuses this request"),
    "context in the middle": (streamed(event(CONTEXT)), "context_length_exceeded", "ask for a shorter answer"),
    "no JSON": (streamed(START, b"data: secret\n\n"), "unavailable", "no answer"),
    "NaN": (streamed(START, b'data: {"choices": [], "x": NaN}\n\n'), "unavailable", "no answer"),
    "deep JSON": (streamed(START, b"data: " + b"[" * 100_000 + b"\n\n"), "unavailable", "no answer"),
    "a list": (streamed(START, b"data: []\n\n"), "unavailable", "no answer"),
    "two choices": (streamed(event({"choices": [{}, {}]})), "unavailable", "no answer"),
    "a choice that is none": (streamed(event({"choices": ["secret"]})), "unavailable", "no answer"),
    "text that is none": (streamed(event({"choices": [{"delta": {"content": 5}}]})), "unavailable", "no answer"),
    "half a surrogate pair": (streamed(b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n'), "unavailable", "no answer"),
    "invalid UTF-8": (streamed(START, b"data: \xff\xfe\n\n"), "unavailable", "no answer"),
    "a line without an end": (endless_line, "unavailable", "more than was asked"),
    "an event without an end": (streamed(b"data: 1\n" * (MAX_EVENT_BYTES // 6)), "unavailable", "more than was asked"),
    "more than was asked for": (chatter, "unavailable", "more than was asked"),
    "a count of more tokens than were asked for": (streamed(chunk("a", tokens=2**30)), "unavailable", "more than was asked"),
    "slow first byte": (slow, "unavailable", "did not begin"),
    "silence": (hang, "unavailable", "said nothing more"),
    "comments alone": (pings, "unavailable", "said nothing more"),
}
"""What a server does -> how that is done, the kind of the error, and words of it. "secret" is a word of the server."""
