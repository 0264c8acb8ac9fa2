import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import imprint
from imprint.inference import Decoder, Request, Token
from imprint.inference.decoder import PrefixedNetwork
from imprint.messages import UserError
from imprint.models.network import Network
from tests.bases import FAMILIES, base_of
from tests.cases import prompt, small_network
from tests.inference.reference import ending_network, greedy, log_probabilities, short_prompts
from tests.inference.schedules import pool_of, run_schedule


def answers_of(tokens: list[Token], stop_ids: frozenset[int]) -> dict[int, list[int]]:
    """The answer of each request, without stop ids."""
    answers: dict[int, list[int]] = {}
    for token in tokens:
        answers.setdefault(token.request, []).extend([] if token.id in stop_ids else [token.id])
    return answers


def all_tokens(decoder: Decoder) -> list[Token]:
    tokens = []
    while len(decoder):
        tokens += decoder.step()
    return tokens


class TestRequests:
    def test_each_ends_once_for_a_reason(self) -> None:
        network = ending_network(1)
        decoder = Decoder(PrefixedNetwork(network), slots=2)
        prompts = short_prompts(network)
        numbers = [decoder.admit(Request(row, 7)) for row in prompts]

        tokens = all_tokens(decoder)

        answers = answers_of(tokens, network.stop_ids)
        assert [answers[number] for number in numbers] == [greedy(network, row, 7) for row in prompts]
        for number in numbers:
            *before, last = [token for token in tokens if token.request == number]
            assert all(token.finish is None for token in before)
            assert last.finish == ("stop" if last.id in network.stop_ids else "length")
            assert [token.index for token in (*before, last)] == list(range(len(before) + 1))

    def test_no_more_run_than_there_are_slots_and_others_wait(self) -> None:
        network = small_network()
        decoder = Decoder(PrefixedNetwork(network), slots=2)
        numbers = [decoder.admit(Request(prompt(network, token), 3)) for token in range(3)]

        assert [len(decoder.step()) for _ in range(3)] == [2, 2, 2]
        assert [token.request for token in decoder.step()] == [numbers[2]]

    def test_a_cancelled_one_gives_no_further_token_and_harms_no_other(self) -> None:
        network = small_network()
        decoder = Decoder(PrefixedNetwork(network), slots=2)
        rows = [prompt(network, token) for token in range(4)]
        numbers = [decoder.admit(Request(row, 6)) for row in rows]
        tokens = decoder.step()

        for number in (numbers[0], numbers[3], numbers[0], 99):
            decoder.cancel(number)
        tokens += all_tokens(decoder)

        answers = answers_of(tokens, network.stop_ids)
        assert answers == {numbers[0]: greedy(network, rows[0], 1)} | {numbers[row]: greedy(network, rows[row], 6) for row in (1, 2)}

    def test_an_empty_decoder_gives_nothing(self) -> None:
        decoder = Decoder(PrefixedNetwork(small_network()))

        assert decoder.step() == []
        assert len(decoder) == 0

    def test_a_refused_one_leaves_the_others_alone(self) -> None:
        network = small_network()
        decoder = Decoder(PrefixedNetwork(network))
        row = prompt(network, 1)
        number = decoder.admit(Request(row, 4))

        for ids in ([], [1, 2, 3], [40, *row], [-1, *row]):
            with pytest.raises(UserError):
                decoder.admit(Request(ids, 4))

        assert answers_of(all_tokens(decoder), network.stop_ids) == {number: greedy(network, row, 4)}

    def test_a_row_whose_logits_are_not_finite_fails_alone_and_its_slot_is_clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = small_network()
        embedding = network.transformer.word_embeddings.weight
        embedding[3] = float("nan")  # whoever asks with token 3
        decoder = Decoder(PrefixedNetwork(network), slots=2)
        rows = {decoder.admit(Request(prompt(network, *text), 5)): prompt(network, *text) for text in ([1], [3], [2], [4, 1])}
        poisoned = next(number for number, row in rows.items() if 3 in row)
        monkeypatch.setattr(network, "logits", _logits_without(network, 3))

        tokens = all_tokens(decoder)

        assert [(token.id, token.finish) for token in tokens if token.request == poisoned] == [(-1, "error")]
        answers = answers_of(tokens, network.stop_ids)
        for number in rows.keys() - {poisoned}:
            alone_ = Decoder(PrefixedNetwork(network))
            again = alone_.admit(Request(rows[number], 5))
            assert answers[number] == answers_of(all_tokens(alone_), network.stop_ids)[again]

    def test_log_probabilities_are_the_models(self) -> None:
        network = small_network()
        decoder = Decoder(PrefixedNetwork(network))
        row = prompt(network, 1)
        decoder.admit(Request(row, 3))

        for token in all_tokens(decoder):
            expected = log_probabilities(network, row)
            assert abs(token.logprob - float(expected[token.id])) < 1e-4
            row = [*row, token.id]


def test_the_most_probable_tokens_come_with_those_that_ask_for_them() -> None:
    network = small_network()
    decoder = Decoder(PrefixedNetwork(network))
    row = short_prompts(network)[0]
    asks, other = decoder.admit(Request(row, 3, top_logprobs=4)), decoder.admit(Request(row, 3))
    tokens = all_tokens(decoder)

    answer: list[int] = []
    for token in tokens:
        if token.request == other:
            assert token.top == ()
            continue
        assert token.request == asks
        log_probs, ids = log_probabilities(network, [*row, *answer]).topk(4)
        assert [one for one, _ in token.top] == ids.tolist()
        assert [value for _, value in token.top] == pytest.approx(log_probs.tolist(), abs=1e-4)
        assert token.top[0][0] == token.id
        answer.append(token.id)


class TestAfterAnError:
    def test_what_it_held_is_released_and_a_new_one_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = imprint.load(base_of("BLOOM", tmp_path / "base"), device="cpu")
        prompt = model.prompt("你好")
        released: list[int] = []
        (expected,) = model.generate([prompt], 4)
        monkeypatch.setattr(model.adapters, "release", released.append)
        decoder = Decoder(model, slots=1)
        for _ in range(2):
            decoder.admit(Request(prompt, 4))
        decoder.step()
        monkeypatch.setattr(model.network, "logits", _fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            decoder.step()
        monkeypatch.undo()
        monkeypatch.setattr(model.adapters, "release", released.append)
        decoder.abandon()

        assert (len(decoder), len(released), model.network.decode_memory) == (0, 2, None)
        assert model.generate([prompt], 4) == [expected]


def _fail(_hidden: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("out of memory")


def test_the_room_of_the_cache_is_that_of_the_most_and_longest_requests() -> None:
    decoder = Decoder(PrefixedNetwork(small_network()))
    assert decoder.cache_tokens(3, 20) == 60
    decoder.admit(Request(short_prompts(small_network())[0], 10))
    decoder.step()

    assert decoder.cache_tokens(1, 5) == 16
    assert decoder.cache_tokens(2, 20) == 40


def _logits_without(network: Network, token: int) -> Callable[[torch.Tensor], torch.Tensor]:
    compute = network.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        values = compute(hidden)
        values[hidden.isfinite().all(-1), token] = float("-inf")  # its column is NaN for every row
        return values

    return logits


KINDS = [("ChatGLM-6B", False), ("ChatGLM2-6B", False), ("BLOOM", False), ("Qwen3", False), ("ChatGLM-6B", True)]
"""(family, whether it is quantized to 4 bits): a prefix language model, grouped queries, ALiBi, a transformers class."""


class TestSchedules:
    @pytest.mark.parametrize(("family", "quantized"), KINDS, ids=[f"{family}{' INT4' * quantized}" for family, quantized in KINDS])
    def test_an_answer_does_not_depend_on_who_joins_and_leaves(self, tmp_path: Path, family: str, quantized: bool) -> None:  # noqa: FBT001
        pool = pool_of(family, tmp_path, quantized=quantized)

        assert sum(run_schedule(pool, random.Random(seed)) for seed in range(12)) > 40

    @pytest.mark.long
    @pytest.mark.parametrize("quantized", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_nor_in_a_thousand_schedules(self, tmp_path: Path, family: str, quantized: bool) -> None:  # noqa: FBT001
        pool = pool_of(family, tmp_path, quantized=quantized, size=60)

        assert sum(run_schedule(pool, random.Random(seed)) for seed in range(1000)) > 4000
