import pytest

from imprint.inference.decode_memory import DecodeMemory, give_back, take_memory
from tests.cases import small_network
from tests.inference.recorders import use_plain_recorder


class TestMemory:
    def test_it_is_kept_for_the_next_and_nobody_else_has_it_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_plain_recorder(monkeypatch)
        network = small_network()
        memory = take_memory(network)
        give_back(memory)

        assert take_memory(network) is memory
        assert take_memory(network) is not memory

    def test_it_is_not_kept_where_steps_are_not_repeated(self) -> None:
        network = small_network()
        give_back(take_memory(network))

        assert network.decode_memory is None

    def test_nor_after_the_network_has_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_plain_recorder(monkeypatch)
        network = small_network()
        memory, other = take_memory(network), take_memory(network)
        give_back(memory)
        network.transformer.layers[0].register_forward_hook(lambda *_: None)

        assert not memory.fits
        assert take_memory(network) is not memory
        give_back(other)
        assert network.decode_memory is None

    def test_room_is_for_whole_buckets_where_steps_are_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = small_network()
        plain = DecodeMemory(network)
        plain.reserve(3, 50)
        use_plain_recorder(monkeypatch)
        repeated = DecodeMemory(network)
        repeated.reserve(3, 50)

        assert (plain.cache.slots, plain.cache.capacity) == (3, 50)
        assert (repeated.cache.slots, repeated.cache.capacity) == (4, 64)
        assert repeated.bytes == 4 * 64 * 2 * 2 * 2 * 16 * 4
