from pathlib import Path

import pytest
import torch

import imprint
from imprint.models.attention import ForwardContext, RowAdapters
from imprint.models.network import Network
from imprint.models.reference_attention import ReferenceAttention
from imprint.pack import pack
from tests.bases import FAMILIES, base_of
from tests.cases import difference, small_network
from tests.reference_models import prefix_of

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def joined_prefix(network: Network) -> tuple[RowAdapters, list[RowAdapters]]:
    """Two prefixes of different lengths joined, for rows that use the second, none and the first; and what each row would get alone."""
    both = prefix_of(network)
    first, second = [(key[:2], value[:2]) for key, value in both], [(key[2:], value[2:]) for key, value in both]
    length = len(both[0][0])
    owners = torch.tensor([0, 0] + [1] * (length - 2))
    offsets = torch.tensor([-2, -1, *range(2 - length, 0)])
    rows = RowAdapters(both, owners != torch.tensor([1, -1, 0])[:, None], offsets)
    return rows, [RowAdapters(second), RowAdapters(), RowAdapters(first)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_attends_to_its_own_prefix_only(tmp_path: Path, family: str) -> None:
    network = imprint.load(base_of(family, tmp_path / "base", std=0.3), device="cpu").network
    adapters, of_each = joined_prefix(network)

    with torch.no_grad():
        together = network(pack(ROWS, network), adapters=adapters).split([len(row) for row in ROWS])
        alone = [network(pack([row], network), adapters=one) for row, one in zip(ROWS, of_each, strict=True)]
        plain = network(pack(ROWS, network)).split([len(row) for row in ROWS])

    assert all(difference(a, b) < 1e-5 for a, b in zip(together, alone, strict=True))
    assert difference(together[0], plain[0]) > 0.01
    assert difference(together[2], plain[2]) > 0.01


def test_gradients_reach_the_prefix_of_each_row_only() -> None:
    network = small_network()
    adapters, _ = joined_prefix(network)
    prefix, masked = adapters.prefix, adapters.prefix_masked
    assert prefix is not None
    assert masked is not None
    for key, _ in prefix:
        key.requires_grad_()

    network(pack(ROWS[:2], network), adapters=RowAdapters(prefix, masked[:2], adapters.prefix_offsets)).sum().backward()

    for key, _ in prefix:
        assert key.grad is not None
        assert not key.grad[:2].any()  # of the first prefix, which no row uses
        assert key.grad[2:].abs().amax() > 1e-6


def test_the_first_backend_that_supports_a_pass_computes_it() -> None:
    network = small_network()

    class Never(ReferenceAttention):
        def supports(self, context: ForwardContext) -> bool:
            return context.pack.num_seqs > 99

    backends = (Never(), ReferenceAttention())

    assert ForwardContext(pack(ROWS, network), backends).backend is backends[1]
    assert ForwardContext(pack([[1]] * 100, network), backends).backend is backends[0]
    assert isinstance(network.attention_backends[-1], ReferenceAttention)
