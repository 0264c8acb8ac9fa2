import random
from itertools import pairwise

import pytest

from imprint.data.batches import BatchSampler, length_grouped_batches, longest_first_batches
from tests.cases import small_network

NETWORK = small_network(layers=1)
CONTROL = NETWORK.config.special_ids
LENGTHS = [1 + place * 7919 % 199 for place in range(1003)]
MASK, GMASK, SOP = CONTROL.mask, CONTROL.gmask, CONTROL.sop


class TestBatches:
    @pytest.mark.parametrize("size", [1, 4, 16, 2000])
    def test_every_row_comes_once_in_batches_of_that_size(self, size: int) -> None:
        for batches in (list(length_grouped_batches(LENGTHS, size, generator=random.Random(1))), longest_first_batches(LENGTHS, size)):
            assert sorted(row for batch in batches for row in batch) == list(range(1003))
            assert sorted((len(batch) for batch in batches), reverse=True)[:-1] == [size] * ((1003 - 1) // size)

    def test_grouping_follows_the_random_state_alone(self) -> None:
        first, same, other = (list(length_grouped_batches(LENGTHS, 8, generator=random.Random(seed))) for seed in (1, 1, 2))

        assert first == same
        assert first != other

    def test_rows_of_a_group_are_of_similar_length_yet_groups_are_not_in_order(self) -> None:
        batches = list(length_grouped_batches(LENGTHS, 8, generator=random.Random(1)))
        padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)
        longest = [max(LENGTHS[row] for row in batch) for batch in batches]

        assert padded < 1.1 * sum(LENGTHS)
        rises = sum(one < other for one, other in pairwise(longest))
        assert len(longest) / 3 < rises < len(longest) * 2 / 3

    def test_sorted_batches_begin_with_the_longest_rows(self) -> None:
        batches = longest_first_batches(LENGTHS, 16)
        flat = [LENGTHS[row] for batch in batches for row in batch]

        assert flat == sorted(LENGTHS, reverse=True)
        assert batches == longest_first_batches(LENGTHS, 16)

    @pytest.mark.parametrize("group_by_length", [True, False])
    def test_the_rows_of_a_step_follow_from_seed_and_step_alone(self, *, group_by_length: bool) -> None:
        one, other = (BatchSampler(LENGTHS, 8, seed=3, group_by_length=group_by_length) for _ in range(2))

        steps = [one.batch(step) for step in range(1, 300)]

        assert [other.batch(step) for step in (270, 5)] == [steps[269], steps[4]]  # as after a resume
        assert sorted(row for batch in steps[: one.steps_per_epoch] for row in batch) == list(range(1003))
        assert BatchSampler(LENGTHS, 8, seed=4, group_by_length=group_by_length).batch(1) != steps[0]

    def test_rows_that_are_not_grouped_are_shuffled_whatever_their_length(self) -> None:
        batches = BatchSampler(LENGTHS, 8, seed=3, group_by_length=False)
        steps = [batches.batch(step) for step in range(1, batches.steps_per_epoch + 1)]
        padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in steps)

        assert padded > 1.3 * sum(LENGTHS)
        assert [len(batch) for batch in steps] == [8] * 125 + [3]

    def test_what_an_epoch_leaves_over_begins_the_next_step_where_rows_are_not_grouped(self) -> None:
        batches = BatchSampler(range(10), 3, seed=3, group_by_length=False, micro_size=1)
        rows = [row for step in range(1, 11) for row in batches.batch(step)]

        assert [sorted(rows[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3
        assert rows[:10] != rows[10:20]
        assert BatchSampler(range(10), 3, seed=3, group_by_length=False, micro_size=1).batch(4) == rows[9:12]
        assert (batches.steps_per_epoch, batches.total_steps(3), batches.total_steps(0.5), batches.epochs_at(4)) == (3, 9, 2, 1.2)

    @pytest.mark.parametrize(
        ("size", "micro_size", "steps"), [(8, 8, [8, 2, 8]), (8, 4, [8, 6, 6]), (16, 1, [10, 10, 10]), (4, 8, [4, 4, 2]), (6, 4, [6, 4, 6])]
    )
    def test_a_micro_batch_stays_whole_and_an_epoch_is_a_step_at_least(self, size: int, micro_size: int, steps: list[int]) -> None:
        batches = BatchSampler(range(10), size, seed=3, group_by_length=False, micro_size=micro_size)

        assert [len(batches.batch(step)) for step in (1, 2, 3)] == steps

    def test_the_smaller_last_micro_batch_of_an_epoch_is_cut_out_of_its_step_again(self) -> None:
        batches = BatchSampler(range(10), 8, seed=3, group_by_length=False, micro_size=4)
        alone = BatchSampler(range(10), 4, seed=3, group_by_length=False)

        rows = batches.batch(2)

        assert [rows[:4], rows[4:]] == [alone.batch(4), alone.batch(3)]

    def test_no_rows_are_no_batches(self) -> None:
        assert list(length_grouped_batches([], 4, generator=random.Random(0))) == []
        assert longest_first_batches([], 4) == []


def test_general_rows_go_round_beside_the_own_ones_which_are_in_every_epoch() -> None:
    batches = BatchSampler([5] * 4 + [9] * 6, 3, seed=0, num_general=6, general_per_epoch=2)
    epochs = [[row for step in (1, 2) for row in batches.batch(2 * epoch + step)] for epoch in range(6)]
    assert [sorted(row for row in rows if row < 4) for rows in epochs] == [[0, 1, 2, 3]] * 6
    taken = [sorted(row for row in rows if row >= 4) for rows in epochs]
    assert [len(rows) for rows in taken] == [2] * 6
    assert sorted(row for rows in taken[:3] for row in rows) == sorted(row for rows in taken[3:] for row in rows) == [4, 5, 6, 7, 8, 9]
    again = BatchSampler([5] * 4 + [9] * 6, 3, seed=0, num_general=6, general_per_epoch=2)
    assert [again.batch(step) for step in (12, 3)] == [batches.batch(step) for step in (12, 3)]
    assert batches.total_steps(1) == 2


def test_more_general_rows_than_there_are_come_again_in_the_same_epoch() -> None:
    batches = BatchSampler([5] * 3, 4, seed=1, num_general=1, general_per_epoch=2)
    assert sorted(batches.batch(1)) == [0, 1, 2, 2]


def test_the_rows_of_some_steps_are_own_rows_counted_once() -> None:
    batches = BatchSampler(LENGTHS[:20], 4, seed=1, num_general=4, general_per_epoch=4)
    assert batches.rows_until(0) == 0
    assert 0 < batches.rows_until(2) <= 8
    assert batches.rows_until(5) == batches.rows_until(9) == 16
