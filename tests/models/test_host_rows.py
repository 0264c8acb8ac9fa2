import torch
from torch import nn

from imprint.models.host_rows import HostRows, RowEmbedding

WEIGHT = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Embedding):
    """As the embeddings of some families, which multiply their rows."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as nn.Embedding names it
        return 3 * super().forward(input)


def test_rows_are_those_of_the_weight() -> None:
    ids = torch.tensor([3, 0, 3, 8])

    assert torch.equal(HostRows(WEIGHT)(ids), WEIGHT[ids])


def test_inside_placed_the_rows_are_where_they_were_put_whatever_the_ids() -> None:
    rows, ids = HostRows(WEIGHT), torch.tensor([3, 0, 8])
    rows.load(ids, WEIGHT.device)
    with rows.preloaded():
        first = rows(torch.zeros(3, dtype=torch.long))
    assert torch.equal(first, WEIGHT[ids])

    rows.load(torch.tensor([1, 2]), WEIGHT.device)  # fewer: at the same place

    assert torch.equal(first, WEIGHT[torch.tensor([1, 2, 8])])
    assert torch.equal(rows(ids), WEIGHT[ids])  # outside of the block


def test_an_embedding_does_with_other_rows_what_it_did_with_its_own() -> None:
    original = Scaled(9, 4, padding_idx=8)
    original.weight = nn.Parameter(WEIGHT.clone())
    ids = torch.tensor([[3, 0, 8]])
    expected = original(ids)

    embedding = RowEmbedding(original, HostRows(WEIGHT))
    original._parameters["weight"] = None

    assert torch.equal(embedding(ids), expected)
    assert not list(embedding.parameters())


def test_without_numbers_rows_have_a_shape() -> None:
    rows = HostRows(WEIGHT.to("meta"))(torch.empty(5, dtype=torch.long, device="meta"))

    assert rows.shape == (5, 4)
    assert rows.is_meta
