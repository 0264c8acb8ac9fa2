import json
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest

from imprint.serve.web.openai_bodies import REFUSED, ChatBody
from imprint.serve.web.settings import WebSettings
from tests.inference.decoding_knobs import CHANGED
from tests.serve.web.scripted import ADMIN_KEY, KEY, LIMITED_KEY, Running, ScriptedBackend, ScriptedStore, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving() as server:
        yield server


def backend_of(running: Running) -> ScriptedBackend:
    backend = running.app.state.services.backend
    assert isinstance(backend, ScriptedBackend)
    return backend


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "base", "messages": [{"role": "user", "content": text}], **fields}


def wait_until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_official_client_gets_whole_and_streamed_answers(running: Running) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["base", "tuned"]
        assert client.models.retrieve("tuned").id == "tuned"
        whole = client.chat.completions.create(
            model="tuned", messages=[{"role": "user", "content": "你好"}], n=2, logprobs=True, top_logprobs=2, max_completion_tokens=7
        )
        assert [choice.message.content for choice in whole.choices] == ["echo: 你"] * 2
        assert whole.choices[0].finish_reason == "length"
        assert whole.choices[0].logprobs is not None
        tokens = whole.choices[0].logprobs.content or []
        assert "".join(token.token for token in tokens) == "echo: 你"
        assert [len(token.top_logprobs) for token in tokens] == [2] * 7
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 14)
        chunks = list(
            client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "你好"}], stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "echo: 你好"
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8
        text = client.completions.create(model="base", prompt="Once", max_tokens=200, logprobs=1, seed=-5, stop="x")
        assert text.choices[0].text == "echo: Once"
        assert text.choices[0].logprobs is not None
        assert text.choices[0].logprobs.text_offset == list(range(10))
        assert "".join(part.choices[0].text for part in client.completions.create(model="base", prompt="Once", stream=True)) == "echo: Once"


def test_the_official_client_gets_errors_of_its_own_types(running: Running) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x" * 200}])
        assert caught.value.code == "context_length_exceeded"
        assert "200" in str(caught.value)
        assert "128" in str(caught.value)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(model="base", messages=[{"role": "user", "content": "full"}])
        assert limited.value.response.headers["retry-after"] == "3"
        assert limited.value.response.headers["x-ratelimit-limit-tokens"] == "1000000"
        with pytest.raises(openai.APIError, match="not finite") as broken:
            list(client.chat.completions.create(model="base", messages=[{"role": "user", "content": "fail"}], stream=True))
        assert broken.value.code == "server_error"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-wrong").models.list()


def test_langchain_gets_whole_and_streamed_answers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(model="base", base_url=f"{running.url}/v1", api_key=SecretStr(KEY), max_retries=0)
    assert model.invoke("你好").content == "echo: 你好"
    assert "".join(str(chunk.content) for chunk in model.stream("你好")) == "echo: 你好"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_stream_that_ends_with_done(running: Running) -> None:
    words = [
        "curl",
        "-sN",
        f"{running.url}/v1/chat/completions",
        "-H",
        f"Authorization: Bearer {KEY}",
        "-H",
        "Content-Type: application/json",
    ]
    body = json.dumps(chat("queue", stream=True, queue_events=True))
    said = subprocess.run([*words, "-d", body], capture_output=True, encoding="utf-8", check=True).stdout
    assert said.endswith("data: [DONE]\n\n")
    assert [line for line in said.splitlines() if line.startswith(":")] == [": queue 2", ": queue 1"]


def test_a_stream_that_fails_ends_with_an_error_and_without_done(running: Running) -> None:
    with running.client() as client:
        lines = client.post("/v1/chat/completions", json=chat("fail", stream=True)).text.strip().split("\n\n")
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == "server_error"
    assert error["request_id"].startswith("req-")
    assert "data: [DONE]" not in lines


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answers", [1, 3])
def test_a_client_that_leaves_ends_its_answers_in_both_forms(running: Running, answers: int, *, stream: bool) -> None:
    backend = backend_of(running)
    quota = running.app.state.services.store.quota
    with running.client() as client:
        client.timeout = 0.15
        with (
            suppress(httpx2.TimeoutException),
            client.stream("POST", "/v1/chat/completions", json=chat("slow", stream=stream, n=answers)) as answer,
        ):
            next(answer.iter_bytes())
    wait_until(lambda: all(generation.ended for generation in backend.generations))
    wait_until(lambda: (backend.running, quota.reserved) == (0, 0))
    assert all(generation.ended for generation in backend.generations)


def leave_all(running: Running, count: int) -> None:
    """Let so many clients ask for an endless answer and leave half a second later: all slots are free within a second."""
    backend = backend_of(running)
    body = json.dumps(chat("slow", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    connections = [running.connect() for _ in range(count)]
    for connection in connections:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_until(lambda: backend.running >= count)
    for connection in connections:
        connection.close()
    wait_until(lambda: backend.running == 0, 1.0)
    with running.client() as client:
        begun = time.monotonic()
        assert client.post("/v1/chat/completions", json=chat("hi")).json()["choices"][0]["message"]["content"] == "echo: hi"
        assert time.monotonic() - begun < 1


def test_many_clients_that_leave_free_all_slots_for_the_next(running: Running) -> None:
    leave_all(running, 60)
    assert backend_of(running).running == 0


@pytest.mark.long
def test_two_hundred_clients_that_leave_free_all_slots_for_the_next(running: Running) -> None:
    leave_all(running, 200)
    assert backend_of(running).running == 0


def test_answers_of_many_clients_are_never_mixed_up(running: Running) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        with running.client() as client:
            for turn in range(4):
                text = f"{number}/{turn}"
                answer = client.post("/v1/chat/completions", json=chat(text, stream=bool(turn % 2))).text
                if turn % 2:
                    events = [json.loads(line[6:]) for line in answer.split("\n\n") if line.startswith("data: {")]
                    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
                else:
                    said = json.loads(answer)["choices"][0]["message"]["content"]
                wrong.extend([] if said == f"echo: {text}" else [said])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_key_sees_and_uses_its_models_alone(running: Running) -> None:
    with running.client(LIMITED_KEY) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tuned"]
        refused = client.post("/v1/chat/completions", json=chat("hi"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert client.get("/v1/models/base").status_code == 404


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Basic abc"}, {"x-api-key": KEY}, {"Cookie": f"imprint_session={KEY}"}, {"Authorization": KEY}]
)
def test_nothing_but_a_bearer_key_opens_the_api(running: Running, header: dict[str, str]) -> None:
    with running.client() as client:
        del client.headers["authorization"]
        assert client.get("/v1/models", headers=header).status_code == 401
        assert client.post("/v1/chat/completions", json=chat("hi"), headers=header).status_code == 401


def test_a_quota_that_is_used_up_is_said_at_once_and_real_use_is_counted() -> None:
    store = ScriptedStore()
    with serving(store=store.as_store()) as running, running.client() as client:
        assert client.post("/v1/chat/completions", json=chat("hi", max_tokens=50)).status_code == 200
        assert client.post("/v1/chat/completions", json=chat("hi", max_tokens=3, stream=True)).status_code == 200
        wait_until(lambda: store.quota.settled == [10, 5])
        told = client.post("/v1/chat/completions", json=chat("hi", max_tokens=3)).headers
        assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("1000000", "999980")
        assert told["x-ratelimit-reset-tokens"].endswith("s")
        assert "x-ratelimit-limit-tokens" in client.post("/v1/completions", json={"model": "base", "prompt": "hi", "stream": True}).headers
        store.quota.most = 20
        refused = client.post("/v1/chat/completions", json=chat("hi", max_tokens=50))
        assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (429, "quota_exceeded", "60")
        assert (refused.headers["x-ratelimit-limit-tokens"], refused.headers["x-ratelimit-remaining-tokens"]) == ("20", "0")
        assert all(generation.ended for generation in backend_of(running).generations)
        assert store.quota.reserved == 0


def test_a_full_queue_is_said_in_less_than_50_milliseconds(running: Running) -> None:
    with running.client() as client:
        took = 1.0
        for _ in range(100):  # on a machine that is busy with other things, some take longer
            begun = time.monotonic()
            answer = client.post("/v1/chat/completions", json=chat("full"))
            if (took := time.monotonic() - begun) < 0.05:
                break
        assert took < 0.05
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (429, "queue_full", "3")


def test_tools_are_answered_with_calls_where_the_template_knows_them(running: Running) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    text = 'say weather\n{"city": "北京"}'
    with running.client() as client:
        whole = client.post("/v1/chat/completions", json=chat(text, tools=tools)).json()["choices"][0]
        assert whole["finish_reason"] == "tool_calls"
        assert whole["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "北京"}'}
        lines = client.post("/v1/chat/completions", json=chat(text, tools=tools, stream=True)).text.split("\n\n")
        choices = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
        assert [choice["delta"]["tool_calls"][0]["function"]["name"] for choice in choices if "tool_calls" in choice["delta"]] == [
            "weather"
        ]
        assert choices[-1]["finish_reason"] == "tool_calls"
        refused = client.post("/v1/chat/completions", json={**chat(text, tools=tools), "model": "tuned"})
        assert refused.json()["error"]["param"] == "tools"


def test_an_estimate_is_not_told_as_a_count_of_tokens(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [replace(model, counts_tokens=False) for model in backend_of(running).models()]
    monkeypatch.setattr(backend_of(running), "models", lambda: models)
    with running.client() as client:
        refused = client.post("/v1/tokenize", json={"model": "base", "prompt": "four"})
    assert (refused.status_code, refused.json()["error"]["code"], refused.json()["error"]["param"]) == (400, "unsupported_value", "model")


def test_a_request_has_no_more_log_probabilities_than_the_service_has_room_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [replace(model, max_length=32768) for model in backend_of(running).models()]
    monkeypatch.setattr(backend_of(running), "models", lambda: models)
    many: dict[str, Any] = {"n": 4, "logprobs": True, "top_logprobs": 20}
    with running.client() as client:
        for fields in ({"max_tokens": 8000}, {"max_completion_tokens": 2**31}):
            refused = client.post("/v1/chat/completions", json=chat("hi", **many, **fields))
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")
            assert "max_tokens must be at most 2,380 with 4 answers and 20 alternatives" in refused.json()["error"]["message"]
        text = {"model": "base", "prompt": "hi", "logprobs": 20, "max_tokens": 10_000}
        assert client.post("/v1/completions", json=text).status_code == 400
        for length in ({}, {"max_tokens": 2380}):
            assert client.post("/v1/chat/completions", json=chat("hi", **many, **length)).status_code == 200
            assert backend_of(running).jobs[-1].max_new_tokens == 2380
        for few in ({"logprobs": True}, {"n": 4}):
            assert client.post("/v1/chat/completions", json=chat("hi", **few)).status_code == 200
            assert backend_of(running).jobs[-1].max_new_tokens is None


def test_sampling_reaches_the_backend_as_it_was_asked(running: Running) -> None:
    backend = backend_of(running)
    fields = {"temperature": 0, "top_p": 1, "top_k": 5, "repetition_penalty": 1.1, "seed": -1, "stop": ["a", "b"], "max_tokens": 9, "n": 2}
    with running.client() as client:
        client.post("/v1/chat/completions", json=chat("hi", **fields))
        first, second = backend.jobs[-2:]
        assert (first.temperature, first.top_p, first.top_k, first.repetition_penalty) == (0, 1, 5, 1.1)
        assert (first.seed, second.seed, first.stop, first.max_new_tokens) == (2**32 - 1, 0, ("a", "b"), 9)
        assert (first.owner, first.concurrency) == ("account:ada", 2)
        client.post("/v1/chat/completions", json=chat("hi"))
        assert (backend.jobs[-1].temperature, backend.jobs[-1].top_p, backend.jobs[-1].seed) == (0.95, 0.7, None)


def test_every_knob_of_decoding_that_is_understood_reaches_the_backend(running: Running) -> None:
    backend = backend_of(running)
    with running.client() as client:
        for name in CHANGED.keys() - REFUSED.keys():
            value = CHANGED[name]
            client.post("/v1/chat/completions", json=chat("hi", **{name: value}))
            assert getattr(backend.jobs[-1], name) == value, name


def test_tokens_are_counted_without_an_answer(running: Running) -> None:
    with running.client() as client:
        assert client.post("/v1/tokenize", json={"model": "base", "prompt": "four"}).json() == {"count": 4, "max_model_len": 128}
        messages = [{"role": "user", "content": "你好"}]
        assert client.post("/v1/tokenize", json={"model": "base", "messages": messages}).json()["count"] == 2


POISON: list[dict[str, Any]] = [
    {"temperature": 1e-9}, {"temperature": 2}, {"temperature": 2.0001}, {"top_p": 0}, {"top_p": 1}, {"top_k": 0}, {"top_k": -1},
    {"top_k": 10**6 + 1}, {"repetition_penalty": 0}, {"repetition_penalty": 100}, {"max_tokens": 0}, {"max_tokens": 1},
    {"max_tokens": 2**31}, {"n": 10**6}, {"seed": 2**63}, {"seed": -(2**63)}, {"stop": ["x"] * 10_000}, {"stop": ""},
    {"logit_bias": {"999999": 100}}, {"messages": []}, {"messages": [{"role": "assistant", "content": "first"}]},
    {"messages": [{"role": "king", "content": "x"}]}, {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": 5}]}, {"messages": {}}, {"model": ""}, {"model": "../../etc"}, {"messages": [{}] * 20_000},
]  # fmt: skip


def test_no_poisoned_request_harms_the_next_one(running: Running) -> None:
    with running.client() as poison, running.client(ADMIN_KEY) as healthy:
        for fields in POISON:
            answer = poison.post("/v1/chat/completions", json=chat("hi", **fields) if "model" not in fields else {**chat("hi"), **fields})
            assert answer.status_code < 500
            assert len(answer.content) < 8192
            assert healthy.post("/v1/chat/completions", json=chat("ok")).json()["choices"][0]["message"]["content"] == "echo: ok"


def random_json(rng: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can say, with the names of fields now and then."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind >= 7:
        return {rng.choice(["role", "content", "type", "text", "x", ""]): random_json(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind == 6:
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    numbers = [0, -1, 1, 2**31, 2**64, -(2**70), 10**200, 0.5, -0.0, 1e300]
    texts = ["", "user", "system", "base", "hi", "\x00", "\uffff", "😀" * 20, "'; DROP TABLE", "<script>"]
    return rng.choice([None, True, False, rng.choice(numbers), rng.choice(texts), rng.choice(texts)])


FIELDS = [*ChatBody.model_fields, "prompt", "logit_bias"]


def fuzz(running: Running, cases: int) -> list[tuple[int, str]]:
    rng = random.Random(7)
    wrong = []
    with running.client() as client:
        for _ in range(cases):
            path = rng.choice(["/v1/chat/completions", "/v1/completions", "/v1/tokenize"])
            valid: dict[str, Any] = {"model": "base", "prompt": "hi"} if path == "/v1/completions" else chat("hi")
            body = {**valid, **{rng.choice(FIELDS): random_json(rng) for _ in range(rng.randrange(1, 4))}}
            answer = client.post(path, json=body if rng.random() < 0.95 else random_json(rng))
            if answer.status_code >= 500 or len(answer.content) > 16_384:
                wrong.append((answer.status_code, json.dumps(body)))
    return wrong


def test_random_bodies_are_never_an_error_of_the_server(running: Running) -> None:
    assert fuzz(running, 100) == []


@pytest.mark.long
def test_three_thousand_random_bodies_are_never_an_error_of_the_server(running: Running) -> None:
    assert fuzz(running, 3000) == []


def test_a_service_that_ends_takes_no_more_jobs() -> None:
    with serving(settings=WebSettings(grace=0.2)) as running, running.client() as client:
        running.app.state.services.draining = True
        refused = client.post("/v1/chat/completions", json=chat("hi"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert "retry-after" in refused.headers
        assert client.get("/health/ready").status_code == 503
