import subprocess
import sys
from pathlib import Path

import pytest

from imprint.loading.hub.transfer import HubProblemError, ResponseHead, RetryPolicy, cache_root, download_lock, is_offline, open_hub
from imprint.messages import Bilingual, UserError
from tests.hubserver import HubServer, Request


def test_a_page_is_json_and_a_next_page_is_of_the_same_hub(hub: HubServer) -> None:
    links = iter((f'<{hub.url}/api/next?cursor=1>; rel="next"', '<http://elsewhere/api>; rel="next"', ""))

    def trick(request: Request) -> bool:
        request.body(200, b"[1]", {"link": next(links)})
        return True

    hub.trick = trick
    asked = open_hub()
    assert [asked.page("/api/models") for _ in range(3)] == [([1], "/api/next?cursor=1"), ([1], None), ([1], None)]


def test_the_content_comes_behind_its_answer_and_from_the_byte_that_was_asked_for(hub: HubServer) -> None:
    hub.trick = lambda request: request.content(b"0123456789")
    answer, *parts = open_hub().read("/a/b/resolve/main/x", 4)
    assert isinstance(answer, ResponseHead)
    assert answer.status == 206
    assert parts == [b"456789"]


def test_a_refusal_carries_status_code_and_pause(hub: HubServer) -> None:
    def trick(request: Request) -> bool:
        request.error(429, "RateLimit", **{"retry-after": "7"})
        return True

    hub.trick = trick
    with pytest.raises(HubProblemError) as raised:
        open_hub().page("/api/models")
    assert (raised.value.status, raised.value.code, raised.value.pause, raised.value.may_pass) == (429, "RateLimit", 7.0, True)


def test_an_answer_without_an_end_is_left(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.loading.hub.transfer.MAX_ANSWER_BYTES", 1000)
    hub.trick = lambda request: request.content(b"[" + b" " * 5000 + b"]")
    with pytest.raises(HubProblemError, match="its answer has no end"):
        open_hub().page("/api/models")


def test_the_variables_of_hugging_face_are_read_when_a_name_is_given(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert open_hub().endpoint == hub.url
    assert open_hub().policy.stall == 0.5
    assert not is_offline()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "yes")
    assert is_offline()
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "hub"
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    assert open_hub().endpoint == "https://hf-mirror.com"
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(UserError, match="HF_ENDPOINT: must be an address"):
        open_hub()


def test_a_variable_that_the_library_cannot_read_is_a_sentence() -> None:
    program = "from imprint.loading.hub.transfer import is_offline\nis_offline()"
    surroundings = {"PYTHONPATH": ":".join(sys.path), "HF_HUB_DOWNLOAD_TIMEOUT": "ten"}
    done = subprocess.run([sys.executable, "-c", program], env=surroundings, capture_output=True, check=False)
    assert b"huggingface_hub cannot read one of the variables HF_*" in done.stderr


def test_a_second_download_waits_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Thread

    monkeypatch.setattr("imprint.loading.hub.transfer.LOCK_SECONDS", 0.05)
    order = []

    def second() -> None:
        with download_lock(tmp_path / "lock", Bilingual("waiting", "等待")):
            order.append("second")

    with download_lock(tmp_path / "lock", Bilingual("waiting", "等待")):
        thread = Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert capsys.readouterr().err == "waiting / 等待\n"


def test_pauses_grow_up_to_the_longest() -> None:
    assert [RetryPolicy(10).before(retry) for retry in (1, 2, 3, 9)] == [1, 2, 4, 60]
