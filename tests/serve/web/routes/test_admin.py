import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.serve.stores import PASSWORD
from tests.serve.web.page import Page, page


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("admin")) as made:
        yield made


def number_of(shown: Page, name: str) -> int:
    return next(int(user["id"]) for user in shown.admin().get("/api/admin/users").json()["users"] if user["name"] == name)


def test_an_admin_changes_rights_and_they_hold_at_the_next_request(shown: Page) -> None:
    browser, admin = shown.user("rights"), shown.admin()
    path = f"/api/admin/users/{number_of(shown, 'rights')}"
    changed = admin.patch(path, json={"models": ["tuned"], "tokens_a_day": 77, "concurrency": 1}).json()["user"]
    assert (changed["models"], changed["tokens_a_day"], changed["concurrency"]) == (["tuned"], 77, 1)
    assert [model["id"] for model in browser.get("/api/models").json()["models"]] == ["tuned"]
    assert admin.patch(path, json={"tokens_a_day": 78}).json()["user"]["models"] == ["tuned"]
    assert admin.patch(path, json={"models": None}).json()["user"]["models"] is None
    assert admin.patch(path, json={"disabled": True}).status_code == 200
    assert browser.get("/api/me").status_code == 401
    assert browser.sign_in("rights", PASSWORD).status_code == 401
    assert admin.patch(path, json={"disabled": False}).status_code == 200
    assert browser.sign_in("rights", PASSWORD).status_code == 200


def test_a_live_answer_ends_with_the_rights_to_it(shown: Page) -> None:
    browser, admin = shown.user("demoted"), shown.admin()
    job = browser.ask(browser.new_chat(), "slow")["answers"][0]["generation"]
    with browser.stream("GET", f"/api/generations/{job}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        admin.patch(f"/api/admin/users/{number_of(shown, 'demoted')}", json={"disabled": True})
        begun = time.monotonic()
        assert [line for line in lines if line.startswith("event: end")]
        assert time.monotonic() - begun < 15


def test_a_reset_password_is_for_one_login(shown: Page) -> None:
    browser, admin = shown.user("forgetful"), shown.admin()
    password = admin.post(f"/api/admin/users/{number_of(shown, 'forgetful')}/reset-password").json()["password"]
    assert browser.get("/api/me").status_code == 401
    assert browser.sign_in("forgetful", password).json()["me"]["must_change_password"] is True


def test_an_account_can_be_deleted_and_its_sessions_ended(shown: Page) -> None:
    browser, admin = shown.user("leaver"), shown.admin()
    path = f"/api/admin/users/{number_of(shown, 'leaver')}"
    assert admin.post(f"{path}/end-sessions").status_code == 200
    assert browser.get("/api/me").status_code == 401
    assert admin.delete(path).status_code == 200
    assert admin.delete(path).status_code == 404
    assert admin.delete(f"/api/admin/users/{10**30}").status_code == 400


def test_what_admins_do_is_in_the_audit_log(shown: Page) -> None:
    shown.user("audited")
    entries = shown.admin().get("/api/admin/audit?limit=500").json()["entries"]
    assert ("account_created", "audited", "127.0.0.1") in [(one["action"], one["subject"], one["address"]) for one in entries]
    assert PASSWORD not in str(entries)
    older = shown.admin().get(f"/api/admin/audit?before={entries[0]['id']}&limit=1").json()["entries"]
    assert older[0]["id"] < entries[0]["id"]


def test_a_backup_is_a_whole_database_beside_the_first(shown: Page) -> None:
    name = shown.admin().post("/api/admin/backup").json()["file"]
    copy = sqlite3.connect(shown.store.folder / "backups" / name)
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_the_engine_and_all_models_are_shown(shown: Page) -> None:
    admin = shown.admin()
    assert admin.get("/api/admin/queue").json()["ready"] is True
    assert admin.get("/api/admin/queue").json()["hint"] is None
    assert [model["id"] for model in admin.get("/api/admin/models").json()["models"]] == ["base", "tuned"]


def test_the_guest_account_and_the_last_admin_stay_what_they_are(shown: Page) -> None:
    admin = shown.admin()
    assert admin.patch(f"/api/admin/users/{number_of(shown, 'guest')}", json={"role": "admin"}).status_code in {400, 403, 409}
    assert admin.patch(f"/api/admin/users/{number_of(shown, 'admin')}", json={"disabled": True}).status_code in {400, 403, 409}
    assert admin.post("/api/admin/users", json={"name": "x", "role": "guest"}).status_code == 400
    assert admin.post("/api/admin/users", json={"name": "x", "is_admin": True}).json()["error"]["param"] == "is_admin"
