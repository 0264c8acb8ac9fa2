import threading
import time
from collections.abc import Callable

import pytest

from imprint.serve.store import COMMAND_LINE, Store, StoreError
from imprint.serve.store.deletion import end_sessions
from imprint.serve.store.permission import FRESH_SECONDS, Permission, permission_to_ask, permitted_by
from imprint.serve.store.principal import Principal
from imprint.serve.store.tables import SESSIONS
from tests.serve.stores import PASSWORD, user


class EndedError(Exception):
    """The right has ended."""


def demanding(store: Store, principal: Principal) -> Callable[[], None]:
    def demand() -> None:
        if not store.is_valid(principal):
            raise EndedError

    return demand


def test_what_is_asked_of_nobody_needs_no_permission() -> None:
    permission = Permission(lambda: None)
    with permitted_by(permission):
        assert permission_to_ask(writes=True) is permission
        with permitted_by(None):
            assert permission_to_ask(writes=True) is None
    assert permission_to_ask(writes=True) is None


def test_what_only_reads_asks_where_it_has_waited() -> None:
    with permitted_by(Permission(lambda: None)):
        assert permission_to_ask(writes=False) is None
    old = Permission(lambda: None, time.monotonic() - 2 * FRESH_SECONDS)
    with permitted_by(old):
        assert permission_to_ask(writes=False) is old


def test_what_waits_for_the_lock_is_not_written_where_the_right_ended_meanwhile(store: Store) -> None:
    owner = user(store)
    outcome: list[type[BaseException] | None] = []
    database = vars(store)["_database"]

    def make_key() -> None:
        try:
            with permitted_by(Permission(demanding(store, owner))):
                store.keys.create(owner.account_id, actor=COMMAND_LINE)
        except EndedError as error:
            outcome.append(type(error))

    with database.writing() as connection:
        waiting = threading.Thread(target=make_key)
        waiting.start()
        time.sleep(0.05)
        end_sessions(connection, SESSIONS.c.account_id == owner.account_id)
    waiting.join()
    assert (outcome, store.keys.list(owner.account_id)) == ([EndedError], ())


def test_a_changed_password_ends_what_the_old_session_reads(store: Store) -> None:
    owner = user(store)
    store.sessions.change_password(owner, PASSWORD, PASSWORD + " 2", "192.0.2.7")
    old = Permission(demanding(store, owner), time.monotonic() - 1.0)
    with permitted_by(old), pytest.raises(EndedError):
        store.keys.list(owner.account_id)


def test_a_right_that_stands_changes_nothing(store: Store) -> None:
    owner = user(store)
    with permitted_by(Permission(demanding(store, owner))):
        made = store.keys.create(owner.account_id, actor=COMMAND_LINE)
        with pytest.raises(StoreError):
            store.keys.revoke(owner.account_id, "x", COMMAND_LINE)
    assert [key.id for key in store.keys.list(owner.account_id)] == [made.info.id]
