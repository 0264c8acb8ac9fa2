import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from imprint.serve.store import COMMAND_LINE, Actor, Limits, Role, Store, StoreError
from imprint.serve.store.accounts import models_of, models_text
from tests.serve.stores import HOME, NOON, PASSWORD, Clock, admin, keep_question, open_store, user


def test_the_first_start_makes_an_admin_and_a_guest_and_tells_the_password_once(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert [(account.name, account.role) for account in store.accounts.list()] == [("admin", "admin"), ("guest", "guest")]
        assert store.accounts.admins_with_first_password() == ("admin",)
        assert admin(store).must_change_password
    with open_store(tmp_path) as again:
        assert again.first_password is None
        assert len(again.accounts.list()) == 2


def test_of_many_first_starts_at_once_one_makes_the_admin(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from imprint.serve.store import Hashing, Store\n"
        "print(Store.open(Path(sys.argv[1]), hashing=Hashing(memory_kib=8, passes=1)).first_password)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    said = sorted(process.communicate()[0].strip() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert said.count("None") == 1
    with open_store(tmp_path) as store:
        password = next(one for one in said if one != "None")
        assert store.sessions.login("admin", password, HOME).principal.role == "admin"


def test_an_admin_who_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.accounts.create("root", role="admin", actor=COMMAND_LINE)
        store.accounts.delete(store.accounts.named("admin").id, COMMAND_LINE)
    with open_store(tmp_path) as again:
        assert [account.name for account in again.accounts.list()] == ["guest", "root"]


def test_no_password_and_no_token_and_no_key_is_in_the_file(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.first_password is not None
        login = store.sessions.login("admin", store.first_password, HOME)
        key = store.keys.create(login.principal.account_id, actor=COMMAND_LINE).key
        secrets = [store.first_password, login.token, key, key[9:]]
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert [secret for secret in secrets if secret.encode() in kept] == []


def test_a_new_account_has_what_was_given_and_a_password_for_one_login(store: Store) -> None:
    created = store.accounts.create(
        "小明", models=frozenset({"ad-copy"}), tokens_a_day=7, concurrency=3, contact="ming@example.com", actor=COMMAND_LINE
    )
    account = created.account
    assert (account.name, account.role, account.models, account.tokens_a_day, account.concurrency, account.contact, account.created_at) == (
        *("小明", "user", frozenset({"ad-copy"}), 7, 3, "ming@example.com", NOON),
    )
    principal = store.sessions.login("小明", created.password, HOME).principal
    assert (principal.must_change_password, principal.models, principal.tokens_a_day, principal.concurrency) == (
        *(True, frozenset({"ad-copy"}), 7, 3),
    )


@pytest.mark.parametrize("name", ["admin", "ADMIN", "Guest", "ａｄｍｉｎ"])
def test_a_name_that_is_taken_in_any_case_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="there is an account") as refused:
        store.accounts.create(name, actor=COMMAND_LINE)
    assert refused.value.kind == "conflict"
    assert len(store.accounts.list()) == 2


@pytest.mark.parametrize("name", ["admın", "ádmin", "admi\u0336n", "ᴀᴅᴍɪɴ"])
def test_a_name_that_looks_like_that_of_an_account_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match=f'name: "{name}" looks like the account "admin"') as refused:
        store.accounts.create(name, actor=COMMAND_LINE)
    assert refused.value.kind == "conflict"
    assert len(store.accounts.list()) == 2
    store.accounts.create("José", actor=COMMAND_LINE)
    with pytest.raises(StoreError, match='looks like the account "José"'):
        store.accounts.create("jose", actor=COMMAND_LINE)


def test_values_out_of_bounds_are_refused(store: Store) -> None:
    for tokens in (-1, 10**13):
        with pytest.raises(StoreError, match="tokens_a_day: must be from 0"):
            store.accounts.create("a", tokens_a_day=tokens, actor=COMMAND_LINE)
    with pytest.raises(StoreError, match="concurrency: must be from 1"):
        store.accounts.create("a", concurrency=0, actor=COMMAND_LINE)
    with pytest.raises(StoreError, match="models: must have 1 to 128 characters"):
        store.accounts.create("a", models=frozenset({""}), actor=COMMAND_LINE)
    with pytest.raises(StoreError, match="models: at most 100, got 101"):
        store.accounts.create("a", models=frozenset(map(str, range(101))), actor=COMMAND_LINE)
    with pytest.raises(StoreError, match="role: must be user or admin; there is one guest"):
        store.accounts.create("a", role="guest", actor=COMMAND_LINE)
    unknown: Role = "root"  # type: ignore[assignment]
    with pytest.raises(StoreError, match="role: must be user or admin, got 'root'"):
        store.accounts.create("a", role=unknown, actor=COMMAND_LINE)


@pytest.mark.parametrize("what", ["disabled", "demoted", "reset", "deleted", "promoted"])
def test_sessions_end_when_an_account_is_disabled_demoted_or_reset(store: Store, what: str) -> None:
    principal = user(store)
    accounts, account_id = store.accounts, principal.account_id
    if what == "demoted":
        accounts.change(account_id, role="admin", actor=COMMAND_LINE)
        principal = store.sessions.login("小明", PASSWORD, HOME).principal
    before = store.revocations()
    assert store.is_valid(principal)
    changes: dict[str, Callable[[], object]] = {
        "disabled": partial(accounts.disable, account_id, COMMAND_LINE),
        "demoted": partial(accounts.change, account_id, role="user", actor=COMMAND_LINE),
        "promoted": partial(accounts.change, account_id, role="admin", actor=COMMAND_LINE),
        "reset": partial(accounts.reset_password, account_id, COMMAND_LINE),
        "deleted": partial(accounts.delete, account_id, COMMAND_LINE),
    }
    changes[what]()
    assert store.revocations() > before
    assert not store.is_valid(principal)


def test_another_process_sees_at_once_that_an_account_is_disabled(tmp_path: Path) -> None:
    with open_store(tmp_path) as service, open_store(tmp_path) as command:
        service.start_serving()
        principal = user(service)
        key = service.keys.create(principal.account_id, actor=COMMAND_LINE).key
        before = service.revocations()
        command.accounts.disable(command.accounts.named("小明").id, COMMAND_LINE)
        assert service.revocations() > before
        assert not service.is_valid(principal)
        assert service.keys.of(key) is None
        command.accounts.enable(principal.account_id, COMMAND_LINE)
        assert service.keys.of(key) is not None
        assert not service.is_valid(principal)


def test_what_a_model_answers_ends_with_the_right_to_the_model_and_nothing_else_does(store: Store) -> None:
    principal = user(store, models=frozenset({"a", "b"}))
    change = partial(store.accounts.change, principal.account_id, actor=COMMAND_LINE)
    change(models=frozenset({"a", "b", "c"}))
    assert store.is_valid(principal)
    change(models="all")
    assert store.is_valid(principal)
    assert change(models=frozenset({"a"})).models == frozenset({"a"})
    assert not store.is_valid(principal)


def test_the_last_admin_stays(store: Store) -> None:
    one = store.accounts.named("admin").id
    for change in (
        lambda: store.accounts.disable(one, COMMAND_LINE),
        lambda: store.accounts.delete(one, COMMAND_LINE),
        lambda: store.accounts.change(one, role="user", actor=COMMAND_LINE),
    ):
        with pytest.raises(StoreError, match='"admin" is the only admin') as refused:
            change()
        assert refused.value.kind == "conflict"
    store.accounts.create("second", role="admin", actor=COMMAND_LINE)
    store.accounts.disable(one, COMMAND_LINE)
    with pytest.raises(StoreError, match='"second" is the only admin'):
        store.accounts.disable(store.accounts.named("second").id, COMMAND_LINE)


def test_the_guest_account_gets_no_password_no_role_and_no_successor(store: Store) -> None:
    guest, other = store.accounts.named("guest").id, user(store).account_id
    for change in (
        lambda: store.accounts.reset_password(guest, COMMAND_LINE),
        lambda: store.accounts.change(guest, role="admin", actor=COMMAND_LINE),
        lambda: store.accounts.change(other, role="guest", actor=COMMAND_LINE),
        lambda: store.accounts.delete(guest, COMMAND_LINE),
    ):
        with pytest.raises(StoreError, match="the guest account stays what it is"):
            change()
    store.accounts.change(guest, tokens_a_day=5, actor=COMMAND_LINE)
    assert store.sessions.guest(HOME).principal.tokens_a_day == 5
    store.accounts.disable(guest, COMMAND_LINE)
    with pytest.raises(StoreError, match="guests are not let in"):
        store.sessions.guest(HOME)


def test_a_deleted_account_takes_its_chats_and_its_number_along(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        principal = user(store)
        chat = store.chats.create(principal, "秘密")
        keep_question(store, principal, chat.id, "秘密")
        store.keys.create(principal.account_id, actor=COMMAND_LINE)
        store.accounts.delete(principal.account_id, COMMAND_LINE)
        assert user(store, "小红").account_id > principal.account_id
    with closing(sqlite3.connect(tmp_path / "service.db")) as connection:
        assert [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("chats", "messages", "api_keys")] == [(0,)] * 3


def test_quotas_change_and_the_audit_log_says_who_did_it(store: Store) -> None:
    principal = user(store)
    changed = store.accounts.change(principal.account_id, tokens_a_day=9, concurrency=4, actor=Actor("admin", HOME))
    assert (changed.tokens_a_day, changed.concurrency, changed.role) == (9, 4, "user")
    entry = store.audit.list(limit=1)[0]
    assert (entry.actor, entry.action, entry.subject, entry.detail) == ("admin", "account_changed", "小明", "tokens_a_day=9 concurrency=4")


def test_several_changes_at_once_are_made_together_or_not_at_all(store: Store) -> None:
    first = store.accounts.named("admin")
    with pytest.raises(StoreError, match="only admin"):
        store.accounts.change(first.id, models=frozenset({"a"}), tokens_a_day=9, role="user", actor=COMMAND_LINE)
    assert store.accounts.named("admin") == first
    other = user(store)
    changed = store.accounts.change(other.account_id, models=frozenset({"a"}), tokens_a_day=9, disabled=True, actor=COMMAND_LINE)
    assert (changed.models, changed.tokens_a_day, changed.disabled_at is None) == (frozenset({"a"}), 9, False)
    assert [one.detail for one in store.audit.list(limit=2)] == ["tokens_a_day=9 models=a", ""]


def test_a_one_time_password_ends_after_a_week_but_that_of_the_first_start_does_not(store: Store, clock: Clock) -> None:
    created = store.accounts.create("小明", actor=COMMAND_LINE)
    clock.now += Limits().one_time_seconds + 1
    with pytest.raises(StoreError, match="name or password is wrong"):
        store.sessions.login("小明", created.password, HOME)
    assert store.sessions.login("小明", store.accounts.reset_password(created.account.id, COMMAND_LINE), HOME)
    assert admin(store)


def test_what_is_not_there_is_told(store: Store) -> None:
    for find in (lambda: store.accounts.named("nobody"), lambda: store.accounts.get(99), lambda: store.accounts.disable(99, COMMAND_LINE)):
        with pytest.raises(StoreError, match="there is no") as refused:
            find()
        assert refused.value.kind == "not_found"


def test_names_of_models_are_kept_as_a_list() -> None:
    assert models_of(models_text(frozenset({"b", "a", "模型"}))) == frozenset({"a", "b", "模型"})
    assert models_of(models_text(None)) is None
    assert models_of(models_text(frozenset())) == frozenset()
