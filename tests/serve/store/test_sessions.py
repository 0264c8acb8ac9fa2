import time
from pathlib import Path

import pytest

from imprint.serve.store import COMMAND_LINE, Limits, Store, StoreError
from imprint.serve.store.login import Login
from imprint.serve.store.sessions import hash_of
from tests.serve.stores import HOME, PASSWORD, Clock, admin, open_store, user


def test_every_login_is_a_session_that_was_never_there_before(store: Store) -> None:
    user(store)
    guest = store.sessions.guest(HOME)
    first = store.sessions.login("小明", PASSWORD, HOME, replaces=guest.token)
    second = store.sessions.login("小明", PASSWORD, HOME)
    assert len({guest.token, first.token, second.token}) == 3
    assert all(len(login.token) == 43 for login in (guest, first, second))
    assert store.sessions.of(guest.token) is None
    assert store.sessions.of(first.token) == first.principal
    assert store.sessions.of(second.token) == second.principal


def test_a_token_of_nobody_is_nobodys(store: Store) -> None:
    login = store.sessions.guest(HOME)
    for token in ("", "x", "x" * 43, login.token + "x", login.token[:-1], f"{login.token} ", hash_of(login.token), "\ud800", "' OR 1=1 --"):
        assert store.sessions.of(token) is None
    store.sessions.end("x" * 43)
    assert store.sessions.of(login.token) is not None


def test_a_session_ends_at_logout_and_live_streams_hear_of_it(store: Store) -> None:
    user(store)
    login = store.sessions.login("小明", PASSWORD, HOME)
    before = store.revocations()
    assert store.is_valid(login.principal)
    store.sessions.end(login.token, HOME)
    assert [(one.action, one.actor, one.address) for one in store.audit.list(limit=1)] == [("logout", "小明", HOME)]
    assert store.revocations() > before
    assert not store.is_valid(login.principal)
    assert store.sessions.of(login.token) is None


def test_a_session_ends_after_12_hours_without_a_request(store: Store, clock: Clock) -> None:
    login = store.sessions.guest(HOME)
    for _ in range(3):
        clock.now += 11.9 * 3600
        assert store.sessions.of(login.token) is not None
    clock.now += 12.1 * 3600
    assert store.sessions.of(login.token) is None
    assert store.sessions.list(login.principal) == ()


def test_a_session_ends_after_seven_days_in_any_case(store: Store, clock: Clock) -> None:
    login = store.sessions.guest(HOME)
    for _ in range(7 * 24 - 1):
        clock.now += 3600
        assert store.sessions.of(login.token) is not None
    clock.now += 3601
    assert store.sessions.of(login.token) is None


def test_a_clock_that_jumps_ends_sessions_early_but_never_late(store: Store, clock: Clock) -> None:
    login = store.sessions.guest(HOME)
    clock.now -= 30 * 86_400  # back: the session goes on, for seven days from now at most
    assert store.sessions.of(login.token) is not None
    for _ in range(7 * 24 - 1):
        clock.now += 3600
        assert store.sessions.of(login.token) is not None
    clock.now += 3601
    assert store.sessions.of(login.token) is None
    other = store.sessions.guest(HOME)
    clock.now += 365 * 86_400
    assert store.sessions.of(other.token) is None
    assert store.sessions.of(store.sessions.guest(HOME).token) is not None


def test_a_change_of_the_password_ends_all_sessions_and_begins_one(store: Store) -> None:
    assert store.first_password is not None
    other = admin(store)
    login = store.sessions.login("admin", store.first_password, HOME)
    assert login.principal.must_change_password
    changed = store.sessions.change_password(login.principal, store.first_password, PASSWORD, HOME)
    assert not changed.principal.must_change_password
    assert [store.is_valid(one) for one in (other, login.principal, changed.principal)] == [False, False, True]
    assert store.accounts.admins_with_first_password() == ()
    with pytest.raises(StoreError, match="name or password is wrong"):
        store.sessions.login("admin", store.first_password, HOME)
    assert store.sessions.login("admin", PASSWORD, HOME)


def test_a_password_changes_only_for_a_good_new_one_and_with_the_old_one(store: Store) -> None:
    principal = user(store)
    for old, new, message in (
        ("wrong", "another good one", "name or password is wrong"),
        (PASSWORD, "short", "at least 10 characters"),
        (PASSWORD, PASSWORD, "is the old one"),
    ):
        with pytest.raises(StoreError, match=message):
            store.sessions.change_password(principal, old, new, HOME)
    assert store.is_valid(principal)
    with pytest.raises(StoreError, match="a guest has no password"):
        store.sessions.change_password(store.sessions.guest(HOME).principal, "", "another good one", HOME)


def test_guessing_the_old_password_is_throttled_too(store: Store) -> None:
    principal = user(store)
    kinds = []
    for _ in range(6):
        with pytest.raises(StoreError) as refused:
            store.sessions.change_password(principal, "wrong", "another good one", HOME)
        kinds.append(refused.value.kind)
    assert kinds == ["credentials"] * 5 + ["throttled"]


def test_each_guest_is_an_owner_of_its_own(store: Store) -> None:
    guests = [store.sessions.guest(HOME).principal for _ in range(3)]
    assert len({guest.owner for guest in guests}) == 3
    assert {(guest.role, guest.account_id) for guest in guests} == {("guest", guests[0].account_id)}
    assert [session.is_this for session in store.sessions.list(guests[0])] == [True]


def test_a_site_of_ipv6_takes_four_times_what_an_address_does_and_no_place_of_others(store: Store) -> None:
    for network in range(240):
        store.sessions.guest(f"2001:db8:1:{network:x}::1")
    with pytest.raises(StoreError, match="too many guests"):
        store.sessions.guest("2001:db8:1:ffff::1")
    assert store.sessions.guest("2001:db8:2::1").principal.role == "guest"


def test_sixty_guests_an_hour_come_from_one_address(store: Store) -> None:
    for _ in range(60):
        store.sessions.guest(HOME)
    with pytest.raises(StoreError, match="too many guests") as refused:
        store.sessions.guest(HOME)
    assert refused.value.kind == "throttled"
    assert store.sessions.guest("198.51.100.1")


def test_sessions_are_listed_and_ended_by_their_own_account_alone(store: Store) -> None:
    principal, other = user(store), user(store, "小红")
    second = store.sessions.login("小明", PASSWORD, "198.51.100.1")
    listed = store.sessions.list(principal)
    assert [(session.id, session.address, session.is_this) for session in listed] == [
        (second.principal.session_id, "198.51.100.1", False),
        (principal.session_id, HOME, True),
    ]
    assert second.principal.session_id is not None
    for stranger in (other, store.sessions.guest(HOME).principal):
        with pytest.raises(StoreError, match="there is no such session"):
            store.sessions.revoke(stranger, second.principal.session_id)
    store.sessions.revoke(principal, second.principal.session_id)
    assert store.sessions.of(second.token) is None
    assert store.is_valid(principal)
    store.sessions.end_all(principal.account_id, COMMAND_LINE)
    assert not store.is_valid(principal)


def test_of_very_many_sessions_the_oldest_ends(store: Store) -> None:
    user(store)
    tokens = [store.sessions.login("小明", PASSWORD, HOME).token for _ in range(51)]
    assert [store.sessions.of(token) is not None for token in (tokens[0], tokens[1], tokens[50])] == [False, True, True]


def test_who_was_disabled_while_the_password_was_verified_does_not_come_in(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    principal = user(store)
    sign_in = vars(store.sessions)["_sign_in"]
    row = sign_in.verified("小明", PASSWORD, HOME)
    monkeypatch.setattr(sign_in, "verified", lambda *_: row)
    store.accounts.disable(principal.account_id, COMMAND_LINE)
    with pytest.raises(StoreError, match="name or password is wrong"):
        store.sessions.login("小明", PASSWORD, HOME)
    store.accounts.enable(principal.account_id, COMMAND_LINE)
    assert store.sessions.login("小明", PASSWORD, HOME)
    store.accounts.reset_password(principal.account_id, COMMAND_LINE)
    with pytest.raises(StoreError, match="name or password is wrong"):
        store.sessions.login("小明", PASSWORD, HOME)


def test_so_many_guests_are_here_at_a_time_from_everywhere(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(guest_sessions=2)) as store:
        first = store.sessions.guest("192.0.2.1")
        store.sessions.guest("192.0.2.2")
        with pytest.raises(StoreError, match="too many guests are here"):
            store.sessions.guest("192.0.2.3")
        store.sessions.end(first.token)
        assert store.sessions.guest("192.0.2.3")


def test_a_guest_who_has_ended_is_counted_no_more_before_its_chats_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path, limits=Limits(guest_sessions=1)) as store:
        guest = store.sessions.guest("192.0.2.1")
        store.chats.create(guest.principal)
        came: list[Login] = []
        monkeypatch.setattr(time, "sleep", lambda _: came.append(store.sessions.guest(f"192.0.2.{2 + len(came)}")) if not came else None)
        store.sessions.end(guest.token)
        assert len(came) == 1
