from collections.abc import Iterator

import httpx2
import pytest

from tests.serve.stores import PASSWORD
from tests.serve.web.page import Page, page


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("me")) as made:
        yield made


def test_a_key_is_shown_once_works_and_ends_at_once(shown: Page) -> None:
    browser = shown.user("keys")
    made = browser.post("/api/me/keys", json={"name": "script", "models": ["tuned"], "expires_in_days": 3})
    key = made.json()["key"]
    assert (made.status_code, key[:3]) == (201, "sk-")
    listed = browser.get("/api/me/keys")
    assert key not in listed.text
    assert [(one["name"], one["models"]) for one in listed.json()["keys"]] == [("script", ["tuned"])]
    with shown.running.client(key) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tuned"]
        body = {"model": "tuned", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"] == "echo: hi"
        assert browser.delete(f"/api/me/keys/{made.json()['id']}").status_code == 200
        assert client.get("/v1/models").json()["error"]["code"] == "invalid_api_key"


def test_use_is_counted_over_keys_and_page(shown: Page) -> None:
    browser = shown.user("usage", tokens_a_day=400)
    key = browser.post("/api/me/keys", json={}).json()["key"]
    with shown.running.client(key) as client:
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        used = browser.get("/api/me/usage").json()
        assert (used["limit"], used["used"], used["left"]) == (400, 10, 390)
        answers: list[httpx2.Response] = []
        while len(answers) < 60 and (not answers or answers[-1].status_code == 200):
            answers.append(client.post("/v1/chat/completions", json=body))
    assert (answers[-1].status_code, answers[-1].json()["error"]["code"]) == (429, "quota_exceeded")
    assert int(answers[-1].headers["retry-after"]) > 0


def test_a_new_password_ends_all_other_sessions(shown: Page) -> None:
    browser, other = shown.user("passwords"), shown.browser()
    other.sign_in("passwords", PASSWORD)
    assert len(browser.get("/api/me/sessions").json()["sessions"]) == 2
    wrong = browser.post("/api/me/password", json={"old": "not that one", "new": "another five words here"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "wrong_password")
    weak = browser.post("/api/me/password", json={"old": PASSWORD, "new": "short"})
    assert weak.status_code == 400
    browser.change_password(PASSWORD, "another five words here")
    assert browser.get("/api/me").status_code == 200
    assert other.get("/api/me").status_code == 401


def test_a_session_can_be_ended_from_another(shown: Page) -> None:
    browser, other = shown.user("sessions"), shown.browser()
    other.sign_in("sessions", PASSWORD)
    (theirs,) = [one["id"] for one in browser.get("/api/me/sessions").json()["sessions"] if not one["is_this"]]
    assert shown.guest().delete(f"/api/me/sessions/{theirs}").status_code == 404
    assert browser.delete(f"/api/me/sessions/{theirs}").status_code == 200
    assert other.get("/api/me").status_code == 401


def test_a_guest_has_no_keys_and_no_password(shown: Page) -> None:
    guest = shown.guest()
    assert guest.post("/api/me/keys", json={}).status_code == 403
    assert guest.post("/api/me/password", json={"old": "a", "new": "b"}).status_code == 403
    assert guest.get("/api/me/usage").json()["limit"] > 0
