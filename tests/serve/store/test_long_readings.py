import threading
import time

from imprint.serve.store.long_readings import LongReadings


def test_what_holds_readings_up_waits_for_those_that_go_on_and_lets_none_begin_meanwhile() -> None:
    readings, order, is_reading, may_end = LongReadings(), [], threading.Event(), threading.Event()

    def read(name: str) -> None:
        with readings.one():
            is_reading.set()
            may_end.wait(10)
            order.append(name)

    def hold_up() -> None:
        with readings.held_up(10):
            late.start()
            late.join(0.2)
            order.append("held up")

    early, late, holding = (
        threading.Thread(target=target, args=one) for target, one in ((read, ("early",)), (read, ("late",)), (hold_up, ()))
    )
    early.start()
    assert is_reading.wait(10)
    holding.start()
    holding.join(0.2)
    assert order == []
    may_end.set()
    for thread in (early, holding, late):
        thread.join(10)
    assert order == ["early", "held up", "late"]


def test_a_reading_without_an_end_is_waited_for_so_many_seconds_at_most() -> None:
    readings = LongReadings()
    began = time.monotonic()
    with readings.one(), readings.held_up(0.05):
        assert time.monotonic() - began < 5
    with readings.one():
        pass
