import itertools
import json
from collections.abc import Iterator

import pytest

from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import KEY, Running, ScriptedStore, principal, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(settings=WebSettings(legacy=True, grace=0.5)) as server:
        yield server


def test_the_form_of_2023_works_without_a_key_on_this_machine(running: Running) -> None:
    with running.client() as client:
        del client.headers["authorization"]
        first = client.post("/", json={"prompt": "你好", "history": []}).json()
        assert (first["response"], first["history"], first["status"]) == ("echo: 你好", [["你好", "echo: 你好"]], 200)
        assert len(first["time"]) == len("2023-03-23 21:38:40")
        second = client.post(
            "/", json={"prompt": "再见", "history": first["history"], "max_length": 5, "top_p": 0.7, "temperature": 0.95}
        ).json()
        assert second["response"] == "ech"
        assert len(second["history"]) == 2
    jobs = running.app.state.services.backend.jobs
    assert jobs[-1].model == "tuned"
    assert [message["role"] for message in jobs[-1].messages] == ["user", "assistant", "user"]


def test_its_stream_repeats_the_answer_so_far(running: Running) -> None:
    with running.client() as client:
        lines = client.post("/stream", json={"prompt": "hi"}).text.strip().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert all(late["response"].startswith(early["response"]) for early, late in itertools.pairwise(events))
    assert (events[-1]["response"], events[-1]["finish"], events[-1]["history"]) == ("echo: hi", True, [["hi", "echo: hi"]])


def test_a_long_history_is_sent_once_not_with_each_part_of_the_answer(running: Running) -> None:
    with running.client() as client:
        stream = client.post("/stream", json={"prompt": "hi", "history": [["a" * 10_000, ""]]}).content
    assert stream.count(b"data: ") > 2
    assert len(stream) < 20_000


def test_a_prompt_that_leaves_no_room_is_refused(running: Running) -> None:
    with running.client() as client:
        answer = client.post("/", json={"prompt": "abcdef", "max_length": 6})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_it_is_off_unless_asked_for() -> None:
    with serving() as running, running.client() as client:
        assert client.post("/", json={"prompt": "hi"}).status_code in {404, 405}
        assert client.post("/stream", json={"prompt": "hi"}).status_code == 404


def test_a_public_service_wants_a_key() -> None:
    with serving(settings=WebSettings(legacy=True, hosts=("chat.example",), grace=0.5)) as running, running.client() as client:
        assert client.post("/", json={"prompt": "hi"}, headers={"Authorization": ""}).status_code == 401
        assert client.post("/", json={"prompt": "hi"}, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_where_nobody_may_use_a_model_that_is_said() -> None:
    store = ScriptedStore()
    store.keys.principals["sk-of-nobody"] = principal("nobody", "user", models=frozenset())
    settings = WebSettings(legacy=True, hosts=("chat.example",), grace=0.5)
    with serving(store=store.as_store(), settings=settings) as running, running.client("sk-of-nobody") as client:
        assert client.post("/", json={"prompt": "hi"}).status_code == 404
