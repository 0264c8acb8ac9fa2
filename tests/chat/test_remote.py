import time
from itertools import pairwise
from typing import Any

import pytest

from imprint.chat import remote
from imprint.chat.conversation import Conversation
from imprint.chat.remote import RemoteModel, RemoteModelInfo, Service, ServiceError
from imprint.chat.section import RemoteSamplingSection
from imprint.config import Field
from tests.chat.services import answering, listed, piece, repeating, streamed, whole
from tests.inference.decoding_knobs import CHANGED
from tests.serve.web.scripted import KEY, ScriptedBackend, serving

GREEDY = Conversation(RemoteSamplingSection(temperature=0.0), has_adapter=True, model="tuned")
USAGE = {"choices": [], "usage": {"completion_tokens": 7}}


def ask(url: str, question: str, conversation: Conversation = GREEDY, key: str | None = None) -> tuple[list[str], RemoteModel]:
    model = RemoteModel(Service(f"{url}/v1", key, is_near=True))
    return list(model.answer(conversation.ask(question))), model


def refused(*answers: bytes, question: str = "hi", key: str | None = None) -> ServiceError:
    """The error after such an answer."""
    with answering(answers) as seen, pytest.raises(ServiceError) as error:
        ask(seen.url, question, key=key)
    return error.value


def test_our_service_streams_an_answer_and_counts_its_tokens() -> None:
    with serving() as running:
        texts, model = ask(running.url, "hello", key=KEY)
        assert texts[-1] == "echo: hello"
        assert all(later.startswith(text) for text, later in pairwise(texts))
        assert model.summary(GREEDY.ask("hello"), texts[-1]).tokens == len("echo: hello")
        limited, model = ask(running.url, "hello", GREEDY.with_setting("max_tokens", "3"), KEY)
        assert limited[-1] == "ech"
        assert model.summary(GREEDY.ask("hello"), "ech").notes == ["ended by the limit of tokens / 达到长度上限"]


def test_its_models_are_listed_with_licence_and_note() -> None:
    with serving() as running:
        models = Service(f"{running.url}/v1", KEY, is_near=True).models()
    assert models == [RemoteModelInfo("base", "MIT", "For tests. / 测试用。"), RemoteModelInfo("tuned", "", "")]


def test_the_conversation_and_the_settings_are_sent_and_what_has_its_default_is_not() -> None:
    settings = RemoteSamplingSection(temperature=0.5, top_k=7, stop=("。",), seed=3, max_tokens=9)
    conversation = Conversation(settings, "你是诗人。", model="poet").ask("你好").answered("好")
    with answering([streamed(piece("嗯", "stop"))] * 2) as seen:
        ask(seen.url, "再见", conversation)
        ask(seen.url, "hi", GREEDY.with_adapter(on=False))
    first, second = seen.bodies()
    said = [("system", "你是诗人。"), ("user", "你好"), ("assistant", "好"), ("user", "再见")]
    assert first.pop("messages") == [{"role": role, "content": text} for role, text in said]
    assert first == {
        "model": "poet",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.7,
        "max_tokens": 9,
        "seed": 3,
        "stop": ["。"],
        "top_k": 7,
    }
    assert second["model"] == "base"
    assert not {"max_tokens", "seed", "stop", "top_k", "repetition_penalty"} & second.keys()


class LaterSection(RemoteSamplingSection):
    """With a knob that this version does not have."""

    min_p: float = Field(0.0, description="Of a later version.")


@pytest.mark.parametrize(("name", "value"), [*CHANGED.items(), ("min_p", 0.1)])
def test_every_knob_of_decoding_is_sent_also_one_that_is_added(name: str, value: Any) -> None:
    conversation = Conversation(LaterSection(**{name: value}), model="tuned")
    with answering([streamed(piece("好", "stop"))]) as seen:
        ask(seen.url, "hi", conversation)
    assert seen.bodies()[0][name] == (list(value) if isinstance(value, tuple) else value)


def test_closing_the_answer_cancels_it_in_the_service() -> None:
    backend = ScriptedBackend()
    with serving(backend) as running:
        stream = RemoteModel(Service(f"{running.url}/v1", KEY, is_near=True)).answer(GREEDY.ask("slow"))
        assert next(stream) == "."
        assert backend.running == 1
        stream.close()
        until = time.monotonic() + 5
        while backend.running and time.monotonic() < until:
            time.sleep(0.01)
        assert backend.running == 0


def test_old_turns_are_left_out_where_the_service_finds_the_conversation_too_long() -> None:
    backend = ScriptedBackend()
    backend.max_messages = 4
    conversation = GREEDY
    for number in range(5):
        conversation = conversation.ask(f"{number}").answered("好")
    with serving(backend) as running:
        texts, model = ask(running.url, "hi", conversation, KEY)
        assert texts[-1] == "echo: hi"
        assert model.summary(conversation.ask("hi"), "echo: hi").notes == ["4 old turns no longer seen / 已略去最早 4 轮"]
        with pytest.raises(ServiceError, match="The prompt has 200 tokens, the context 128"):
            ask(running.url, "x" * 200, conversation, KEY)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("full", r"/v1: Too many wait\. Try again in 3 s\.\nhttp.*/v1：排队已满。 请在 3 秒后重试。"),
        ("bug", "/v1: Something went wrong in the server"),
        ("fail", "/v1: Numbers were not finite"),
    ],
)
def test_errors_of_our_service_are_its_own_sentences(question: str, sentence: str) -> None:
    with serving() as running, pytest.raises(ServiceError, match=sentence):
        ask(running.url, question, key=KEY)


def test_a_missing_key_says_where_to_put_one_and_no_error_shows_a_key() -> None:
    with serving() as running, pytest.raises(ServiceError, match=r"Send an API key.*Give an API key: IMPRINT_API_KEY"):
        ask(running.url, "hi")
    said = str(refused(whole(b'{"error": {"message": "Incorrect API key: sk-secret"}}', "401 Unauthorized"), key="sk-secret"))
    assert "sk-secret" not in said
    assert "Incorrect API key: ***" in said
    assert "sk-secret" not in repr(Service("http://x/v1", "sk-secret", is_near=True))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (whole(b"<html>", "502 Bad Gateway"), "/v1: HTTP 502"),
        (whole(b"", "302 Found", "Location: http://evil.example/"), "HTTP 302 It leads to http://evil.example/; give that address if"),
        (whole(b'{"choices": []}'), "answers without streaming"),
        (whole(b"x", "200 OK", "Content-Encoding: gzip"), "sends a compressed answer"),
        (whole(b"{" * 100_000, "400 Bad Request"), "HTTP 400"),
        (streamed(b"data: {nonsense\n\n"), "sends an event that is no JSON"),
        (streamed(piece("你"), done=False), "broke the answer off; the conversation is kept"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n: a\n", "/retry asks again"),
        (whole(b'{"error": {"message": "Try again in 9 seconds."}}', "429 Busy", "Retry-After: 9"), "/v1: Try again in 9 seconds.\n"),
        (streamed({"error": {"message": "The service is ending; try again later. / 服务正在关闭。"}}), "The service is ending"),
        (streamed(b"data: " + b"x" * (remote.MAX_LINE_BYTES + 70_000)), "sends a line of more than"),
        (b"nonsense\r\n\r\n", "the connection failed"),
        (b"", "the connection failed"),
    ],
)
def test_a_service_that_misbehaves_is_a_sentence(answer: bytes, sentence: str) -> None:
    assert sentence in str(refused(answer))


def test_nobody_at_the_address_says_how_to_start_a_service() -> None:
    with pytest.raises(ServiceError, match=r"cannot be reached .* `imprint serve runs/demo` starts one"):
        ask("http://127.0.0.1:9", "hi")


def test_odd_events_are_skipped_and_a_service_may_leave_the_last_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    odd: tuple[object, ...] = (
        b": alive\n\n",
        b"event: x\n",
        {"choices": "x"},
        {"choices": [7]},
        piece(None),
        piece(7),
        [],
        piece("a\ud800"),
    )
    with answering([streamed(*odd, piece("b", "stop"), USAGE, done=False)]) as seen:
        texts, model = ask(seen.url, "hi")
    assert texts == ["a?", "a?b"]
    assert model.summary(GREEDY.ask("hi"), "a?b").tokens == 7
    monkeypatch.setattr(remote, "MAX_ANSWER_CHARACTERS", 10)
    with answering([streamed(*[piece("abc")] * 9)]) as seen:
        assert ask(seen.url, "hi")[0][-1] == "abc" * 4


def test_a_service_that_lists_no_models_or_odd_ones() -> None:
    odd = {"data": [7, {}, {"id": 3}, {"id": "x" * 999, "licence": 5}]}
    with answering([whole(b"", "404 Not Found"), listed(odd), whole(b"[]"), whole(b" " * (remote.MAX_BODY_BYTES + 1))]) as seen:
        service = Service(f"{seen.url}/v1", None, is_near=True)
        assert service.models() == []
        assert service.models() == [RemoteModelInfo("x" * remote.MAX_NAME, "", "")]
        assert service.models() == []
        with pytest.raises(ServiceError, match="sends more than"):
            service.models()


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 500 Oh\r\n\r\n", b" "),
    ],
    ids=["informational", "header", "body", "error"],
)
def test_a_service_that_never_comes_to_an_end_is_left_however_steadily_it_sends(
    head: bytes, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_SECONDS", 0.3)
    with repeating(head, part, pause=0.01) as url, pytest.raises(ServiceError, match="does not answer in time"):
        Service(f"{url}/v1", None, is_near=True).models()


@pytest.mark.parametrize("part", [b": alive\n\n", b"data: {}\n\n", b"\n"], ids=["comments", "events", "empty lines"])
def test_a_stream_without_text_has_a_bound(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_STREAM_BYTES", 1 << 18)
    with repeating(streamed(done=False), part * 1000) as url, pytest.raises(ServiceError, match="sends more than 262,144 bytes"):
        ask(url, "hi")


def test_a_stream_may_last_longer_than_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_SECONDS", 0.2)
    event = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    with repeating(streamed(done=False), event, pause=0.05) as url:
        texts = RemoteModel(Service(f"{url}/v1", None, is_near=True)).answer(GREEDY.ask("hi"))
        assert [len(next(texts)) for _ in range(12)] == list(range(1, 13))
        texts.close()
