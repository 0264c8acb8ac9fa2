import os
import sys
import threading
import time
from typing import Any

import pytest
from argon2 import PasswordHasher

from imprint.serve.store.errors import StoreError
from imprint.serve.store.passwords import NICER, Hashing, Passwords
from tests.serve.stores import FAST


@pytest.fixture
def passwords() -> Any:
    made = Passwords(FAST)
    yield made
    made.close()


def test_a_password_fits_its_own_hash_alone(passwords: Passwords) -> None:
    stored = passwords.hashed("正确的密码一二三")
    assert stored.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert passwords.is_right("正确的密码一二三", stored)
    assert not passwords.is_right("正确的密码一二四", stored)
    assert not passwords.is_right("x", "no hash")


def test_how_a_keyboard_composes_a_letter_does_not_matter(passwords: Passwords) -> None:
    assert passwords.is_right("Jose\u0301 1234567", passwords.hashed("José 1234567"))


def test_half_of_a_surrogate_pair_is_a_wrong_password_and_no_crash(passwords: Passwords) -> None:
    assert not passwords.is_right("\ud800", passwords.hashed("x"))


def test_a_name_without_an_account_costs_the_same_work(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, verified = passwords.hashed("x"), []
    verify = PasswordHasher.verify

    def noted(hasher: PasswordHasher, hashed: str, password: bytes) -> bool:
        verified.append(hashed.split("$")[:4])
        return verify(hasher, hashed, password)

    monkeypatch.setattr(PasswordHasher, "verify", noted)
    assert not passwords.is_right("wrong", stored)
    assert not passwords.is_right("wrong", None)
    assert verified[0] == verified[1] == ["", "argon2id", "v=19", "m=8,t=1,p=1"]


def test_a_hash_of_other_costs_is_outdated(passwords: Passwords) -> None:
    other = Passwords(Hashing(memory_kib=16, passes=1))
    assert passwords.is_outdated(other.hashed("x"))
    assert not passwords.is_outdated(passwords.hashed("x"))
    other.close()


def test_two_hash_at_once_some_wait_and_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(Hashing(memory_kib=8, passes=1, threads=2, waiting=1))
    release, running, most = threading.Event(), [], []

    def slow(*_: object) -> str:
        running.append(1)
        most.append(len(running))
        assert release.wait(10)
        running.pop()
        return "hash"

    monkeypatch.setattr(PasswordHasher, "hash", slow)
    threads = [threading.Thread(target=passwords.hashed, args=("x",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while vars(passwords)["_slots"]._value or len(running) < 2:
        time.sleep(0.001)
    with pytest.raises(StoreError, match="too many people sign in") as refused:
        passwords.hashed("x")
    release.set()
    for thread in threads:
        thread.join()
    assert (refused.value.kind, max(most)) == ("busy", 2)
    passwords.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a priority is of the whole process")
def test_threads_that_hash_let_streams_run_before_them(passwords: Passwords) -> None:
    here = os.getpriority(os.PRIO_PROCESS, 0)
    there = vars(passwords)["_pool"].submit(os.getpriority, os.PRIO_PROCESS, 0).result()
    assert there == min(here + NICER, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == here
