from collections.abc import Sequence
from itertools import product

import torch

from imprint.inference.beam import beam_search
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.request import Request
from imprint.models.chatglm import ChatGLM
from tests.cases import prompt, small_network
from tests.inference.reference import end_id, ending_network, generate_ids, log_probabilities, prefix_for, short_prompts


def best_by_search(network: ChatGLM, row: Sequence[int], count: int) -> list[int]:
    """The answer with the highest mean log-probability per token, the end id included, among all answers."""
    words = [token for token in range(network.config.vocab_size) if token not in network.stop_ids]
    known = {text: log_probabilities(network, [*row, *text]) for length in range(count) for text in product(words, repeat=length)}

    def score(text: Sequence[int]) -> float:
        return sum(float(known[tuple(text[:i])][text[i]]) for i in range(len(text))) / len(text)

    answers = [(*text, end_id(network)) for text in known] + list(product(words, repeat=count))
    best = max(answers, key=score)
    return [token for token in best if token not in network.stop_ids]


class TestBeams:
    def test_with_enough_beams_the_best_of_all_answers_is_found(self) -> None:
        lengths = set()
        for seed in (6, 7, 8, 38, 50):
            network = ending_network(seed, vocabulary=7)
            network.transformer.final_layernorm.bias.add_(0.5 * network.head_weight[end_id(network)])  # short answers win, too
            for row in (prompt(network, 1), prompt(network, 0, 1)):
                best = best_by_search(network, row, 3)
                assert generate_ids(network, [row], 3, num_beams=64) == [best]
                lengths.add(len(best))

        assert lengths == {0, 1, 2, 3}

    def test_one_beam_is_greedy(self) -> None:
        network = ending_network(2)

        assert generate_ids(network, short_prompts(network), 6, num_beams=1) == generate_ids(network, short_prompts(network), 6)

    def test_rows_are_searched_one_by_one_and_keep_their_order(self) -> None:
        network = ending_network(1)
        prompts = short_prompts(network)

        together = generate_ids(network, prompts, 5, num_beams=3)

        assert together == [generate_ids(network, [row], 5, num_beams=3)[0] for row in prompts]
        assert all(len(answer) <= 5 and network.stop_ids.isdisjoint(answer) for answer in together)

    def test_a_rows_own_limit_counts(self) -> None:
        network = ending_network(1)
        prompts = short_prompts(network)[:3]

        answers = generate_ids(network, prompts, 5, num_beams=3, limits=[2, 1, 9])

        assert answers == [generate_ids(network, [row], n, num_beams=3)[0] for row, n in zip(prompts, (2, 1, 5), strict=True)]

    def test_the_search_goes_on_though_the_likeliest_tokens_all_end_an_answer(self) -> None:
        network = ending_network(1)
        row = prompt(network, 1)
        likeliest = log_probabilities(network, row).argsort(descending=True).tolist()
        network.stop_ids = frozenset(likeliest[:4])

        for limit in (1, 5):
            (answer,) = generate_ids(network, [row], limit, num_beams=2)

            assert len(answer) <= limit
            assert network.stop_ids.isdisjoint(answer)

    def test_on_token_is_called_when_the_search_has_ended(self) -> None:
        network = ending_network(1)
        streamed: dict[int, list[int]] = {row: [] for row in range(6)}

        answers = generate_ids(network, short_prompts(network), 4, num_beams=2, on_token=lambda row, token: streamed[row].append(token))

        assert list(streamed.values()) == answers

    def test_the_prefix_counts(self) -> None:
        network = ending_network(4)
        prefix = prefix_for(network)
        prompts = short_prompts(network)

        assert generate_ids(network, prompts, 5, num_beams=2, prefix=prefix) != generate_ids(network, prompts, 5, num_beams=2)

    def test_no_answer_is_found_where_the_log_probability_is_not_a_number(self) -> None:
        network = small_network()
        row = prompt(network, 1)
        assert beam_search(PrefixedNetwork(network), Request(row, 4), 3) == generate_ids(network, [row], 4, num_beams=3)[0]
        network.logits = lambda hidden: torch.full((len(hidden), 40), float("nan"))  # type: ignore[method-assign]

        assert beam_search(PrefixedNetwork(network), Request(row, 4), 3) is None
