from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from imprint.inference.decode_batch import DecodeBatch
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.generate import stream
from imprint.inference.request import Request
from imprint.inference.sampling import NotFiniteError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from tests.cases import CASES, Case, prompt, small_network
from tests.inference.reference import end_id, ending_network, generate_ids, greedy, prefix_for, short_prompts


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("name", CASES)
    def test_greedy_ids(self, name: str) -> None:
        case = Case(name)
        model = case.load()
        end = end_id(model.network)
        expected = [row[: row.index(end)] if end in row else row for row in case.expected["greedy_ids"].tolist()]

        assert model.generate(case.prompts, max_new_tokens=10) == expected
        assert [model.generate([row], max_new_tokens=10)[0] for row in case.prompts] == expected


class TestGreedy:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_a_batch_answers_as_each_row_does_alone_without_a_cache(self, seed: int, with_prefix: bool) -> None:  # noqa: FBT001
        network = ending_network(seed)
        prefix = prefix_for(network) if with_prefix else None
        prompts = short_prompts(network)

        answers = generate_ids(network, prompts, 7, prefix=prefix)

        assert answers == [greedy(network, row, 7, prefix) for row in prompts]

    def test_rows_end_at_different_times(self) -> None:
        lengths = {len(answer) for seed in range(8) for answer in generate_ids(ending_network(seed), short_prompts(ending_network()), 7)}

        assert {0, 7} <= lengths  # so that the test above has seen rows leave the batch, some at once
        assert len(lengths) >= 4

    def test_rows_that_are_done_are_not_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = small_network(vocabulary=40)
        sizes: list[int] = []
        step = DecodeBatch.step

        def counted(self: DecodeBatch, tokens: torch.Tensor) -> torch.Tensor:
            sizes.append(len(tokens))
            return step(self, tokens)

        monkeypatch.setattr(DecodeBatch, "step", counted)
        prompts = short_prompts(network)[:3]
        answers = generate_ids(network, prompts, 6, limits=[1, 4, 6])

        assert [len(answer) for answer in answers] == [1, 4, 6]
        assert sizes == [2, 2, 2, 1, 1]  # the last token of a row is not fed any more

    def test_no_more_tokens_than_requested_and_never_the_end_id(self) -> None:
        for seed in range(4):
            network = ending_network(seed)
            for count in (1, 2, 5):
                answers = generate_ids(network, short_prompts(network), count)
                assert all(len(answer) <= count and network.stop_ids.isdisjoint(answer) for answer in answers)

    def test_a_rows_own_limit_cuts_its_answer_only(self) -> None:
        network = ending_network(1)
        prompts = short_prompts(network)
        answers = generate_ids(network, prompts, 7)
        limits = [1, 1, 2, 7, 100, 3]

        assert generate_ids(network, prompts, 7, limits=limits) == [answer[:limit] for answer, limit in zip(answers, limits, strict=True)]

    def test_on_token_is_called_for_each_token(self) -> None:
        network = ending_network(1)
        streamed: dict[int, list[int]] = {row: [] for row in range(6)}

        answers = generate_ids(network, short_prompts(network), 7, on_token=lambda row, token: streamed[row].append(token))

        assert list(streamed.values()) == answers

    def test_no_prompt_is_no_answer(self) -> None:
        assert generate_ids(small_network(), [], 3) == []


def streamed(network: Network, row: Sequence[int], max_new_tokens: int, *, prefix: Prefix | None = None) -> Iterator[int]:
    return stream(PrefixedNetwork(network, prefix), Request(row, max_new_tokens))


class TestStream:
    @pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "top_p": 0.8, "seed": 3}], ids=["greedy", "sampled"])
    def test_it_gives_what_generate_gives(self, settings: dict[str, Any]) -> None:
        for seed in range(3):
            network = ending_network(seed)
            for row in short_prompts(network):
                assert [list(stream(PrefixedNetwork(network), Request(row, 7, **settings)))] == generate_ids(network, [row], 7, **settings)

    def test_the_prefix_counts(self) -> None:
        network = ending_network(2)
        prefix = prefix_for(network)

        answers = [list(streamed(network, row, 7, prefix=prefix)) for row in short_prompts(network)]

        assert answers == [greedy(network, row, 7, prefix) for row in short_prompts(network)]
        assert answers != [greedy(network, row, 7) for row in short_prompts(network)]

    def test_tokens_come_one_at_a_time(self) -> None:
        network = small_network()
        steps = streamed(network, prompt(network, 1), 1000)

        assert [next(steps) for _ in range(3)] == greedy(network, prompt(network, 1), 3)


SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 1.0, "top_p": 0.9, "seed": 1}, "beams": {"num_beams": 3}}


class TestLogitsThatAreNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("settings", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_the_row_is_named_and_what_to_do(self, settings: dict[str, Any], value: float) -> None:
        network = small_network()
        prompts = [prompt(network, 1), prompt(network, 2, 3), prompt(network, 4)]
        assert len(generate_ids(network, prompts, 6, **settings)) == 3
        step = network.logits

        def broken(hidden: torch.Tensor) -> torch.Tensor:
            logits = step(hidden)
            logits[len(logits) // 2, 5] = value
            return logits

        network.logits = broken  # type: ignore[method-assign]
        location = "prompt 1 of 3" if "num_beams" in settings else "prompt 2 of 3"
        with pytest.raises(NotFiniteError, match=f"^{location}: the network computes numbers that are not finite.*Use float32 or bfloat16"):
            generate_ids(network, prompts, 6, **settings)

    @pytest.mark.parametrize("settings", [SAMPLINGS["greedy"], SAMPLINGS["sampled"]], ids=["greedy", "sampled"])
    def test_it_is_raised_in_the_middle_of_an_answer_too(self, settings: dict[str, Any]) -> None:
        network = small_network()
        request = Request(prompt(network, 1), 6, **settings)
        whole = list(stream(PrefixedNetwork(network), request))
        calls: list[int] = []
        step = network.logits

        def broken(hidden: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return step(hidden) * (float("nan") if len(calls) == 3 else 1)

        network.logits = broken  # type: ignore[method-assign]
        streamed: list[int] = []
        with pytest.raises(NotFiniteError, match=r"^prompt 1 of 1: the network computes numbers that are not finite"):
            for token in stream(PrefixedNetwork(network), request):
                streamed.append(token)
        calls.clear()
        with pytest.raises(NotFiniteError, match=r"^prompt 1 of 1: the network computes numbers that are not finite"):
            generate_ids(network, [prompt(network, 1)], 6, **settings, on_token=lambda _, token: streamed.append(token))
        assert streamed == [*whole[:2], *whole[:2]]

    def test_a_logit_of_minus_infinity_does_no_harm(self) -> None:
        network = small_network()
        step = network.logits

        def without_a_word(hidden: torch.Tensor) -> torch.Tensor:
            logits = step(hidden)
            logits[:, 5] = float("-inf")
            return logits

        network.logits = without_a_word  # type: ignore[method-assign]
        for settings in SAMPLINGS.values():
            assert 5 not in generate_ids(network, [prompt(network, 1)], 6, **settings)[0]
