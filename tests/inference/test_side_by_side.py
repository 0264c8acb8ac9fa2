import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

import imprint
from imprint.inference import side_by_side as threads
from imprint.inference.side_by_side import AbandonedError, Check, side_by_side, threads_for
from imprint.models.network import Network


@pytest.fixture
def four_cores() -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("four_cores")
def test_results_come_in_the_order_of_the_batches_while_the_cores_are_divided() -> None:
    later = threading.Event()

    def compute(batch: int, _check: Check) -> tuple[int, int]:
        if batch == 0:
            assert later.wait(60)
        if batch == 1:
            later.set()
        return batch, torch.get_num_threads()

    assert [*side_by_side(compute, range(5), 2)] == [(batch, 2) for batch in range(5)]
    assert torch.get_num_threads() == 4


def test_one_thread_is_the_callers_own() -> None:
    assert [*side_by_side(lambda batch, _check: (batch, threading.current_thread()), "ab", 1)] == [
        ("a", threading.current_thread()),
        ("b", threading.current_thread()),
    ]


class LongBatch:
    """A batch that is computed until nobody waits for it."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.abandoned = False

    def compute(self, check: Check) -> None:
        self.running.set()
        try:
            for _token in range(6000):
                check()
                time.sleep(0.01)
        except AbandonedError:
            self.abandoned = True
            raise


@pytest.mark.usefixtures("four_cores")
def test_an_error_comes_in_its_turn_and_ends_the_other_batches() -> None:
    long = LongBatch()

    def compute(batch: int, check: Check) -> int:
        if batch == 1:
            assert long.running.wait(60)
            raise ZeroDivisionError
        if batch == 2:
            long.compute(check)
        return batch

    results = side_by_side(compute, range(9), 2)
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert long.abandoned


@pytest.mark.usefixtures("four_cores")
def test_who_stops_waiting_ends_the_batches_that_are_computed() -> None:
    long = LongBatch()

    def compute(batch: int, check: Check) -> int:
        if batch == 1:
            long.compute(check)
        assert long.running.wait(60)
        return batch

    with closing(side_by_side(compute, [0, 1], 2)) as results:
        assert next(results) == 0
    assert long.abandoned
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_cores")
def test_batches_of_a_small_network_share_the_cores_where_their_caches_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network: Network = imprint.load("embedded", device="cpu").network
    assert threads_for(network, 64, 100) == 4
    assert threads_for(network, 64, 100_000) == 1
    torch.set_num_threads(1)
    assert threads_for(network, 64, 100) == 1
    torch.set_num_threads(3)
    assert threads_for(network, 64, 100) == 3
    monkeypatch.setattr(threads, "SMALL_NETWORK", network.num_parameters - 1)
    assert threads_for(network, 64, 100) == 1
