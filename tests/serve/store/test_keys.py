import re

import pytest

from imprint.serve.store import COMMAND_LINE, Store, StoreError
from tests.serve.stores import HOME, NOON, Clock, user


def test_a_key_is_shown_once_and_lists_show_how_it_begins(store: Store) -> None:
    principal = user(store)
    made = store.keys.create(principal.account_id, name="notebook", actor=COMMAND_LINE)
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", made.key)
    (listed,) = store.keys.list(principal.account_id)
    assert listed == made.info
    assert (listed.name, listed.prefix, listed.created_at, listed.used_at) == ("notebook", made.key[:9], NOON, None)
    assert made.key not in repr((listed, store.audit.list()))


def test_a_key_acts_for_its_account(store: Store) -> None:
    principal = user(store, tokens_a_day=77)
    made = store.keys.create(principal.account_id, actor=COMMAND_LINE)
    acts = store.keys.of(made.key)
    assert acts is not None
    assert (acts.account_id, acts.owner, acts.role, acts.tokens_a_day, acts.key_id, acts.session_id) == (
        *(principal.account_id, principal.owner, "user", 77, made.info.id, None),
    )
    assert store.keys.list(principal.account_id)[0].used_at == NOON


def test_a_key_works_before_the_one_time_password_is_changed(store: Store) -> None:
    created = store.accounts.create("script", actor=COMMAND_LINE)
    acts = store.keys.of(store.keys.create(created.account.id, actor=COMMAND_LINE).key)
    assert acts is not None
    assert not acts.must_change_password


def test_what_is_no_key_is_nobodys(store: Store) -> None:
    made = store.keys.create(user(store).account_id, actor=COMMAND_LINE)
    for text in (
        "",
        "sk-",
        "sk-" + "x" * 43,
        made.key[:-1],
        made.key + "x",
        f" {made.key}",
        made.key.upper(),
        made.info.prefix,
        "sk-\ud800",
    ):
        assert store.keys.of(text) is None


def test_a_revoked_key_ends_at_once_and_live_streams_hear_of_it(store: Store) -> None:
    principal = user(store)
    made = store.keys.create(principal.account_id, actor=COMMAND_LINE)
    acts, before = store.keys.of(made.key), store.revocations()
    assert acts is not None
    assert store.is_valid(acts)
    store.keys.revoke(principal.account_id, made.info.id, COMMAND_LINE)
    store.keys.revoke(principal.account_id, made.info.id, COMMAND_LINE)  # a second time changes nothing
    assert store.revocations() == before + 1
    assert store.keys.of(made.key) is None
    assert not store.is_valid(acts)
    assert store.keys.list(principal.account_id)[0].revoked_at == NOON


def test_a_key_of_another_account_cannot_be_revoked(store: Store) -> None:
    made = store.keys.create(user(store).account_id, actor=COMMAND_LINE)
    with pytest.raises(StoreError, match="there is no such key") as refused:
        store.keys.revoke(user(store, "小红").account_id, made.info.id, COMMAND_LINE)
    assert refused.value.kind == "not_found"
    assert store.keys.of(made.key) is not None


def test_a_key_expires(store: Store, clock: Clock) -> None:
    principal = user(store)
    made = store.keys.create(principal.account_id, expires_at=NOON + 60, actor=COMMAND_LINE)
    clock.now += 59.9
    assert store.keys.of(made.key) is not None
    clock.now += 0.1
    assert store.keys.of(made.key) is None
    with pytest.raises(StoreError, match="expires_at: is in the past"):
        store.keys.create(principal.account_id, expires_at=NOON, actor=COMMAND_LINE)


def test_a_key_is_limited_to_models_and_never_to_more_than_its_account(store: Store) -> None:
    everything, some = user(store), user(store, "小红", models=frozenset({"a", "b"}))

    def models(account_id: int, limited_to: frozenset[str] | None) -> frozenset[str] | None:
        principal = store.keys.of(store.keys.create(account_id, models=limited_to, actor=COMMAND_LINE).key)
        assert principal is not None
        return principal.models

    assert models(everything.account_id, None) is None
    assert models(everything.account_id, frozenset({"a"})) == frozenset({"a"})
    assert models(some.account_id, None) == frozenset({"a", "b"})
    assert models(some.account_id, frozenset({"b", "c"})) == frozenset({"b"})
    assert models(some.account_id, frozenset({"c"})) == frozenset()


def test_guests_have_no_keys_and_an_account_has_fifty_at_most(store: Store) -> None:
    with pytest.raises(StoreError, match="guest account"):
        store.keys.create(store.sessions.guest(HOME).principal.account_id, actor=COMMAND_LINE)
    principal = user(store)
    made = [store.keys.create(principal.account_id, actor=COMMAND_LINE) for _ in range(50)]
    with pytest.raises(StoreError, match="this account has 50 keys"):
        store.keys.create(principal.account_id, actor=COMMAND_LINE)
    store.keys.revoke(principal.account_id, made[0].info.id, COMMAND_LINE)
    assert store.keys.create(principal.account_id, actor=COMMAND_LINE)


def test_of_keys_that_have_ended_the_last_fifty_are_kept(store: Store) -> None:
    principal = user(store)
    first = store.keys.create(principal.account_id, actor=COMMAND_LINE)
    for _ in range(60):
        made = store.keys.create(principal.account_id, actor=COMMAND_LINE)
        store.keys.revoke(principal.account_id, made.info.id, COMMAND_LINE)
    listed = store.keys.list(principal.account_id)
    assert [key.revoked_at is None for key in listed] == [*[False] * 51, True]
    assert store.keys.of(first.key) is not None
