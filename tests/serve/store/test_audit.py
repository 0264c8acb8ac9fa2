from pathlib import Path

from imprint.serve.store import Actor, Limits, Store
from imprint.serve.store.audit import record
from tests.serve.stores import NOON, open_store


def count(store: Store, action: str) -> int:
    return [entry.action for entry in store.audit.list()].count(action)


def test_the_newest_entries_come_first_and_the_list_goes_on(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(5):
        store.audit.add("settings_changed", Actor("admin", "192.0.2.7"), "小明", f"{number}")
    first = store.audit.list(limit=3)
    assert [entry.detail for entry in first] == ["4", "3", "2"]
    assert [entry.detail for entry in store.audit.list(before=first[-1].id)] == ["1", "0"]
    assert (first[0].at, first[0].actor, first[0].address, first[0].subject) == (NOON, "admin", "192.0.2.7", "小明")
    store.close()


def test_a_flood_of_failed_logins_pushes_nothing_else_out(tmp_path: Path) -> None:
    store = open_store(tmp_path, limits=Limits(audit_entries=10))
    store.audit.add("account_created", Actor("admin"))
    for _ in range(20):
        store.audit.add("login_failed", Actor("x"))
    store.tidy()
    assert count(store, "login_failed") == 2
    assert count(store, "account_created") == 1
    for _ in range(20):
        store.audit.add("account_changed", Actor("admin"))
    store.tidy()
    assert (count(store, "account_changed"), count(store, "account_created")) == (10, 0)
    store.close()


def test_what_an_account_does_to_itself_pushes_out_nothing_of_others(tmp_path: Path) -> None:
    store = open_store(tmp_path, limits=Limits(audit_entries=20))
    store.audit.add("account_created", Actor("admin"))
    store.audit.add("login", Actor("小红"))
    for _ in range(30):
        store.audit.add("key_created", Actor("小明"))
        store.audit.add("key_revoked", Actor("小明"))
    store.tidy()
    assert [(entry.actor, entry.action) for entry in store.audit.list()] == [
        ("小明", "key_revoked"),
        ("小红", "login"),
        ("admin", "account_created"),
    ]
    for number in range(20):
        store.audit.add("login", Actor(f"{number}"))
    store.tidy()
    assert (count(store, "login"), count(store, "account_created")) == (8, 1)
    store.close()


def test_an_entry_is_bounded_and_stands_or_falls_with_its_transaction(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with vars(store)["_database"].writing() as connection:
        record(connection, NOON, "backup", Actor("admin"), detail="x" * 10_000)
        connection.rollback()
    assert store.audit.list() == ()
    store.audit.add("backup", Actor("admin"), detail="x" * 10_000)
    assert len(store.audit.list()[0].detail) == 500
    store.close()
