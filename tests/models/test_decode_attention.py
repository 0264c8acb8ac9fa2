import torch

from imprint.models.attention import ForwardContext, PrefixRanges
from imprint.models.decode_attention import DecodeAttention
from tests.cases import small_network
from tests.kernels.test_attend_step import step_pack


def test_on_a_cpu_the_reference_computes() -> None:
    network = small_network()
    cache = network.new_cache(2, 8)

    with torch.no_grad():
        context = ForwardContext(step_pack(torch.tensor([1, 2])), network.attention_backends, cache=cache)
        assert not DecodeAttention().supports(context)
        assert context.backend is network.attention_backends[-1]


def test_ranges_say_what_a_mask_says() -> None:
    hidden = torch.tensor([[True, False, False, True], [True] * 4, [False, True, True, True]])

    ranges = PrefixRanges.of(4, hidden, 3, torch.device("cpu"))

    assert ranges.lengths.tolist() == [2, 0, 1]
    assert ranges.order.tolist() == [2, 0, 1]
    assert torch.equal(ranges.masked(4), hidden)
    assert not PrefixRanges.of(4, None, 3, torch.device("cpu")).masked(4).any()
