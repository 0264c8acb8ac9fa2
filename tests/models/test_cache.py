import torch

from imprint.models.cache import KVCache


def numbered_cache(slots: int = 3, capacity: int = 2) -> KVCache:
    """A cache of two layers whose slot i holds i."""
    cache = KVCache.empty(layers=2, slots=slots, capacity=capacity, heads=1, head_dim=1, dtype=torch.float32, device=torch.device("cpu"))
    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(torch.arange(float(slots))[:, None, None, None].expand(slots, 1, capacity, 1))
    return cache


def contents(cache: KVCache) -> list[list[float]]:
    """What each slot holds in all layers, for keys and values, which agree."""
    first, *others = [tensor[:, 0, :, 0].tolist() for tensor in (*cache.keys, *cache.values)]
    assert all(other == first for other in others)
    return first


class TestSlots:
    def test_they_are_kept_in_the_order_that_is_asked(self) -> None:
        cache = numbered_cache(slots=4)

        cache.select(torch.tensor([2, 0, 2]))

        assert contents(cache) == [[2, 2], [0, 0], [2, 2], [3, 3]]

    def test_a_moved_one_is_copied_as_far_as_it_is_filled(self) -> None:
        cache = numbered_cache()

        cache.move(2, 0, 1)

        assert contents(cache) == [[2, 0], [1, 1], [2, 2]]

    def test_one_may_come_from_another_cache(self) -> None:
        cache = numbered_cache()

        cache.put(0, numbered_cache().view(2, 1, 2), 1)

        assert contents(cache) == [[2, 0], [1, 1], [2, 2]]

    def test_a_cleared_one_is_zero_whatever_it_held(self) -> None:
        cache = numbered_cache()
        cache.values[1][1] = float("nan")

        cache.clear(1)

        assert contents(cache) == [[0, 0], [0, 0], [2, 2]]

    def test_growing_keeps_what_is_there(self) -> None:
        cache = numbered_cache()

        cache.resize(4, 3)

        assert contents(cache) == [[0, 0, 0], [1, 1, 0], [2, 2, 0], [0, 0, 0]]
        assert (cache.slots, cache.capacity) == (4, 3)

    def test_shrinking_keeps_what_has_room(self) -> None:
        cache = numbered_cache()

        cache.resize(2, 1)

        assert contents(cache) == [[0], [1]]

    def test_a_view_writes_into_the_same_memory(self) -> None:
        cache = numbered_cache()

        cache.view(1, 2, 1).clear(0)

        assert contents(cache) == [[0, 0], [0, 0], [2, 2]]
