from collections.abc import Sequence

import pytest
import torch

from imprint.inference.likelihood import row_losses, score_answers, score_options
from imprint.inference.sampling import NotFiniteError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import pack
from tests.cases import CASES, Case, prompt, small_network
from tests.inference.reference import prefix_for

END = 10
OPTIONS = ([1, END], [1, 2, END], [1, 2, 3, END], [4, 4, END], [END], [5, 1, 2, 3, END])
"""Labels that begin alike, one that another begins with, an empty one, and one that is longer than all."""


def prompts_of(network: Network) -> list[list[int]]:
    return [prompt(network, *text) for text in ([1, 2, 3, 4], [5], [2, 2, 6], [6, 5, 4, 3, 2, 1])]


def one_by_one(network: Network, ids: Sequence[int], answer: Sequence[int], prefix: Prefix | None) -> float:
    """Brute force: the whole row, without a cache, alone."""
    row = [*ids, *answer]
    with torch.no_grad():
        logs = network.logits(network(pack([row], network), prefix=prefix)).log_softmax(-1)
    return sum(float(logs[len(ids) + index - 1, token]) for index, token in enumerate(answer))


@pytest.mark.parametrize("max_rows", [256, 4, 1])
@pytest.mark.parametrize("tuned", [False, True])
def test_the_tree_of_options_equals_brute_force(max_rows: int, tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    monkeypatch.setattr("imprint.inference.likelihood.MAX_ROWS", max_rows)
    network = small_network(vocabulary=12, std=0.5)
    prefix = prefix_for(network) if tuned else None
    prompts = prompts_of(network)

    actual = score_options(network, prompts, OPTIONS, prefix=prefix)

    expected = torch.tensor([[one_by_one(network, row, option, prefix) for option in OPTIONS] for row in prompts])
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert actual.argmax(1).tolist() == expected.argmax(1).tolist()


def test_labels_have_the_same_scores_alone_and_in_a_batch() -> None:
    case = Case(CASES[0])
    network = case.load().network
    options = [[3, 4, 5], [3, 4], [7, 5]]

    together = score_options(network, case.prompts, options)

    alone = torch.cat([score_options(network, [row], options) for row in case.prompts])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_the_probability_of_an_answer_is_that_of_its_tokens_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.inference.likelihood.CHUNK_TOKENS", 2)
    network = small_network(vocabulary=12, std=0.5)
    prompts = prompts_of(network)
    answers = [[1, 2, END], [END], [4, 4, 4, 1, END], [3, END]]

    actual = score_answers(network, prompts, answers)

    expected = [one_by_one(network, row, answer, None) for row, answer in zip(prompts, answers, strict=True)]
    assert actual == pytest.approx(expected, abs=1e-4)


def test_the_probabilities_of_all_answers_add_up_to_one() -> None:
    network = small_network(vocabulary=6, std=0.5)
    prompts = [prompt(network, 1, 2)]
    vocabulary = network.shape.vocab_size
    firsts = score_options(network, prompts, [[token] for token in range(vocabulary)])
    assert float(firsts.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_log_probabilities_that_are_not_finite_are_refused() -> None:
    network = small_network(vocabulary=12)
    with torch.no_grad():
        network.head_weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="prompt 1 of 4"):
        score_options(network, prompts_of(network), OPTIONS)
    with pytest.raises(NotFiniteError, match="prompt 1 of 4"):
        score_answers(network, prompts_of(network), [[1]] * 4)


def test_the_loss_of_a_row_is_that_of_its_scored_tokens() -> None:
    network = small_network(vocabulary=12, std=0.5)
    prefix, prompts, answers = prefix_for(network), prompts_of(network)[:2], [[1, 2, 3], [4]]
    rows = [[*ids, *answer] for ids, answer in zip(prompts, answers, strict=True)]
    labels = [[*[-100] * len(ids), *answer] for ids, answer in zip(prompts, answers, strict=True)]

    wanted = [-one_by_one(network, ids, answer, prefix) for ids, answer in zip(prompts, answers, strict=True)]
    assert row_losses(network, rows, labels, prefix=prefix) == pytest.approx(wanted, rel=1e-5)
