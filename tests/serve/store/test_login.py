import threading
from pathlib import Path

import pytest

from imprint.serve.store import COMMAND_LINE, Hashing, Limits, Store, StoreError
from imprint.serve.store.login import Standing
from imprint.serve.store.passwords import Passwords
from tests.serve.stores import FAST, HOME, PASSWORD, Clock, open_store, user


def failure(store: Store, name: str, password: str, address: str) -> StoreError:
    with pytest.raises(StoreError) as refused:
        store.sessions.login(name, password, address)
    return refused.value


def test_unknown_names_wrong_passwords_and_disabled_accounts_get_the_same_answer_for_the_same_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disabled = user(store, "disabled")
    store.accounts.disable(disabled.account_id, COMMAND_LINE)
    user(store, "known")
    verified: list[str] = []
    verify = Passwords.is_right

    def noted(passwords: Passwords, password: str, stored: str | None) -> bool:
        verified.append(password)
        return verify(passwords, password, stored)

    monkeypatch.setattr(Passwords, "is_right", noted)
    tries = [
        *(("known", "wrong"), ("unknown", "wrong"), ("disabled", PASSWORD), ("disabled", "wrong"), ("guest", ""), ("guest", PASSWORD)),
        *(("known", PASSWORD + "x" * 300), ("", ""), ("a'b", "x"), ("\ud800", "\ud800"), ("x" * 10_000, "x" * 10_000)),
    ]
    said = [failure(store, name, password, f"203.0.113.{number}") for number, (name, password) in enumerate(tries)]
    assert {(error.kind, str(error), error.retry_after) for error in said} == {(said[0].kind, str(said[0]), None)}
    assert said[0].kind == "credentials"
    assert len(verified) == len(tries)


def test_a_name_that_nobody_has_is_not_written_into_the_log_for_it_may_be_a_password(store: Store) -> None:
    failure(store, "my secret password", "", HOME)
    failure(store, "admin", "wrong", HOME)
    entries = store.audit.list()
    assert [(entry.action, entry.actor, entry.subject, entry.detail) for entry in entries] == [
        ("login_failed", "admin", "admin", ""),
        ("login_failed", "(no such account)", "(no such account)", ""),
    ]


def test_five_wrong_passwords_close_the_door_for_one_address_and_the_owner_comes_in_from_another(store: Store) -> None:
    user(store, "owner")
    for _ in range(5):
        assert failure(store, "owner", "wrong", "203.0.113.9").kind == "credentials"
    throttled = failure(store, "owner", PASSWORD, "203.0.113.9")
    assert throttled.kind == "throttled"
    assert throttled.retry_after is not None
    assert 0 < throttled.retry_after <= 60
    assert "203.0.113.9" not in str(throttled)
    assert failure(store, "OWNER", PASSWORD, "203.0.113.9").kind == "throttled"
    assert store.sessions.login("owner", PASSWORD, HOME)


def test_thirty_wrong_passwords_close_it_for_all_names(store: Store) -> None:
    user(store, "owner")
    for number in range(30):
        assert failure(store, f"user{number}", "wrong", "2001:db8::1").kind == "credentials"
    assert failure(store, "owner", PASSWORD, "2001:db8::2").kind == "throttled"
    assert store.sessions.login("owner", PASSWORD, HOME)


def test_right_passwords_never_count(store: Store) -> None:
    user(store, "owner")
    for _ in range(40):
        assert store.sessions.login("owner", PASSWORD, HOME)


def test_an_account_that_signs_in_again_and_again_waits_while_wrong_passwords_keep_no_owner_out(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(logins_a_minute=3)) as store:
        user(store, "owner")  # two of them: with the one-time password, and to change it
        for number in range(9):
            failure(store, "owner", "wrong", f"203.0.113.{number}")
        assert store.sessions.login("owner", PASSWORD, HOME)
        refused = failure(store, "owner", PASSWORD, HOME)
        assert (refused.kind, refused.retry_after) == ("throttled", 60.0)
        assert "signs in too often" in str(refused)
        assert user(store, "another")


def test_tries_at_the_same_time_are_no_more_tries(tmp_path: Path) -> None:
    store = Store.open(tmp_path, hashing=Hashing(memory_kib=8, passes=1, waiting=100), now=Clock())
    kinds: list[str] = []

    def guess() -> None:
        kinds.append(failure(store, "admin", "wrong", HOME).kind)

    threads = [threading.Thread(target=guess) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (kinds.count("credentials"), kinds.count("throttled")) == (5, 35)
    store.close()


def test_while_very_many_guess_a_login_waits_that_comes_from_where_they_guess_and_no_other_does(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(all_failures_a_minute=10, brake_seconds=0.25)) as store:
        for number in (1, 2, 3, 4, 5, 6, 7, 9, 9, 9):
            assert store.sessions.standing(f"203.0.113.{number}") == Standing(is_suspect=False, brake_seconds=0.0)
            failure(store, "admin", "wrong", f"203.0.113.{number}")
        assert store.sessions.standing("203.0.113.1") == Standing(is_suspect=False, brake_seconds=0.0)  # one that was mistyped
        assert store.sessions.standing("203.0.113.9") == Standing(is_suspect=True, brake_seconds=0.25)
        assert store.sessions.standing(HOME) == Standing(is_suspect=False, brake_seconds=0.0)
        assert store.first_password is not None
        assert store.sessions.login("admin", store.first_password, HOME)
        assert store.sessions.standing(HOME) == Standing(is_suspect=False, brake_seconds=0.0)


def test_a_site_of_ipv6_with_very_many_networks_has_few_guesses(tmp_path: Path) -> None:
    with open_store(tmp_path, limits=Limits(network_failures_a_minute=20)) as store:
        user(store, "owner")
        for number in range(20):
            failure(store, f"user{number}", "wrong", f"2001:db8:0:{number:x}::1")
        assert failure(store, "owner", PASSWORD, "2001:db8:0:ffff::1").kind == "throttled"
        with pytest.raises(StoreError, match="too many wrong passwords") as refused:
            store.sessions.standing("2001:db8:0:ffff::1")
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 60
        assert store.sessions.login("owner", PASSWORD, "2001:db8:1::1")


@pytest.mark.parametrize(
    ("chosen", "typed"),
    [
        ("correct horse battery  ", "correct horse battery  "),
        ("  correct horse battery", "  correct horse battery"),
        ("abcd" * 64, "abcd" * 64),
        ("\u00e9\u1ec7ab" * 64, "e\u0301e\u0323\u0302ab" * 64),
        ("correct horse battery" + " " * 235, "correct horse battery" + " " * 235),
    ],
)
def test_a_password_that_was_taken_opens_the_door_and_what_is_almost_it_does_not(store: Store, chosen: str, typed: str) -> None:
    owner = user(store, "owner")
    store.sessions.change_password(owner, PASSWORD, chosen, HOME)
    assert store.sessions.login("owner", typed, HOME)
    assert failure(store, "owner", typed[:-1], HOME).kind == "credentials"
    assert failure(store, "owner", typed + " ", HOME).kind == "credentials"


def test_a_password_that_is_too_long_with_its_spaces_is_refused_and_the_old_one_stays(store: Store) -> None:
    owner = user(store, "owner")
    with pytest.raises(StoreError, match="password: must have at most 256 characters, with spaces at its ends; got 321"):
        store.sessions.change_password(owner, PASSWORD, "correct horse battery" + " " * 300, HOME)
    assert store.sessions.login("owner", PASSWORD, HOME)


def test_a_name_of_many_letters_comes_in_however_a_keyboard_composes_it(store: Store) -> None:
    user(store, "\u1ec7" * 48)
    assert store.sessions.login("e\u0323\u0302" * 48, PASSWORD, HOME)
    user(store, "\uac01" * 48)
    assert store.sessions.login("\u1100\u1161\u11a8" * 48, PASSWORD, HOME)


def test_a_password_is_hashed_anew_at_its_next_login_after_the_costs_have_changed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        user(store, "owner")
    with Store.open(tmp_path, hashing=Hashing(memory_kib=16, passes=1), now=Clock()) as dearer:
        assert dearer.sessions.login("owner", PASSWORD, HOME)
    with open_store(tmp_path) as store:
        passwords = Passwords(FAST)
        with vars(store)["_database"].reading() as connection:
            stored = connection.exec_driver_sql("SELECT password_hash FROM accounts WHERE name = 'owner'").scalar_one()
        assert stored.startswith("$argon2id$v=19$m=16,")
        assert passwords.is_right(PASSWORD, stored)
        passwords.close()
