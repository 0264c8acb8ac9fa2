"""The scores are those of the tools that the protocols are named after."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.metrics import scores, tokens
from imprint.metrics.means import METRICS, score
from imprint.metrics.protocols import PROTOCOLS
from imprint.metrics.scores import RowScore, score_protocols, score_rows


@pytest.mark.parametrize("protocol", ["chatglm-6b", "llamafactory"])
def test_every_row_and_every_mean_equals_the_original(protocol: str, shared: Path) -> None:
    golden = json.loads((shared / "golden" / "metrics" / "metrics.json").read_text(encoding="utf-8"))
    predictions = [pair["prediction"] for pair in golden["pairs"]]
    references = [pair["reference"] for pair in golden["pairs"]]

    rows = [row.by_metric() for row in score_rows(predictions, references, protocol)]
    found = score(predictions, references, protocol)

    assert rows == [pytest.approx({name: pair[name] for name in METRICS}, abs=1e-3) for pair in golden["pairs"]]
    assert {name: found[name] for name in METRICS} == pytest.approx(golden["mean"], abs=1e-3)


def test_scores_worked_out_by_hand() -> None:
    # Words 黑色|上衣 and 白色|上衣: 1 of 2 is shared, no pair. Characters: 3 of 4, pairs 2 of 3, triples 1 of 2, 0 of 1 smoothed to 1/2.
    (row,) = score_rows(["黑色上衣"], ["白色上衣"])

    bleu = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert row.by_metric() == pytest.approx({"rouge-1": 50, "rouge-2": 0, "rouge-l": 50, "bleu-4": bleu}, abs=1e-3)


def test_the_same_text_scores_everything() -> None:
    found = score(["这件上衣的颜色是白色。"], ["这件上衣的颜色是白色。"])

    assert found == pytest.approx({"rouge-1": 100, "rouge-2": 100, "rouge-l": 100, "bleu-4": 100, "empty": 0}, abs=1e-3)


@pytest.mark.parametrize("nothing", ["", "  \n", "\u3000\t"])
def test_an_empty_prediction_scores_zero_and_is_counted(nothing: str) -> None:
    found = score([nothing, "好"], ["很好", "好"])

    assert found["empty"] == 1
    assert found["rouge-1"] == pytest.approx(50, abs=1e-3)


def test_an_empty_reference_scores_zero_and_is_no_empty_prediction() -> None:
    (row,) = score_rows(["好"], [" \n"])

    assert row == RowScore(0.0, 0.0, 0.0, 0.0, empty=False)


@pytest.mark.parametrize("odd", ["\n好\n\n", "。", "……", "?!", "好。 ”", "\u200b", "<UNK>", "a b\tc", "👍", "，\r\n \n，"])
def test_odd_texts_are_scored_and_equal_themselves(odd: str) -> None:
    (row,) = score_rows([odd], [odd])

    assert row.rouge_1 == pytest.approx(100, abs=1e-3)
    assert row.rouge_l == pytest.approx(100, abs=1e-3)


def test_lists_of_different_lengths_are_refused_with_their_lengths() -> None:
    with pytest.raises(UserError, match="2 predictions cannot be scored against 1 references"):
        score(["好", "好"], ["好"])


# One pair, worked out by hand under every protocol. Words 黑色|上衣 and 白色|上衣: 1 of 2 shared, 0 of 1 pairs, no triple, no four, and the
# three that are missing are smoothed to 1/2, 1/4 and 1/8. Characters: 3 of 4, 2 of 3, 1 of 2, and 0 of 1 smoothed to 1/2.
OVER_WORDS = 100 * (1 / 2 * 1 / 2 * 1 / 4 * 1 / 8) ** (1 / 4)
OVER_CHARACTERS = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)


@pytest.mark.parametrize(
    ("protocol", "bleu"),
    [("chatglm-6b", OVER_CHARACTERS), ("llamafactory", OVER_CHARACTERS), ("words", OVER_WORDS), ("swift", OVER_WORDS)],
)
def test_bleu_of_the_same_pair_differs_as_its_tokens_do(protocol: str, bleu: float) -> None:
    found = score(["黑色上衣"], ["白色上衣"], protocol)

    assert found == pytest.approx({"rouge-1": 50, "rouge-2": 0, "rouge-l": 50, "bleu-4": bleu, "empty": 0}, abs=1e-3)


def test_an_empty_answer_is_a_zero_in_every_mean_but_that_of_swift() -> None:
    predictions, references = ["黑色上衣", "", "  "], ["白色上衣", "好", "好"]

    found = {name: score(predictions, references, name) for name in PROTOCOLS}

    assert found["chatglm-6b"] == found["llamafactory"] == pytest.approx(found["chatglm-6b"] | {"bleu-4": OVER_CHARACTERS / 3}, abs=1e-3)
    assert found["words"]["bleu-4"] == pytest.approx(OVER_WORDS / 3, abs=1e-3)
    assert found["swift"]["bleu-4"] == pytest.approx(OVER_WORDS, abs=1e-3)
    assert [one["empty"] for one in found.values()] == [2] * 4
    assert [row.counted for row in score_rows(predictions, references, "swift")] == [True, False, False]


def test_swift_drops_an_empty_reference_too_and_says_zero_where_nothing_is_left() -> None:
    found = score(["好", ""], [" ", "好"], "swift")

    assert found == {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0, "bleu-4": 0.0, "empty": 1}


def test_swift_counts_a_line_break_as_llamafactory_counts_blank_characters() -> None:
    (row,) = score_rows(["\n"], ["好\n看"], "swift")
    assert row.counted  # only spaces make a row empty there
    (row,) = score_rows([" "], ["好 看"], "llamafactory")
    assert row.rouge_1 == 0.0
    assert row.bleu_4 > 0  # one of the reference's characters is there


def test_spaces_around_an_answer_are_no_words_of_the_protocol_words() -> None:
    bare, spaced = (score_rows([text], ["白色 上衣"], "words") for text in ("黑色 上衣", " \n黑色 上衣\n"))

    assert bare == spaced


def test_several_protocols_at_once_are_each_by_itself_and_cut_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, references = ["黑色上衣", "", "好看。", " 好 "], ["白色上衣", "好", "很好看。", "好"]
    alone = {name: score_rows(predictions, references, name) for name in PROTOCOLS}
    cut: list[str] = []

    def counted(text: str) -> list[str]:
        cut.append(text)
        return tokens.segment(text)

    monkeypatch.setattr("imprint.metrics.scores.segment", counted)

    assert score_protocols(predictions, references, list(PROTOCOLS)) == alone
    assert sorted(cut) == sorted(predictions + references)


def test_words_that_protocols_share_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[list[str], list[str]]] = []

    def counted(predicted: list[str], expected: list[str]) -> float:
        compared.append((predicted, expected))
        return 0.5

    monkeypatch.setattr("imprint.metrics.scores.sentence_bleu", counted)
    score_protocols(["黑色上衣", "黑色 上衣"], ["白色上衣", "白色上衣"], list(PROTOCOLS))
    assert len(compared) == 2 + 3, "characters and words; of the second pair also the words without the space"


def test_an_answer_of_many_thousand_words_is_scored() -> None:
    (row,) = score_rows(["好看，" * 900], ["好看。"], "swift")

    assert 0 < row.rouge_1 < 100


def test_rows_without_words_are_dropped_whichever_package_computes_rouge(monkeypatch: pytest.MonkeyPatch) -> None:
    dropping = replace(PROTOCOLS["words"], empties="dropped")
    monkeypatch.setattr(scores, "get_protocol", lambda _name: dropping)

    rows = score_rows(["好", " \n", "好"], ["好", "好", "\u3000"], "words")

    assert [row.counted for row in rows] == [True, False, False]
