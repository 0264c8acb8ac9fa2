"""BLEU is nltk's number, bit for bit."""

import random

import pytest
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import sentence_bleu as nltk_bleu

from imprint.metrics.bleu import sentence_bleu


@pytest.mark.parametrize("size", [3, 5, 12, 80])
def test_it_is_that_of_nltk_to_the_last_bit(size: int) -> None:
    rng = random.Random(size)
    for _ in range(200):
        prediction, reference = ([rng.choice("衣裙裤鞋帽，。") for _ in range(rng.randrange(size))] for _ in range(2))

        expected = nltk_bleu([reference], prediction, smoothing_function=SmoothingFunction().method3)

        assert sentence_bleu(prediction, reference) == expected


def test_words_and_characters_are_tokens_alike() -> None:
    assert sentence_bleu(["黑色", "的", "上衣", "好看"], ["黑色", "的", "上衣", "好看"]) == 1
    assert sentence_bleu(["黑色", "上衣"], ["白色", "上衣"]) == pytest.approx((1 / 2 * 1 / 2 * 1 / 4 * 1 / 8) ** 0.25)


def test_texts_without_a_shared_token_score_0() -> None:
    assert sentence_bleu(list("黑色"), list("上衣")) == sentence_bleu([], list("上衣")) == sentence_bleu(list("上衣"), []) == 0
