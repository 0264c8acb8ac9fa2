"""ROUGE of two packages, worked out by hand where they differ."""

import random

import pytest
import rouge_chinese
from rouge_chinese import rouge_score

from imprint.metrics.rouge import chinese_rouge, plain_rouge
from tests.bounded import cpu_time


def test_they_agree_on_one_sentence_of_different_words() -> None:
    prediction, wanted = ["黑色", "上衣", "好看"], ["白色", "上衣", "很", "好看"]

    assert plain_rouge(prediction, wanted) == pytest.approx(chinese_rouge(prediction, wanted))
    assert plain_rouge(prediction, wanted) == pytest.approx((4 / 7, 0.0, 4 / 7), abs=1e-6)


def test_words_said_twice_count_once_in_the_plain_rouge_l() -> None:
    prediction, wanted = ["好", "好", "好", "看"], ["好", "看"]

    assert chinese_rouge(prediction, wanted)[2] == pytest.approx(2 * 2 / (4 + 2), abs=1e-6)
    assert plain_rouge(prediction, wanted)[2] == pytest.approx(1.0, abs=1e-6)


def test_a_full_stop_ends_a_sentence_of_the_plain_rouge_and_is_no_word() -> None:
    # Sentences a b | c and c | a b: in one sequence two words are in order, sentence by sentence all three.
    prediction, wanted = ["a", "b", ".", "c"], ["c", ".", "a", "b"]

    assert plain_rouge(prediction, wanted)[2] == pytest.approx(1.0, abs=1e-6)
    assert chinese_rouge(prediction, wanted)[2] == pytest.approx(0.5, abs=1e-6)
    assert plain_rouge(["3.5"], ["3", "5"])[0] == pytest.approx(1.0, abs=1e-6)


def test_of_two_longest_subsequences_the_one_from_the_end_is_taken() -> None:
    # 甲乙 against 乙甲: either word alone is longest; walking back from the end, the last of what was said is left first.
    assert plain_rouge(["乙", "甲"], ["甲", "乙"])[2] == pytest.approx(0.5, abs=1e-6)
    # 甲甲乙 against 乙甲: 甲 is common in one walk only, but both walks are one word long.
    assert plain_rouge(["乙", "甲"], ["甲", "甲", "乙"])[2] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("nothing", [["."], ["..."], []])
def test_nothing_but_full_stops_scores_nothing(nothing: list[str]) -> None:
    assert plain_rouge(nothing, ["好"]) == (0.0, 0.0, 0.0)
    assert plain_rouge(["好"], nothing) == (0.0, 0.0, 0.0)


def test_rouge_equals_the_package_on_random_texts() -> None:
    rng = random.Random(3)
    words = ["好", "看", "。", "？", "”", "…", "……", "......", "\n", " ", "很", "a", "\u3000", "x\ny"]
    for _ in range(1500):
        prediction, reference = (["好", *rng.choices(words[: rng.randrange(2, len(words) + 1)], k=rng.randrange(14))] for _ in range(2))
        (package,) = rouge_chinese.Rouge(stats=["f"]).get_scores(" ".join(prediction), " ".join(reference))

        assert chinese_rouge(prediction, reference) == tuple(package[name]["f"] for name in ("rouge-1", "rouge-2", "rouge-l"))


def test_the_plain_rouge_l_unites_the_words_of_all_pairs_of_sentences() -> None:
    rng = random.Random(4)
    for _ in range(500):
        prediction, reference = (["a", *rng.choices(["a", "b", "c", ".", "d", "e f"], k=rng.randrange(20))] for _ in range(2))
        predicted, expected = ([" ".join(part.split()) for part in " ".join(text).split(".") if part] for text in (prediction, reference))
        union = None
        for sentence in expected:
            _count, union = rouge_score._union_lcs(predicted, sentence, union)
        sizes = [len({word for sentence in text for word in sentence.split(" ")}) for text in (predicted, expected)]
        words = {word[0] if isinstance(word, tuple) else word for word in (union._ngrams if union is not None else ())}
        precision, recall = len(words) / sizes[0], len(words) / sizes[1]

        assert plain_rouge(prediction, reference)[2] == 2 * precision * recall / (precision + recall + 1e-8)


def test_one_pair_of_five_thousand_words_and_one_of_as_many_sentences_are_scored_at_once() -> None:
    words = [f"词{index * index % 997}" for index in range(5000)]
    with cpu_time(at_most=20):
        scores = [chinese_rouge(words, words[::-1]), plain_rouge(words, words[::-1])]
        sentences = [part for word in words[:2000] for part in (word, ".")]
        scores.append(plain_rouge(sentences, sentences[::-1]))

    assert all(0 < rouge_l < 1 for _rouge_1, _rouge_2, rouge_l in scores)
