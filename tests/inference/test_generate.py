from collections.abc import Sequence
from itertools import product

import pytest
import torch

import imprint.inference.generate
from imprint.errors import UserError
from imprint.inference.generate import NotFiniteError, Rows, Sampling, generate, stream
from imprint.models.attention import Prefix
from imprint.models.chatglm import ChatGLM
from imprint.models.network import Network
from imprint.pack import pack
from imprint.tune.prefix import PrefixShape, start_prefix
from tests.cases import CASES, Case, difference, prompt, small_chatglm2, small_network


def ending_network(seed: int = 0, *, vocabulary: int = 12) -> ChatGLM:
    """A network that ends its answers after different numbers of tokens: the end is one word of few."""
    network = small_network(seed=seed, vocabulary=vocabulary, std=1.0)
    network.head_weight.mul_(0.3)  # so that no word is next to certain
    return network


def end_of(network: Network) -> int:
    (end,) = network.end_ids
    return end


def prefix_for(network: ChatGLM) -> Prefix:
    torch.manual_seed(0)
    encoder = start_prefix(network, PrefixShape.of(network, 3, projection=False), "random", [])
    return [(key.detach(), value.detach()) for key, value in encoder.prefix(torch.float32)]


def log_probabilities(network: ChatGLM, row: Sequence[int], prefix: Prefix | None = None) -> torch.Tensor:
    """Of every next token, without a cache: the whole row is computed anew."""
    with torch.no_grad():
        hidden = network(pack([row], network), prefix=prefix)
        return network.logits(hidden[-1:])[0].log_softmax(-1)


def greedy(network: ChatGLM, row: Sequence[int], count: int, prefix: Prefix | None = None) -> list[int]:
    answer: list[int] = []
    while len(answer) < count:
        token = int(log_probabilities(network, [*row, *answer], prefix).argmax())
        if token in network.end_ids:
            break
        answer.append(token)
    return answer


def best_by_search(network: ChatGLM, row: Sequence[int], count: int) -> list[int]:
    """The answer with the highest mean log-probability a token, the end counted, among all there are."""
    words = [token for token in range(network.config.vocab_size) if token not in network.end_ids]
    known = {text: log_probabilities(network, [*row, *text]) for length in range(count) for text in product(words, repeat=length)}

    def score(text: Sequence[int]) -> float:
        return sum(float(known[tuple(text[:place])][text[place]]) for place in range(len(text))) / len(text)

    whole = [(*text, end_of(network)) for text in known] + list(product(words, repeat=count))
    best = max(whole, key=score)
    return [token for token in best if token not in network.end_ids]


def rows_of(network: ChatGLM) -> list[list[int]]:
    return [prompt(network, *text) for text in ([1, 2, 3, 4], [5], [], [2, 2, 6], [6, 5, 4, 3, 2, 1], [0, 3])]


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("name", CASES)
    def test_greedy_ids(self, name: str) -> None:
        case = Case(name)
        model = case.load()
        end = end_of(model.network)
        expected = [row[: row.index(end)] if end in row else row for row in case.expected["greedy_ids"].tolist()]

        assert model.generate(case.prompts, max_new_tokens=10) == expected
        assert [model.generate([row], max_new_tokens=10)[0] for row in case.prompts] == expected


class TestCache:
    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_logits_of_each_step_are_those_of_the_whole_row(self, with_prefix: bool) -> None:  # noqa: FBT001
        network = small_network()
        prefix = prefix_for(network) if with_prefix else None
        prompts = rows_of(network)
        torch.manual_seed(0)
        tokens = torch.randint(30, (8, len(prompts)))
        with torch.inference_mode():
            rows = Rows(network, prompts, 8)
            logits = rows.read_prompts(network, prefix)
            for step in range(9):
                for place, one in enumerate(prompts):
                    whole = [*one, *tokens[:step, place].tolist()]
                    assert difference(logits[place].log_softmax(-1), log_probabilities(network, whole, prefix)) < 1e-4
                if step < 8:
                    logits = rows.step(network, prefix, tokens[step])

    def test_rows_may_leave_and_change_places(self) -> None:
        network = small_network()
        prompts = rows_of(network)
        with torch.inference_mode():
            rows = Rows(network, prompts, 4)
            rows.read_prompts(network, None)
            rows.keep(torch.tensor([3, 0, 3]))
            logits = rows.step(network, None, torch.tensor([7, 8, 9]))

        for found, (place, token) in zip(logits, [(3, 7), (0, 8), (3, 9)], strict=True):
            assert difference(found.log_softmax(-1), log_probabilities(network, [*prompts[place], token])) < 1e-4


class TestGreedy:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_a_batch_answers_as_each_row_does_alone_without_a_cache(self, seed: int, with_prefix: bool) -> None:  # noqa: FBT001
        network = ending_network(seed)
        prefix = prefix_for(network) if with_prefix else None
        prompts = rows_of(network)

        answers = generate(network, prompts, Sampling(7), prefix=prefix)

        assert answers == [greedy(network, row, 7, prefix) for row in prompts]

    def test_rows_end_at_different_times(self) -> None:
        lengths = {len(answer) for seed in range(8) for answer in generate(ending_network(seed), rows_of(ending_network()), Sampling(7))}

        assert {0, 7} <= lengths  # so that the test above has seen rows leave the batch, some at once
        assert len(lengths) >= 4

    def test_rows_that_are_done_are_not_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = small_network(vocabulary=40)
        sizes: list[int] = []
        step = Rows.step

        def counted(self: Rows, network: Network, prefix: Prefix | None, tokens: torch.Tensor) -> torch.Tensor:
            sizes.append(len(tokens))
            return step(self, network, prefix, tokens)

        monkeypatch.setattr(imprint.inference.generate.Rows, "step", counted)
        prompts = rows_of(network)[:3]
        answers = generate(network, prompts, Sampling(6), limits=[1, 4, 6])

        assert [len(answer) for answer in answers] == [1, 4, 6]
        assert sizes == [2, 2, 2, 1, 1]  # the last token of a row is not fed any more

    def test_no_more_tokens_than_asked_and_never_the_end(self) -> None:
        for seed in range(4):
            network = ending_network(seed)
            for count in (1, 2, 5):
                answers = generate(network, rows_of(network), Sampling(count))
                assert all(len(answer) <= count and network.end_ids.isdisjoint(answer) for answer in answers)

    def test_a_rows_own_limit_cuts_its_answer_only(self) -> None:
        network = ending_network(1)
        prompts = rows_of(network)
        whole = generate(network, prompts, Sampling(7))
        limits = [0, 1, 2, 7, 100, 3]

        assert generate(network, prompts, Sampling(7), limits=limits) == [
            answer[:limit] for answer, limit in zip(whole, limits, strict=True)
        ]

    def test_tokens_are_told_as_they_come(self) -> None:
        network = ending_network(1)
        told: dict[int, list[int]] = {row: [] for row in range(6)}

        answers = generate(network, rows_of(network), Sampling(7), on_token=lambda row, token: told[row].append(token))

        assert list(told.values()) == answers

    def test_no_prompt_is_no_answer(self) -> None:
        assert generate(small_network(), [], Sampling(3)) == []


class TestStream:
    @pytest.mark.parametrize("sampling", [Sampling(7), Sampling(7, 0.9, 0.8, seed=3)], ids=["greedy", "sampled"])
    def test_it_gives_what_generate_gives(self, sampling: Sampling) -> None:
        for seed in range(3):
            network = ending_network(seed)
            for row in rows_of(network):
                assert [list(stream(network, row, sampling))] == generate(network, [row], sampling)

    def test_the_prefix_counts(self) -> None:
        network = ending_network(2)
        prefix = prefix_for(network)

        answers = [list(stream(network, row, Sampling(7), prefix=prefix)) for row in rows_of(network)]

        assert answers == [greedy(network, row, 7, prefix) for row in rows_of(network)]
        assert answers != [greedy(network, row, 7) for row in rows_of(network)]

    def test_tokens_come_one_at_a_time(self) -> None:
        network = small_network()
        steps = stream(network, prompt(network, 1), Sampling(1000))

        assert [next(steps) for _ in range(3)] == greedy(network, prompt(network, 1), 3)


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
    def test_the_least_freedom_is_greedy(self, sampling: Sampling) -> None:
        network = ending_network(3)

        assert generate(network, rows_of(network), sampling) == generate(network, rows_of(network), Sampling(6))

    def test_tokens_come_as_often_as_they_are_probable(self) -> None:
        network = small_network(vocabulary=12)
        row = prompt(network, 1, 2)
        expected = (log_probabilities(network, row) / 3.0).softmax(-1)

        answers = generate(network, [row] * 4000, Sampling(1, 3.0, seed=0))

        found = torch.bincount(torch.tensor([answer[0] if answer else end_of(network) for answer in answers]), minlength=12) / 4000
        assert difference(found, expected) < 0.03

    def test_top_p_keeps_the_smallest_set_that_reaches_it(self) -> None:
        network = small_network(vocabulary=12)
        row = prompt(network, 1, 2)
        ordered = (log_probabilities(network, row) / 3.0).softmax(-1).sort(descending=True)
        count = int((ordered.values.cumsum(0) < 0.7).sum()) + 1

        answers = generate(network, [row] * 2000, Sampling(1, 3.0, 0.7, seed=0))

        found = {answer[0] if answer else end_of(network) for answer in answers}
        assert 1 < count < 12
        assert found == set(ordered.indices[:count].tolist())


class TestBeams:
    def test_wide_enough_they_find_the_best_answer_of_all(self) -> None:
        lengths = set()
        for seed in (6, 7, 8, 38, 50):
            network = ending_network(seed, vocabulary=7)
            network.transformer.final_layernorm.bias.add_(0.5 * network.head_weight[end_of(network)])  # short answers win, too
            for row in (prompt(network, 1), prompt(network, 0, 1)):
                best = best_by_search(network, row, 3)
                assert generate(network, [row], Sampling(3, num_beams=64)) == [best]
                lengths.add(len(best))

        assert lengths == {0, 1, 2, 3}

    def test_one_beam_is_greedy(self) -> None:
        network = ending_network(2)

        assert generate(network, rows_of(network), Sampling(6, num_beams=1)) == generate(network, rows_of(network), Sampling(6))

    def test_rows_are_searched_one_by_one_and_keep_their_order(self) -> None:
        network = ending_network(1)
        prompts = rows_of(network)

        together = generate(network, prompts, Sampling(5, num_beams=3))

        assert together == [generate(network, [row], Sampling(5, num_beams=3))[0] for row in prompts]
        assert all(len(answer) <= 5 and network.end_ids.isdisjoint(answer) for answer in together)

    def test_a_rows_own_limit_counts(self) -> None:
        network = ending_network(1)
        prompts = rows_of(network)[:3]

        answers = generate(network, prompts, Sampling(5, num_beams=3), limits=[0, 1, 9])

        assert answers[0] == []
        assert answers[1:] == [generate(network, [row], Sampling(n, num_beams=3))[0] for row, n in zip(prompts[1:], (1, 5), strict=True)]

    def test_they_go_on_though_the_likeliest_words_all_end_an_answer(self) -> None:
        network = ending_network(1)
        row = prompt(network, 1)
        likeliest = log_probabilities(network, row).argsort(descending=True).tolist()
        network.end_ids = frozenset(likeliest[:4])

        for limit in (1, 5):
            (answer,) = generate(network, [row], Sampling(limit, num_beams=2))

            assert len(answer) <= limit
            assert network.end_ids.isdisjoint(answer)

    def test_tokens_are_told_when_the_search_has_ended(self) -> None:
        network = ending_network(1)
        told: dict[int, list[int]] = {row: [] for row in range(6)}

        answers = generate(network, rows_of(network), Sampling(4, num_beams=2), on_token=lambda row, token: told[row].append(token))

        assert list(told.values()) == answers

    def test_the_prefix_counts(self) -> None:
        network = ending_network(4)
        prefix = prefix_for(network)
        prompts = rows_of(network)

        assert generate(network, prompts, Sampling(5, num_beams=2), prefix=prefix) != generate(network, prompts, Sampling(5, num_beams=2))


EVERY_WAY = {"greedy": Sampling(6), "sampled": Sampling(6, 1.0, 0.9, seed=1), "beams": Sampling(6, num_beams=3)}


class TestNumbersThatAreNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("sampling", EVERY_WAY.values(), ids=EVERY_WAY)
    def test_the_row_is_named_and_what_to_do(self, sampling: Sampling, value: float) -> None:
        network = small_network()
        prompts = [prompt(network, 1), prompt(network, 2, 3), prompt(network, 4)]
        assert len(generate(network, prompts, sampling)) == 3
        step = network.logits

        def broken(hidden: torch.Tensor) -> torch.Tensor:
            logits = step(hidden)
            logits[len(logits) // 2, 5] = value
            return logits

        network.logits = broken  # type: ignore[method-assign]
        place = "prompt 1 of 3" if sampling.num_beams > 1 else "prompt 2 of 3"
        with pytest.raises(NotFiniteError, match=f"^{place}: the network computes numbers that are not finite.*Use float32 or bfloat16"):
            generate(network, prompts, sampling)

    @pytest.mark.parametrize("sampling", [EVERY_WAY["greedy"], EVERY_WAY["sampled"]], ids=["greedy", "sampled"])
    def test_it_is_told_in_the_middle_of_an_answer_too(self, sampling: Sampling) -> None:
        network = small_network()
        whole = list(stream(network, prompt(network, 1), sampling))
        calls: list[int] = []
        step = network.logits

        def broken(hidden: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return step(hidden) * (float("nan") if len(calls) == 3 else 1)

        network.logits = broken  # type: ignore[method-assign]
        told: list[int] = []
        with pytest.raises(NotFiniteError, match=r"^prompt 1 of 1: the network computes numbers that are not finite"):
            for token in stream(network, prompt(network, 1), sampling):
                told.append(token)
        calls.clear()
        with pytest.raises(NotFiniteError, match=r"^prompt 1 of 1: the network computes numbers that are not finite"):
            generate(network, [prompt(network, 1)], sampling, on_token=lambda _, token: told.append(token))
        assert told == [*whole[:2], *whole[:2]]

    def test_a_word_that_is_impossible_is_no_harm(self) -> None:
        network = small_network()
        step = network.logits

        def without_a_word(hidden: torch.Tensor) -> torch.Tensor:
            logits = step(hidden)
            logits[:, 5] = float("-inf")
            return logits

        network.logits = without_a_word  # type: ignore[method-assign]
        for sampling in EVERY_WAY.values():
            assert 5 not in generate(network, [prompt(network, 1)], sampling)[0]


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
    def test_impossible_values_are_sentences(self, values: tuple[int, ...], sentence: str) -> None:
        with pytest.raises(UserError) as caught:
            Sampling(*values)

        assert str(caught.value) == sentence

    @pytest.mark.parametrize("sampling", [Sampling(3), Sampling(3, num_beams=2)], ids=["greedy", "beams"])
    def test_a_prompt_without_sop_is_a_sentence(self, sampling: Sampling) -> None:
        with pytest.raises(
            UserError, match=r"a prompt of 3 ids has no <sop>, behind which the answer begins\. Append \[gMASK\] and <sop>\."
        ):
            generate(small_network(), [[1, 2, 3]], sampling)

    @pytest.mark.parametrize("sampling", [Sampling(3), Sampling(3, num_beams=2)], ids=["greedy", "beams"])
    @pytest.mark.parametrize("network", [small_network(), small_chatglm2()], ids=["ChatGLM-6B", "ChatGLM2-6B"])
    def test_an_empty_prompt_is_a_sentence_in_every_family(self, network: Network, sampling: Sampling) -> None:
        with pytest.raises(UserError, match=r"ids\[0\]: is empty\. Give at least one token id\."):
            generate(network, [[]], sampling)
