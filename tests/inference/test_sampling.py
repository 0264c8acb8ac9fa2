from typing import Any

import pytest
import torch

from imprint.inference.request import Request
from imprint.inference.sampling import NO_TOKEN, SamplingRows, row_seed, truncate, uniform
from tests.cases import difference, prompt, small_network
from tests.inference.reference import end_id, ending_network, generate_ids, log_probabilities, short_prompts


class TestSampling:
    def test_the_same_seed_gives_the_same_answer_and_others_differ(self) -> None:
        network = ending_network(1)
        answers = [tuple(generate_ids(network, [prompt(network, 1, 2)], 8, 1.0, seed=seed)[0]) for seed in (1, 1, 2, 3, 4, 5)]

        assert answers[0] == answers[1]
        assert len(set(answers)) > 3

    def test_without_a_seed_answers_differ(self) -> None:
        network = small_network()

        assert len({tuple(generate_ids(network, [prompt(network, 1, 2)], 12, 2.0)[0]) for _ in range(4)}) > 1

    def test_it_leaves_the_random_state_of_others_alone(self) -> None:
        network = small_network()
        torch.manual_seed(0)
        before = torch.get_rng_state()

        generate_ids(network, [prompt(network, 1)], 3, 1.0, seed=1)

        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("settings", [{"temperature": 1.0, "top_p": 1e-6, "seed": 1}, {"top_p": 0.5}, {"temperature": 1e-4, "seed": 1}])
    def test_the_smallest_temperature_or_top_p_is_greedy(self, settings: dict[str, Any]) -> None:
        network = ending_network(3)

        assert generate_ids(network, short_prompts(network), 6, **settings) == generate_ids(network, short_prompts(network), 6)

    def test_tokens_come_as_often_as_they_are_probable(self) -> None:
        network = small_network(vocabulary=12)
        row = prompt(network, 1, 2)
        expected = (log_probabilities(network, row) / 3.0).softmax(-1)

        answers = generate_ids(network, [row] * 4000, 1, 3.0, seed=0)

        frequencies = torch.bincount(torch.tensor([answer[0] if answer else end_id(network) for answer in answers]), minlength=12) / 4000
        assert difference(frequencies, expected) < 0.03

    def test_top_p_keeps_the_smallest_set_that_reaches_it(self) -> None:
        network = small_network(vocabulary=12)
        row = prompt(network, 1, 2)
        ordered = (log_probabilities(network, row) / 3.0).softmax(-1).sort(descending=True)
        count = int((ordered.values.cumsum(0) < 0.7).sum()) + 1

        answers = generate_ids(network, [row] * 2000, 1, 3.0, 0.7, seed=0)

        tokens = {answer[0] if answer else end_id(network) for answer in answers}
        assert 1 < count < 12
        assert tokens == set(ordered.indices[:count].tolist())


def rows_of(*requests: Request, vocab_size: int = 3) -> SamplingRows:
    rows = SamplingRows(vocab_size, torch.device("cpu"))
    for request in requests:
        rows.add(request)
    return rows


class TestRows:
    LOGITS = torch.tensor([[0.0, 3.0, 1.0], [0.0, float("nan"), 1.0], [0.0, float("-inf"), 1.0], [float("inf"), 0.0, 0.0]])

    @pytest.mark.parametrize("request_", [Request([1], 1), Request([1], 1, 1.0, 1e-6, seed=1)], ids=["greedy", "sampled"])
    def test_there_is_no_token_where_the_largest_logit_is_not_finite(self, request_: Request) -> None:
        tokens, _ = rows_of(*[request_] * 4).sample(self.LOGITS)

        assert tokens.tolist() == [1, NO_TOKEN, 2, NO_TOKEN]

    def test_each_has_its_own_settings(self) -> None:
        torch.manual_seed(0)
        logits = torch.randn(5, 50)
        requests = [
            Request([1], 9),
            Request([1], 9, 2.0, seed=1),
            Request([1], 9, 0.5, 0.8, seed=2),
            Request([1], 9, 1.0, top_k=3, seed=3),
            Request([1], 9, repetition_penalty=1.5),
        ]
        together, alone = rows_of(*requests, vocab_size=50), [rows_of(request, vocab_size=50) for request in requests]

        for _ in range(20):
            tokens, log_probs = together.sample(logits)
            expected = [rows.sample(row[None]) for rows, row in zip(alone, logits, strict=True)]
            assert tokens.tolist() == [int(token) for token, _ in expected]
            assert difference(log_probs, torch.cat([value for _, value in expected])) < 1e-6
            logits = torch.randn(5, 50)

    def test_a_row_draws_the_same_numbers_wherever_it_stands(self) -> None:
        torch.manual_seed(0)
        first, second = Request([1], 9, 1.0, seed=1), Request([1], 9, 1.0, seed=2)
        rows, alone = rows_of(first, second, vocab_size=50), rows_of(second, vocab_size=50)
        logits = torch.randn(2, 50)
        assert rows.sample(logits)[0][1] == alone.sample(logits[1:])[0][0]

        rows.take([1])

        for _ in range(9):
            logits = torch.randn(1, 50)
            assert torch.equal(rows.sample(logits)[0], alone.sample(logits)[0])

    def test_top_k_keeps_that_many_and_top_p_is_of_their_sum(self) -> None:
        probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 4)
        top_k = torch.tensor([[0], [2], [2], [3]])
        top_p = torch.tensor([[1.0], [1.0], [0.5], [0.8]])

        kept = truncate(probabilities, top_k, top_p) > 0

        assert kept.tolist() == [
            [True] * 4,
            [True, True, False, False],
            [True, False, False, False],  # 0.4 of 0.7 is more than half
            [True, True, True, False],  # 0.7 of 0.9 is less than 0.8
        ]

    def test_a_top_p_that_is_nothing_in_32_bits_keeps_the_most_probable_token(self) -> None:
        rows = rows_of(Request([0], 9, 1.0, 1e-60, seed=1))
        assert [int(rows.sample(torch.tensor([[1.0, 3.0, 2.0]]))[0]) for _ in range(3)] == [1, 1, 1]

    def test_a_penalty_lowers_what_stands_in_prompt_or_answer(self) -> None:
        rows = rows_of(Request([0], 9, repetition_penalty=2.0))

        tokens = [int(rows.sample(torch.tensor([[3.0, 2.0, 1.1]]))[0]) for _ in range(3)]

        assert tokens == [1, 0, 0]  # 3 / 2 is less than 2; then 3 / 2 is more than 2 / 2 and 1.1

    def test_the_log_probability_is_the_models_own(self) -> None:
        logits = torch.tensor([[0.0, 3.0, 1.0]])

        _, log_probs = rows_of(Request([1], 1, 0.3, top_k=1, repetition_penalty=1.1, seed=1)).sample(logits)

        assert difference(log_probs, logits.log_softmax(-1)[:, 1]) < 1e-6


class TestNumbers:
    def test_they_are_spread_evenly_and_repeat_for_no_other_seed_or_index(self) -> None:
        numbers = [uniform(seed, index) for seed in range(100) for index in range(100)]

        assert len(set(numbers)) == 10_000
        assert min(numbers) >= 0
        assert max(numbers) < 1
        assert all(900 < sum(tenth / 10 <= number < (tenth + 1) / 10 for number in numbers) < 1100 for tenth in range(10))

    def test_rows_of_one_seed_have_seeds_of_their_own(self) -> None:
        assert row_seed(5, 0) == 5
        assert row_seed(None, 3) is None
        assert len({row_seed(seed, row) for seed in range(50) for row in range(50)}) == 2500
