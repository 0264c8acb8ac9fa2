import pytest
import torch

from imprint.messages import UserError
from imprint.pack import pack
from tests.data.test_batches import GMASK, MASK, NETWORK, SOP


class TestPack:
    def test_rows_lie_end_to_end(self) -> None:
        packed = pack([[1, 2, GMASK, SOP, 3], [GMASK, SOP], [4, SOP, 5]], NETWORK)

        assert packed.ids.tolist() == [1, 2, GMASK, SOP, 3, GMASK, SOP, 4, SOP, 5]
        assert packed.seq_ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
        assert packed.offsets.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2]
        assert packed.lengths == (5, 2, 3)
        assert packed.num_seqs == 3
        assert packed.target_tokens == 0

    @pytest.mark.parametrize(
        ("row", "first", "second", "visible"),
        [
            ([1, 2, GMASK, SOP, 3, 4], [0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3], [3, 3, 3, 4, 5, 6]),
            ([1, MASK, 2, SOP, 3], [0, 1, 2, 1, 1], [0, 0, 0, 1, 2], [3, 3, 3, 4, 5]),
            ([1, 2, SOP, 3], [0, 1, 1, 1], [0, 0, 1, 2], [2, 2, 3, 4]),
            ([1, 2, 3], [0, 1, 2], [0, 0, 0], [3, 3, 3]),
            ([SOP, 1], [0, 0], [1, 2], [1, 2]),
        ],
        ids=["gmask", "mask", "no mask", "no sop", "sop alone"],
    )
    def test_positions_and_visible_tokens(self, row: list[int], first: list[int], second: list[int], visible: list[int]) -> None:
        for rows in ([row], [[9, 9, SOP, 9], row]):
            packed = pack(rows, NETWORK)

            assert packed.positions[:, -len(row) :].tolist() == [first, second]
            assert packed.num_visible[-len(row) :].tolist() == visible

    def test_labels_are_shifted_inside_each_row(self) -> None:
        rows = [[1, GMASK, SOP, 5, 6], [2, GMASK, SOP, 7]]
        labels = [[-100, -100, -100, 5, 6], [-100, -100, -100, 7]]

        packed = pack(rows, NETWORK, labels)

        assert packed.targets.tolist() == [2, 3, 6]  # the indices before the scored tokens
        assert packed.labels.tolist() == [5, 6, 7]
        assert packed.target_tokens == 3

    def test_tokens_behind_the_last_that_predicts_a_scored_one_are_left_out(self) -> None:
        rows = [[1, GMASK, SOP, 5, 6], [2, GMASK, SOP, 7, 8], [3, 4, SOP, 9], [5, 6, 7]]
        labels = [[-100, -100, -100, 5, 6], [-100, -100, -100, 7, -100], [-100] * 4, [-100, 6, -100]]

        packed = pack(rows, NETWORK, labels)
        whole = pack(rows, NETWORK)

        assert packed.lengths == (4, 3, 2, 3)  # the last one sees itself as a whole
        assert packed.ids.tolist() == [1, GMASK, SOP, 5, 2, GMASK, SOP, 3, 4, 5, 6, 7]
        kept = torch.tensor([0, 1, 2, 3, 5, 6, 7, 10, 11, 14, 15, 16])
        assert torch.equal(packed.positions, whole.positions[:, kept])
        assert torch.equal(packed.num_visible, whole.num_visible[kept])

    def test_the_label_of_a_first_token_is_never_used(self) -> None:
        packed = pack([[1, 2], [3, 4]], NETWORK, [[1, -100], [3, 4]])

        assert packed.targets.tolist() == [2]
        assert packed.labels.tolist() == [4]

    def test_labels_may_differ_from_the_ids(self) -> None:
        assert pack([[1, 2, 3]], NETWORK, [[-100, 9, 8]]).labels.tolist() == [9, 8]

    @pytest.mark.parametrize(
        ("rows", "labels", "sentence"),
        [
            ([], None, "ids: there is no row. Give at least one list of token ids."),
            ([], [], "ids: there is no row. Give at least one list of token ids."),
            ([[]], None, "ids[0]: is empty. Give at least one token id."),
            ([[1, SOP], []], None, "ids[1]: is empty. Give at least one token id."),
            ([[1, SOP], [2, 40, 41]], None, "ids[1]: holds 40, allowed are the ids 0 to 39. Encode with this model's own tokenizer."),
            ([[1, -1]], None, "ids[0]: holds -1, allowed are the ids 0 to 39. Encode with this model's own tokenizer."),
            ([[1, 2]], [[-100, 40]], "labels[0]: holds 40, allowed are the ids 0 to 39. Encode with this model's own tokenizer."),
            ([[1, 2]], [[-100, -1]], "labels[0]: holds -1, allowed are the ids 0 to 39. Encode with this model's own tokenizer."),
            ([[1, 2]], [], "labels: 0 rows of labels for 1 rows of ids. Give one label for each id, -100 where it is not scored."),
            (
                [[1, 2], [3]],
                [[1], [2, 3]],  # as many labels as ids, but not row by row
                "labels[0]: 1 labels for 2 ids. Give one label for each id, -100 where it is not scored.",
            ),
        ],
    )
    def test_invalid_rows_are_refused(self, rows: list[list[int]], labels: list[list[int]] | None, sentence: str) -> None:
        with pytest.raises(UserError) as caught:
            pack(rows, NETWORK, labels)

        assert str(caught.value).splitlines()[0] == sentence

    def test_rows_of_a_tensor_are_rows_too(self) -> None:
        assert pack(torch.tensor([[1, SOP], [2, SOP]]), NETWORK).ids.tolist() == [1, SOP, 2, SOP]  # type: ignore[arg-type]

    def test_another_device_gets_everything(self) -> None:
        moved = pack([[1, GMASK, SOP, 5]], NETWORK, [[-100, -100, -100, 5]]).to("meta")

        tensors = (moved.ids, moved.positions, moved.seq_ids, moved.offsets, moved.num_visible, moved.targets, moved.labels)
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert {tensor.dtype for tensor in tensors} == {torch.int64}
        assert moved.lengths == (3,)

    def test_a_weight_of_a_row_is_that_of_its_targets(self) -> None:
        network = NETWORK
        labels = [[-100, 5, 6], [-100, 8]]

        assert pack([[4, 5, 6], [7, 8]], network, labels).weights is None
        weights = pack([[4, 5, 6], [7, 8]], network, labels, [0.5, 2.0]).weights
        assert weights is not None
        assert weights.tolist() == [0.5, 0.5, 2.0]

    def test_what_fills_a_pack_up_is_rows_of_one_token_and_targets_of_weight_0(self) -> None:
        network = NETWORK
        plain = pack([[4, 5, 6], [7, 8]], network, [[-100, 5, 6], [-100, 8]])

        padded = plain.padded(8, 5)

        assert padded.lengths == (3, 2, 1, 1, 1)
        assert padded.seq_ids.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]
        assert padded.num_visible[5:].tolist() == [1, 1, 1]
        assert padded.weights is not None
        assert padded.weights.tolist() == [1, 1, 1, 0, 0]
        assert padded.labels[:3].tolist() == [5, 6, 8]
