import pytest
import torch

from imprint.inference.generate import generate
from imprint.inference.sampling import NO_TOKEN, NotFiniteError, Sampling, make_sampler, token_ids
from imprint.messages import UserError
from tests.cases import difference, prompt, small_network
from tests.inference.reference import end_id, ending_network, log_probabilities, short_prompts


class TestSampling:
    def test_the_same_seed_gives_the_same_answer_and_others_differ(self) -> None:
        network = ending_network(1)
        answers = [tuple(generate(network, [prompt(network, 1, 2)], Sampling(8, 1.0, seed=seed))[0]) for seed in (1, 1, 2, 3, 4, 5)]

        assert answers[0] == answers[1]
        assert len(set(answers)) > 3

    def test_without_a_seed_answers_differ(self) -> None:
        network = small_network()

        assert len({tuple(generate(network, [prompt(network, 1, 2)], Sampling(12, 2.0))[0]) for _ in range(4)}) > 1

    def test_it_leaves_the_random_state_of_others_alone(self) -> None:
        network = small_network()
        torch.manual_seed(0)
        before = torch.get_rng_state()

        generate(network, [prompt(network, 1)], Sampling(3, 1.0, seed=1))

        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("sampling", [Sampling(6, 1.0, 1e-6, seed=1), Sampling(6, 0.0, 0.5), Sampling(6, 1e-4, seed=1)])
    def test_the_smallest_temperature_or_top_p_is_greedy(self, sampling: Sampling) -> None:
        network = ending_network(3)

        assert generate(network, short_prompts(network), sampling) == generate(network, short_prompts(network), Sampling(6))

    def test_tokens_come_as_often_as_they_are_probable(self) -> None:
        network = small_network(vocabulary=12)
        row = prompt(network, 1, 2)
        expected = (log_probabilities(network, row) / 3.0).softmax(-1)

        answers = generate(network, [row] * 4000, Sampling(1, 3.0, seed=0))

        frequencies = torch.bincount(torch.tensor([answer[0] if answer else end_id(network) for answer in answers]), minlength=12) / 4000
        assert difference(frequencies, expected) < 0.03

    def test_top_p_keeps_the_smallest_set_that_reaches_it(self) -> None:
        network = small_network(vocabulary=12)
        row = prompt(network, 1, 2)
        ordered = (log_probabilities(network, row) / 3.0).softmax(-1).sort(descending=True)
        count = int((ordered.values.cumsum(0) < 0.7).sum()) + 1

        answers = generate(network, [row] * 2000, Sampling(1, 3.0, 0.7, seed=0))

        tokens = {answer[0] if answer else end_id(network) for answer in answers}
        assert 1 < count < 12
        assert tokens == set(ordered.indices[:count].tolist())


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ((0,), "max_new_tokens: must be at least 1, got 0."),
            ((5, -0.1), "temperature: must be 0 or more, got -0.1."),
            ((5, float("nan")), "temperature: must be 0 or more, got nan."),
            ((5, float("inf")), "temperature: must be 0 or more, got inf."),
            ((5, 1.0, 0.0), "top_p: must be above 0 and at most 1, got 0.0."),
            ((5, 1.0, 1.5), "top_p: must be above 0 and at most 1, got 1.5."),
            ((5, 0.0, 1.0, 0), "num_beams: must be at least 1, got 0."),
            ((5, 0.7, 1.0, 4), "num_beams: 4 beams are searched without sampling; set temperature to 0 or num_beams to 1."),
        ],
    )
    def test_impossible_values_are_user_errors(self, values: tuple[int, ...], sentence: str) -> None:
        with pytest.raises(UserError) as caught:
            Sampling(*values)

        assert str(caught.value).splitlines()[0] == sentence


class TestSampler:
    LOGITS = torch.tensor([[0.0, 3.0, 1.0], [0.0, float("nan"), 1.0], [0.0, float("-inf"), 1.0], [float("inf"), 0.0, 0.0]])

    @pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, 1.0, 1e-6, seed=1)], ids=["greedy", "sampled"])
    def test_there_is_no_token_where_the_largest_logit_is_not_finite(self, sampling: Sampling) -> None:
        sample = make_sampler(sampling, torch.device("cpu"))

        assert sample(self.LOGITS).tolist() == [1, NO_TOKEN, 2, NO_TOKEN]

    def test_ids_name_the_prompt_that_has_no_token(self) -> None:
        assert token_ids(torch.tensor([4, 5]), [0, 2], 3) == [4, 5]
        with pytest.raises(NotFiniteError, match=r"^prompt 3 of 3: ") as caught:
            token_ids(torch.tensor([4, NO_TOKEN]), [0, 2], 3)
        assert caught.value.row == 2
