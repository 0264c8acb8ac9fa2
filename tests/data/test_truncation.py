from imprint.data.encode import encode_sample
from imprint.data.limits import LengthLimits
from imprint.data.sample import Sample
from imprint.data.truncation import TRAINING_ROWS, TruncationReport, cut_warning
from tests.vocabulary import tiny_template

LIMITS = LengthLimits(64, 5)


def test_every_loss_is_reported_by_its_kind_in_both_languages() -> None:
    summary = TruncationReport(rows=500, cut=13, dropped_turns=2, cut_prompts=1, cut_answers=10).summary()
    assert summary.english == (
        "13 of 500 rows were cut (2.6 %): 10 lost the end of the answer, 1 lost a part of the prompt, 2 lost old turns."
    )
    assert summary.chinese == "500 行数据中有 13 行被截断（2.6 %）：10 行丢失回答的结尾，1 行丢失提问的一部分，2 行丢失较早的轮次。"
    assert TruncationReport.from_rows([]).summary().line == "none of 0 rows was cut. / 0 行数据均未被截断。"


def report(answer: str) -> TruncationReport:
    sample = Sample("类型#上衣", answer, None, "a.jsonl:1")
    return TruncationReport.from_rows([encode_sample(tiny_template(), sample, max_source_length=64, max_target_length=5)])


def test_the_warning_names_the_knob_and_the_value_that_cuts_nothing() -> None:
    short, cut, longer = report("好"), report("好" * 9), report("好" * 20)
    assert cut_warning(short, short, LIMITS, 512) is None
    warning = cut_warning(cut, longer, LIMITS, 512)
    assert warning is not None
    needed = longer.needed.answer
    assert warning.english.startswith("1 of 1 rows to learn from were cut (100.0 %): 1 lost the end of the answer. 1 of 1 held-out rows ")
    assert warning.english.endswith(f"begin a run in another folder with data.max_target_length={needed} (now 5).")
    assert warning.chinese.endswith(f"要完整保留，请换一个输出目录重新训练，并设 data.max_target_length={needed}（现为 5）。")
    assert not cut_warning(report("好" * 20), short, LengthLimits(64, needed), 512).english.count("max_source_length")  # type: ignore[union-attr]


def test_rows_longer_than_the_base_reads_are_to_be_shortened() -> None:
    warning = cut_warning(report("好" * 20), TruncationReport(), LIMITS, 16)
    assert warning is not None
    assert "more than the 16 tokens that the base reads at once: shorten or split the longest rows." in warning.english
    assert "超过底座一次能读的 16 个词元：请缩短或拆分最长的数据。" in warning.chinese


def test_answers_are_told_from_the_rows_of_the_file_that_hold_them() -> None:
    talks = TruncationReport(rows=300, file_rows=100)
    assert talks.count(TRAINING_ROWS).line == "300 answers of 100 rows to learn from / 100 行训练数据的 300 个回答"
    assert talks.summary().line == "none of 300 answers of 100 rows was cut. / 100 行数据的 300 个回答均未被截断。"
    cut = TruncationReport(rows=300, file_rows=100, cut=3, cut_answers=3).summary(TRAINING_ROWS)
    assert cut.english == "3 of 300 answers of 100 rows to learn from were cut (1.0 %): 3 lost the end of the answer."
    assert cut.chinese == "100 行训练数据的 300 个回答中有 3 个被截断（1.0 %）：3 个丢失回答的结尾。"
    assert TruncationReport.from_rows([], 0).file_rows is None
