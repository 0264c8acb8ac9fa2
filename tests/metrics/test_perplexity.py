import math
import random

import numpy as np
import pytest

from imprint.metrics.perplexity import LossSums


def summed(documents: list[tuple[int, int, float]]) -> LossSums:
    sums = LossSums()
    for tokens, characters, nats in documents:
        sums.add(tokens, characters, nats)
    return sums


def test_a_model_that_guesses_among_ten_has_the_perplexity_ten() -> None:
    found = summed([(5, 10, 5 * math.log(10)), (20, 40, 20 * math.log(10))]).perplexity()
    assert (found.documents, found.tokens, found.characters) == (2, 25, 50)
    assert found.token.perplexity == pytest.approx(10)
    assert found.token.bits == pytest.approx(math.log2(10))
    assert found.character.perplexity == pytest.approx(math.sqrt(10))
    assert found.token.low == pytest.approx(10)
    assert found.token.high == pytest.approx(10)


def test_a_single_document_has_no_interval() -> None:
    found = summed([(5, 10, 7.0)]).perplexity()
    assert (found.token.low, found.token.high, found.character.low) == (None, None, None)


def test_the_interval_is_that_of_a_bootstrap_over_documents() -> None:
    chance = random.Random(0)
    documents = [(tokens := chance.randrange(5, 200), 2 * tokens, tokens * chance.gauss(3.0, 0.5)) for _ in range(400)]
    found = summed(documents).perplexity().token
    sizes, nats = (np.array([document[place] for document in documents]) for place in (0, 2))
    drawn = np.random.default_rng(0).integers(0, 400, (4000, 400))
    low, high = np.exp(np.quantile(nats[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975]))
    assert found.low == pytest.approx(low, rel=0.01)
    assert found.high == pytest.approx(high, rel=0.01)
