import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from imprint.serve.store import COMMAND_LINE, Role
from imprint.serve.web.access import GuardedRoute
from imprint.serve.web.app import create_app
from imprint.serve.web.settings import WebSettings
from tests.serve.stores import PASSWORD
from tests.serve.web.fuzz import OPEN_ROUTES, SETTINGS, UNBOUNDED, fuzz
from tests.serve.web.page import Browser, Page, page
from tests.serve.web.scripted import KEY, ScriptedBackend, ScriptedStore

RELIABILITY = Path(__file__).parents[3] / "docs" / "reliability.md"
IDS = {
    "{model:path}": "base",
    "{account_id}": str(2**62),
    "{request_id}": "x",
    "{chat_id}": "x",
    "{key_id}": "x",
    "{session_id}": "x",
    "{generation_id}": "x",
}


def client() -> TestClient:
    app = create_app(ScriptedBackend(), ScriptedStore().as_store(), WebSettings(legacy=True))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("walked"), SETTINGS, UNBOUNDED) as made:
        yield made


def routes_of(made: Page) -> list[GuardedRoute]:
    routes = made.running.app.routes
    assert all(isinstance(route, GuardedRoute) for route in routes)
    return [route for route in routes if isinstance(route, GuardedRoute)]


def call(browser: Browser, route: GuardedRoute, key: str = "") -> httpx2.Response:
    path = route.path
    for name, value in IDS.items():
        path = path.replace(name, value)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return browser.request(method_of(route), path, headers=headers)


def method_of(route: GuardedRoute) -> str:
    return next(iter(route.methods or ()))


def test_every_route_but_these_is_401_without_a_credential(walked: Page) -> None:
    answers = {(method_of(route), route.path): call(walked.browser(), route).status_code for route in routes_of(walked)}
    assert {place for place, status in answers.items() if status != 401} == OPEN_ROUTES
    assert len(answers) > 40
    (told,) = (line for line in RELIABILITY.read_text(encoding="utf-8").splitlines() if line.startswith("| roles |"))
    assert set(re.findall(r"`([A-Z]+) (/[^`]*)`", told)) == OPEN_ROUTES


@pytest.mark.parametrize("role", ["guest", "user", "admin"])
def test_every_role_may_call_what_the_routes_declare_and_nothing_else(walked: Page, role: Role) -> None:
    name = f"walker-{role}"
    if role != "guest":
        (walked.user if role == "user" else walked.second_admin)(name)
    wrong = []
    for route in routes_of(walked):
        browser = walked.browser()
        key = ""
        if role == "guest":
            browser.be_guest()
        else:
            assert browser.sign_in(name, PASSWORD).status_code == 200
            key = (
                walked.store.keys.create(walked.store.accounts.named(name).id, actor=COMMAND_LINE).key
                if route.access.credential in {"key", "local"}
                else ""
            )
        allowed = route.access.credential == "none" or role in route.access.roles
        refused = call(browser, route, key).status_code in {401, 403}
        wrong += [(route.path, role)] if refused == allowed else []
        browser.close()
    assert wrong == []


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/v1", "/v1/", "/v1/models/", "/health/live/", "/../etc/passwd", "/%2e%2e/x", "/x//evil.example"]
)
def test_nothing_else_is_served_and_nothing_redirects(path: str) -> None:
    with client() as visitor:
        answer = visitor.get(path, headers={"Authorization": f"Bearer {KEY}"}, follow_redirects=False)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in {"not_found", "model_not_found"}


def test_the_document_names_every_route_and_how_to_show_a_key() -> None:
    with client() as visitor:
        found = visitor.get("/openapi.json").json()
    assert {"/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/tokenize", "/health/ready"} <= found["paths"].keys()
    assert found["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "422" not in found["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert "queue_events" in found["components"]["schemas"]["ChatBody"]["properties"]


def test_the_document_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with client() as visitor:
        first = visitor.get("/openapi.json")
        monkeypatch.setattr(visitor.app, "openapi", None)
        assert visitor.get("/openapi.json").content == first.content
        assert first.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "methods"), [("/v1/models", "GET"), ("/api/chats", "DELETE, GET, POST"), ("/api/chats/1", "DELETE, GET, PATCH")]
)
def test_a_wrong_method_says_which_are_right(path: str, methods: str) -> None:
    with client() as visitor:
        answer = visitor.put(path)
        assert (answer.status_code, answer.headers["allow"], answer.json()["error"]["code"]) == (405, methods, "method_not_allowed")


def test_random_requests_to_every_route_are_never_an_error_of_the_server(walked: Page) -> None:
    assert fuzz(walked, 1)[1] == []


@pytest.mark.long
def test_a_hundred_random_requests_to_every_route_are_never_an_error_of_the_server(walked: Page) -> None:
    assert fuzz(walked, 100)[1] == []
