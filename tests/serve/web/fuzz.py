"""Random requests to every route of the document: `python -m tests.serve.web.fuzz 10000` sends so many to each."""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from imprint.serve.store import COMMAND_LINE
from imprint.serve.web.settings import WebSettings
from imprint.terminal import say
from tests.serve.web.page import Page, page

OPEN_ROUTES = {
    ("GET", "/"),
    ("GET", "/page/{name}"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/openapi.json"),
    ("GET", "/api/session"),
    ("POST", "/api/session"),
    ("POST", "/api/session/guest"),
    ("POST", "/api/requests"),
}
SETTINGS = WebSettings(legacy=True, hosts=("chat.example",), guest=True, grace=0.5)


def send_random(made: Page, operation: Any, key: str, cases: int) -> list[str]:
    """Send random requests to a route, as an admin; those that were answered with an error of ours, or as to a stranger."""
    wrong: list[str] = []
    strangers = OPEN_ROUTES | {("DELETE", "/api/session"), ("POST", "/api/me/password")}  # else the admin were signed out
    signed_in = (operation.method.upper(), operation.path) not in strangers
    admin = made.browsers[-1]

    def send(case: Any) -> None:
        if isinstance(case.body, dict) and len(case.body) % 2:
            case.body.update({name: value for name, value in {"model": "base", "models": ["base"]}.items() if name in case.body})
        if case.path_parameters.get("account_id", 9) < 9:  # not the admin that asks
            case.path_parameters["account_id"] += 9
        headers, cookies = {**admin.headers, "Authorization": f"Bearer {key}"}, dict(admin.cookies) if signed_in else {}
        with suppress(requests.exceptions.InvalidHeader):  # which no client can send
            answer = case.call(base_url=made.running.url, headers=headers, cookies=cookies, session=session, timeout=20)
            if answer.status_code >= 500 or (signed_in and answer.status_code == 401):
                wrong.append(f"{answer.status_code} {case.as_curl_command()[:500]}")
        session.cookies.clear()

    calm = settings(max_examples=cases, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    with requests.Session() as session:
        calm(given(case=operation.as_strategy())(send))()
    return wrong


def fuzz(made: Page, cases: int) -> list[str]:
    """What went wrong with random requests to all routes of the document."""
    admin = made.admin()
    key = made.store.keys.create(made.store.accounts.named("admin").id, actor=COMMAND_LINE).key
    document = schemathesis.openapi.from_dict(admin.get("/openapi.json").json())
    return [one for found in document.get_all_operations() if isinstance(found, Ok) for one in send_random(made, found.ok(), key, cases)]


def main(cases: int) -> int:
    """Print how many went wrong, and the first of them."""
    with tempfile.TemporaryDirectory() as folder, page(Path(folder), SETTINGS) as made:
        wrong = fuzz(made, cases)
    say(f"random requests: {cases:,} to each route, {len(wrong)} wrong", *wrong[:10])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
