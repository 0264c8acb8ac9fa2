from pathlib import Path

import pytest

from imprint.serve.store import COMMAND_LINE, Actor, Limits, Store, StoreError
from tests.serve.stores import HOME, NOON, Clock, open_store, user


def test_a_visitor_asks_and_an_admin_approves(store: Store) -> None:
    store.requests.ask("小明", "ming@example.com", "做实验", HOME)
    (request,) = store.requests.list()
    assert (request.name, request.contact, request.reason, request.address, request.asked_at, request.decision) == (
        *("小明", "ming@example.com", "做实验", HOME, NOON, None),
    )
    created = store.requests.approve(request.id, Actor("admin", HOME), models=frozenset({"ad-copy"}), tokens_a_day=500)
    assert (created.account.contact, created.account.models, created.account.tokens_a_day) == (
        "ming@example.com",
        frozenset({"ad-copy"}),
        500,
    )
    assert store.sessions.login("小明", created.password, HOME).principal.must_change_password
    assert store.requests.list() == ()
    (decided,) = store.requests.list(open_only=False)
    assert (decided.decision, decided.decided_by, decided.decided_at) == ("approved", "admin", NOON)
    assert [entry.action for entry in store.audit.list(limit=3)] == ["login", "request_approved", "account_created"]


def test_a_declined_request_makes_no_account_and_is_decided_once(store: Store) -> None:
    store.requests.ask("小明", "x", "", HOME)
    (request,) = store.requests.list()
    store.requests.decline(request.id, COMMAND_LINE)
    for decide in (lambda: store.requests.approve(request.id, COMMAND_LINE), lambda: store.requests.decline(request.id, COMMAND_LINE)):
        with pytest.raises(StoreError, match="this request was declined already") as refused:
            decide()
        assert refused.value.kind == "conflict"
    with pytest.raises(StoreError, match="there is no such request"):
        store.requests.decline("0" * 32, COMMAND_LINE)
    assert len(store.accounts.list()) == 2


def test_asking_does_not_tell_which_names_are_taken(store: Store) -> None:
    store.requests.ask("admin", "x", "", HOME)
    (request,) = store.requests.list()
    with pytest.raises(StoreError, match='there is an account "admin" already'):
        store.requests.approve(request.id, COMMAND_LINE)
    assert store.requests.list() == (request,)  # it is still open
    assert store.requests.approve(request.id, COMMAND_LINE, name="admin2").account.name == "admin2"


def test_three_requests_a_day_from_an_address_and_a_thousand_in_all(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, now=clock, limits=Limits(open_account_requests=5)) as store:
        for number in range(3):
            store.requests.ask(f"user{number}", "x", "", "2001:db8::1")
        with pytest.raises(StoreError, match="too many accounts were asked for") as refused:
            store.requests.ask("user3", "x", "", "2001:db8::2")
        assert refused.value.kind == "throttled"
        clock.now += 86_401
        store.requests.ask("user4", "x", "", "2001:db8::1")
        store.requests.ask("user5", "x", "", HOME)
        with pytest.raises(StoreError, match="too many accounts"):
            store.requests.ask("user6", "x", "", "198.51.100.1")
        clock.now += 91 * 86_400
        store.tidy()
        assert store.requests.list(open_only=False) == ()


def test_requests_of_a_clock_that_was_ahead_keep_nobody_out_once_it_is_right(store: Store, clock: Clock) -> None:
    clock.now += 400 * 86_400
    for number in range(3):
        store.requests.ask(f"user{number}", "x", "", HOME)
    clock.now -= 400 * 86_400
    store.requests.ask("user3", "x", "", HOME)
    assert len(store.requests.list()) == 4


def test_a_site_of_ipv6_asks_for_twelve_accounts_a_day_and_leaves_places_to_others(store: Store) -> None:
    for network in range(12):
        store.requests.ask(f"user{network}", "x", "", f"2001:db8:1:{network:x}::1")
    with pytest.raises(StoreError, match="too many accounts") as refused:
        store.requests.ask("user12", "x", "", "2001:db8:1:ffff::1")
    assert refused.value.kind == "throttled"
    store.requests.ask("user12", "x", "", "2001:db8:2::1")


def test_texts_of_a_request_are_bounded(store: Store) -> None:
    for name, contact, reason in (("a b", "x", ""), ("a", "", ""), ("a", "x" * 201, ""), ("a", "x", "x" * 2001), ("a", "x", "\0")):
        with pytest.raises(StoreError) as refused:
            store.requests.ask(name, contact, reason, HOME)
        assert refused.value.kind == "invalid"
    assert store.requests.list() == ()


def test_a_user_gets_no_second_account_of_the_same_name(store: Store) -> None:
    user(store, "小明")
    store.requests.ask("小明", "x", "", HOME)
    with pytest.raises(StoreError, match="there is an account"):
        store.requests.approve(store.requests.list()[0].id, COMMAND_LINE)
