import httpx2
import pytest
from starlette.testclient import TestClient

from imprint.serve.web.access import GuardedRoute
from imprint.serve.web.app import create_app
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ADMIN_KEY, KEY, ScriptedBackend, ScriptedStore

OPEN_PATHS = {"/health/live", "/health/ready", "/openapi.json"}


def client() -> TestClient:
    return TestClient(
        create_app(ScriptedBackend(), ScriptedStore(), WebSettings(legacy=True)), base_url="http://localhost", raise_server_exceptions=False
    )


def call(client: TestClient, route: GuardedRoute, key: str = "") -> httpx2.Response:
    path = route.path.replace("{model:path}", "base")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return client.request(next(iter(route.methods or ())), path, headers=headers)


def test_every_route_declares_who_may_call_it_and_all_others_are_401_without_a_credential() -> None:
    with client() as visitor:
        routes = visitor.app.routes  # type: ignore[attr-defined]
        assert all(isinstance(route, GuardedRoute) for route in routes)
        open_paths = {route.path for route in routes if call(visitor, route).status_code != 401}
    assert open_paths == OPEN_PATHS


def test_every_role_gets_what_its_routes_declare() -> None:
    with client() as visitor:
        for route in visitor.app.routes:  # type: ignore[attr-defined]
            for key, role in ((KEY, "user"), (ADMIN_KEY, "admin")):
                refused = call(visitor, route, key).status_code in {401, 403}
                assert refused == (route.access.credential != "none" and role not in route.access.roles), (route.path, role)


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


def test_a_wrong_method_says_which_are_right() -> None:
    with client() as visitor:
        answer = visitor.put("/v1/models")
        assert (answer.status_code, answer.headers["allow"], answer.json()["error"]["code"]) == (405, "GET", "method_not_allowed")
