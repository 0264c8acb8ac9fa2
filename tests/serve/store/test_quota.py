import threading
from pathlib import Path

import pytest

from imprint.serve.store import Limits, Store, StoreError
from imprint.serve.store.quota import day_of, least_tokens, tokens_of_accounts
from tests.serve.stores import HOME, NOON, Clock, open_store, user


def test_tokens_are_reserved_before_and_settled_after(store: Store) -> None:
    principal = user(store, tokens_a_day=100)
    reserved = store.quota.reserve(principal, HOME, 60)
    assert store.quota.usage(principal, HOME).remaining == 40
    store.quota.settle(reserved, 10)
    store.quota.settle(reserved, 10)  # a second time changes nothing
    left = store.quota.usage(principal, HOME)
    assert (left.limit, left.used, left.remaining, left.resets_at) == (100, 10, 90, NOON + 12 * 3600)
    assert store.accounts.get(principal.account_id).used_today == 10


def test_more_than_is_left_is_refused_until_the_next_day(store: Store, clock: Clock) -> None:
    principal = user(store, tokens_a_day=100)
    store.quota.settle(store.quota.reserve(principal, HOME, 100), 95)
    with pytest.raises(StoreError, match="5 of the 100 tokens a day of this account are left, fewer than the 6") as refused:
        store.quota.reserve(principal, HOME, 6)
    assert (refused.value.kind, refused.value.retry_after) == ("quota_exceeded", 12 * 3600)
    assert store.quota.reserve(principal, HOME, 5)
    clock.now += 12 * 3600
    assert store.quota.usage(principal, HOME).remaining == 100


def test_an_answer_across_midnight_counts_for_the_day_it_began(store: Store, clock: Clock) -> None:
    principal = user(store, tokens_a_day=100)
    reserved = store.quota.reserve(principal, HOME, 50)
    clock.now += 86_400
    store.quota.settle(reserved, 30)
    assert store.quota.usage(principal, HOME).used == 0
    clock.now -= 86_400
    assert store.quota.usage(principal, HOME).used == 30


def test_many_at_once_reserve_no_more_than_there_is(store: Store) -> None:
    principal = user(store, tokens_a_day=100)
    refused = []

    def reserve() -> None:
        try:
            store.quota.reserve(principal, HOME, 10)
        except StoreError:
            refused.append(1)

    threads = [threading.Thread(target=reserve) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refused), store.quota.usage(principal, HOME).remaining) == (14, 0)


def test_guests_count_for_their_session_and_for_their_address(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(guest_tokens_a_day=50, address_tokens_a_day=120)) as store:
        guests = [store.sessions.guest(HOME).principal for _ in range(4)]
        for guest in guests[:2]:
            store.quota.settle(store.quota.reserve(guest, HOME, 50), 50)
            with pytest.raises(StoreError, match="a day of this account"):
                store.quota.reserve(guest, HOME, 1)
        assert store.quota.usage(guests[2], HOME).remaining == 20
        with pytest.raises(StoreError, match="20 of the 120 tokens a day of all guests from your address"):
            store.quota.reserve(guests[2], HOME, 21)
        assert store.quota.usage(guests[2], HOME).remaining == 20  # nothing of what was refused stays reserved
        assert store.quota.usage(guests[3], "198.51.100.1").remaining == 50


def test_guests_of_a_site_of_ipv6_have_four_times_the_tokens_of_an_address(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(guest_tokens_a_day=50, address_tokens_a_day=50)) as store:
        for network in range(4):
            address = f"2001:db8:1:{network}::1"
            store.quota.reserve(store.sessions.guest(address).principal, address, 50)
        guest = store.sessions.guest("2001:db8:1:4::1").principal
        assert store.quota.usage(guest, "2001:db8:1:4::1").remaining == 0
        with pytest.raises(StoreError, match="0 of the 200 tokens a day of all guests from your address"):
            store.quota.reserve(guest, "2001:db8:1:4::1", 1)
        assert store.quota.reserve(guest, "2001:db8:2::1", 50)


def test_a_browser_that_comes_again_as_another_guest_gets_no_more_from_its_address(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(guest_tokens_a_day=50, address_tokens_a_day=100)) as store:
        spent = 0
        for _ in range(10):
            guest = store.sessions.guest("2001:db8:1:2::1").principal
            left = store.quota.usage(guest, f"2001:db8:1:2::{spent:x}").remaining
            store.quota.settle(store.quota.reserve(guest, f"2001:db8:1:2::{spent:x}", left), left)
            spent += left
        assert spent == 100


def test_what_a_killed_service_had_reserved_is_given_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        principal = user(store, tokens_a_day=100)
        store.quota.reserve(principal, HOME, 100)
    with open_store(tmp_path) as again:
        assert again.quota.usage(principal, HOME).remaining == 0
        again.start_serving()
        assert again.quota.usage(principal, HOME).remaining == 100


def test_old_usage_is_forgotten(store: Store, clock: Clock) -> None:
    principal, guest = user(store), store.sessions.guest(HOME).principal
    for one in (principal, guest):
        store.quota.settle(store.quota.reserve(one, HOME, 5), 5)
    clock.now += 3 * 86_400
    store.tidy()
    clock.now -= 3 * 86_400
    assert (store.quota.usage(principal, HOME).used, store.quota.usage(guest, HOME).used) == (5, 0)
    clock.now += 500 * 86_400
    store.tidy()
    clock.now -= 500 * 86_400
    assert store.quota.usage(principal, HOME).used == 0


def test_a_day_is_one_of_utc(store: Store) -> None:
    assert [day_of(0.0), day_of(86_399.9), day_of(86_400.0)] == ["1970-01-01", "1970-01-01", "1970-01-02"]
    principal = user(store)
    store.quota.settle(store.quota.reserve(principal, HOME, 5), 3)
    with vars(store)["_database"].reading() as connection:
        assert tokens_of_accounts(connection, NOON) == {principal.account_id: 3}


def test_what_is_kept_of_a_question_counts_a_token_for_each_16_characters_and_each_answer_one() -> None:
    assert [least_tokens(text) for text in (None, "", "a", "一" * 16, "😀" * 17)] == [1, 1, 2, 2, 3]
