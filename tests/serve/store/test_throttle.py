import sys

from imprint.serve.store.throttle import Throttle
from tests.serve.stores import Clock


def test_five_tries_in_any_minute_and_no_more() -> None:
    clock = Clock(0.0)
    throttle = Throttle(5, 60.0, clock=clock)
    allowed = []
    for second in range(300):
        clock.now = float(second)
        if throttle.take("a") is None:
            allowed.append(second)
    assert all(later - earlier >= 60 for earlier, later in zip(allowed, allowed[5:], strict=False))
    assert len(allowed) == 25


def test_a_refusal_says_after_how_many_seconds_the_next_try_goes_on() -> None:
    clock = Clock(0.0)
    throttle = Throttle(2, 60.0, clock=clock)
    assert [throttle.take("a"), throttle.take("a")] == [None, None]
    clock.now = 20.0
    assert throttle.take("a") == 40.0
    clock.now = 60.0
    assert throttle.take("a") is None


def test_keys_do_not_count_for_each_other_and_a_right_try_does_not_count() -> None:
    throttle = Throttle(1, 60.0, clock=Clock(0.0))
    assert throttle.take(("10.0.0.1", "a")) is None
    assert throttle.take(("10.0.0.2", "a")) is None
    assert throttle.count(("10.0.0.1", "a")) == 1
    throttle.give_back(("10.0.0.1", "a"))
    assert throttle.take(("10.0.0.1", "a")) is None
    throttle.give_back("never seen")
    assert throttle.count("never seen") == 0


def test_100_000_addresses_take_less_than_20_mb() -> None:
    by_name, by_address = Throttle(5, 60.0), Throttle(30, 60.0)
    for number in range(100_000):
        by_name.take((f"10.{number}", f"user{number}"))
        by_address.take(f"10.{number}")
    tables = [vars(throttle)["_tries"] for throttle in (by_name, by_address)]
    sizes = [sys.getsizeof(table) + sum(sys.getsizeof(key) + sys.getsizeof(tries) for key, tries in table.items()) for table in tables]
    all_tries = 20_000 * (5 + 30) * 4 * 1.2
    assert sum(sizes) + all_tries < 20e6


def test_who_asks_how_long_to_wait_is_not_counted() -> None:
    now = 0.0
    throttle = Throttle(2, 60.0, clock=lambda: now)
    assert [throttle.wait("a"), throttle.take("a"), throttle.wait("a"), throttle.take("a")] == [None] * 4
    now = 20.0
    assert (throttle.wait("a"), throttle.wait("a"), throttle.count("a")) == (40.0, 40.0, 2)
