import pytest
import torch

from imprint.pack import Pack, pack
from imprint.training.sized_pack import FIELDS, PackSize, SizedPack, in_memory
from tests.cases import small_chatglm2, small_network


@pytest.mark.parametrize("make", [small_network, small_chatglm2])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
def test_a_pack_in_one_piece_of_memory_is_the_filled_one(make: type, weights: list[float] | None) -> None:
    network = make()
    one: Pack = pack([[5, 6, 7, 8, 9], [4, 5, 6]], network, [[-100, -100, 7, 8, 9], [-100, 5, 6]], weights)
    sized, filled = SizedPack.of(one, PackSize(16, 7), pinned=False), one.padded(16, 7)

    copied = in_memory(sized.memory.clone(), sized.filled)

    assert copied.lengths == filled.lengths
    for name in FIELDS:
        assert torch.equal(getattr(sized.filled, name), getattr(filled, name))
        assert torch.equal(getattr(copied, name), getattr(filled, name))
        assert getattr(copied, name).dtype == getattr(filled, name).dtype
        assert getattr(copied, name).is_contiguous()
