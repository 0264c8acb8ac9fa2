"""The scores are the original's, and what a mean hides is counted."""

import json
import logging
from pathlib import Path

import pytest

from imprint import metrics
from imprint.errors import UserError

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "metrics" / "metrics.json"


@pytest.mark.shared
@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden pairs of the original's metrics are not beside this checkout")
def test_every_row_and_every_mean_equals_the_original() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    predictions = [pair["prediction"] for pair in golden["pairs"]]
    references = [pair["reference"] for pair in golden["pairs"]]

    rows = [row.by_metric() for row in metrics.score_rows(predictions, references)]
    found = metrics.score(predictions, references)

    assert rows == [pytest.approx({name: pair[name] for name in metrics.METRICS}, abs=1e-3) for pair in golden["pairs"]]
    assert {name: found[name] for name in metrics.METRICS} == pytest.approx(golden["mean"], abs=1e-3)


def test_scores_worked_out_by_hand() -> None:
    # Words 黑色|上衣 and 白色|上衣: 1 of 2 is shared, no pair. Characters: 3 of 4, pairs 2 of 3, triples 1 of 2, 0 of 1 smoothed to 1/2.
    (row,) = metrics.score_rows(["黑色上衣"], ["白色上衣"])

    bleu = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert row.by_metric() == pytest.approx({"rouge-1": 50, "rouge-2": 0, "rouge-l": 50, "bleu-4": bleu}, abs=1e-3)


def test_the_same_text_scores_everything() -> None:
    found = metrics.score(["这件上衣的颜色是白色。"], ["这件上衣的颜色是白色。"])

    assert found == pytest.approx({"rouge-1": 100, "rouge-2": 100, "rouge-l": 100, "bleu-4": 100, "empty": 0}, abs=1e-3)


@pytest.mark.parametrize("nothing", ["", "  \n", "\u3000\t"])
def test_an_empty_prediction_scores_zero_and_is_counted(nothing: str) -> None:
    found = metrics.score([nothing, "好"], ["很好", "好"])

    assert found["empty"] == 1
    assert found["rouge-1"] == pytest.approx(50, abs=1e-3)


def test_an_empty_reference_scores_zero_and_is_no_empty_prediction() -> None:
    (row,) = metrics.score_rows(["好"], [" \n"])

    assert row == metrics.RowScore(0.0, 0.0, 0.0, 0.0, empty=False)


@pytest.mark.parametrize("odd", ["\n好\n\n", "。", "……", "?!", "好。 ”", "\u200b", "<UNK>", "a b\tc", "👍", "，\r\n \n，"])
def test_odd_texts_are_scored_and_equal_themselves(odd: str) -> None:
    (row,) = metrics.score_rows([odd], [odd])

    assert row.rouge_1 == pytest.approx(100, abs=1e-3)
    assert row.rouge_l == pytest.approx(100, abs=1e-3)


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r'no metric protocol "bleu"\. Allowed: chatglm-6b\.'):
        metrics.score(["好"], ["好"], protocol="bleu")


def test_lists_of_different_lengths_are_refused_with_their_lengths() -> None:
    with pytest.raises(UserError, match="2 predictions cannot be scored against 1 references"):
        metrics.score(["好", "好"], ["好"])


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="at least 1 is needed"):
        metrics.score([], [])


def test_an_interval_covers_the_mean_and_is_the_same_again() -> None:
    values = [float(value % 37) for value in range(300)]

    low, high = metrics.interval(values)

    assert low < sum(values) / len(values) < high
    assert (low, high) == metrics.interval(values)
    assert (low, high) != metrics.interval(values, seed=1)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = [0.0, 1.0] * 200  # the standard error of the mean is 0.5 / sqrt(400) = 0.025

    low, high = metrics.interval(values, samples=4000)

    assert high - low == pytest.approx(2 * 1.96 * 0.025, rel=0.1)


def test_more_rows_and_less_confidence_make_an_interval_narrower() -> None:
    values = [0.0, 1.0, 5.0, 9.0] * 10

    def width(bounds: tuple[float, float]) -> float:
        return bounds[1] - bounds[0]

    assert width(metrics.interval(values * 10)) < width(metrics.interval(values)) / 2
    assert width(metrics.interval(values, confidence=0.5)) < width(metrics.interval(values))


def test_one_value_has_an_interval_of_no_width() -> None:
    assert metrics.interval([7.0]) == (7.0, 7.0)


def test_a_summary_has_the_mean_interval_and_counts() -> None:
    predictions, references = ["好的", "", "白色上衣"] * 5, ["好的", "好", "黑色上衣"] * 5

    found = metrics.summary(metrics.score_rows(predictions, references))

    assert (found.protocol, found.rows, found.empty) == ("chatglm-6b", 15, 5)
    assert list(found.means) == list(metrics.METRICS)
    for name, mean in found.means.items():
        assert mean.low <= mean.value <= mean.high
        assert mean.value == metrics.score(predictions, references)[name]


def test_a_gain_is_paired_and_so_surer_than_two_intervals() -> None:
    before = [metrics.RowScore(value, value, value, value, empty=False) for value in range(0, 90, 3)]
    after = [
        metrics.RowScore(row.bleu_4 + 2 + place % 2, 0.0, 0.0, row.bleu_4 + 2 + place % 2, empty=False) for place, row in enumerate(before)
    ]

    gain = metrics.gains(before, after)["bleu-4"]

    assert gain.value == pytest.approx(2.5)
    assert 2 < gain.low < 2.5 < gain.high < 3
    assert metrics.summary(after).means["bleu-4"].low < metrics.summary(before).means["bleu-4"].high
    with pytest.raises(UserError, match="30 rows before and 29 after cannot be paired"):
        metrics.gains(before, after[1:])


def test_a_copy_is_found_behind_whitespace_and_the_width_of_punctuation() -> None:
    known = ["这件上衣，真好看！", "裙子。", ""]

    assert metrics.copied_share(["这件 上衣,真好看!\n", "裙子.", "裤子。", ""], known) == 0.5


def test_a_text_that_goes_round_in_circles_is_counted() -> None:
    circles = "好看的裙子" * 4
    once = "好看的裙子，好看的裤子，好看的上衣"

    assert metrics.repeated_share([circles, once]) == 0.5
    assert metrics.repeated_share(["哈哈哈哈哈哈哈", "哈哈哈哈哈哈", "", "短"]) == 0.25


def test_words_joined_are_the_text_again() -> None:
    text = "这款BRAND 针织\n连衣裙。"

    assert "".join(metrics.words(text)) == text
    assert "针织" in metrics.words(text)


def test_scoring_says_nothing_and_leaves_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    metrics._cutter.cache_clear()

    with caplog.at_level(logging.DEBUG):
        metrics.score(["好"], ["好"])

    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
