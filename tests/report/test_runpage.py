import re
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.events import Rescued, Step
from imprint.report import runpage
from imprint.report.runpage import write_report
from tests.report.made import intruders, poisoned, run_report


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_report(run_report(), tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_numbers_that_matter_stand_on_top(page: str) -> None:
    assert "7.000 → <b>0.500</b>" in page
    assert "0 → <b>11</b> / 12" in page
    assert "<b>66.7%</b> <small>2 / 3</small>" in page
    assert "<b>0.0123</b>" in page
    assert "<b>8</b> <small>2 min 40 s</small>" in page
    assert "verdict: <code>fine</code>" in page


def test_loss_memory_and_rate_are_drawn(page: str) -> None:
    assert page.count('<figure class="chart">') == 3


def test_lost_answers_stand_open_and_the_others_are_folded(page: str) -> None:
    assert page.count("<details open>") == 1
    lost = page.partition("<details open>")[2].partition("</details>")[0]
    assert "1+1=?" in lost
    assert "天黑了" not in lost
    assert "✓ still right" in page
    assert "✓ the same" in page
    assert "– the base had it wrong" in page


def test_what_models_wrote_is_escaped(page: str) -> None:
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "identity &lt;b&gt;" in page


def test_no_text_of_a_file_can_put_anything_into_the_page(tmp_path: Path) -> None:
    write_report(poisoned(run_report()), tmp_path / "report.html")
    assert intruders((tmp_path / "report.html").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "numbers", [{"step": 10**400}, {"seconds": float("inf")}, {"memory_gib": 1e308}, {"loss": 1e308}, {"learning_rate": -1e308}]
)
def test_no_number_of_a_log_breaks_the_page(tmp_path: Path, numbers: dict[str, float]) -> None:
    report = run_report()
    event = replace(next(event for event in report.events if isinstance(event, Step)), **numbers)  # type: ignore[arg-type]
    write_report(replace(report, events=[*report.events, event]), tmp_path / "report.html")
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_your_rows_are_marked_by_the_new_texts_and_only_the_first_stand_open(page: str) -> None:
    assert page.count('<article class="row"') == 12
    assert page.count("✓ new<") == 11
    assert page.count("✗ not learned<") == 1
    assert "4 more" in page
    assert [int(number) for number in re.findall(r'<article class="row" id="row-(\d+)">', page)] == [
        12,
        *range(1, 12),
    ]  # the wrong one first


def test_what_was_not_measured_and_has_no_rows_is_said_or_left_out(tmp_path: Path) -> None:
    bare = replace(run_report(), forgetting=None, examples=(), events=[], fill_texts=(), verdict=())
    write_report(bare, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not measured. <code>imprint forgetting runs/identity</code> does." in page
    assert "article" not in page.partition("<body>")[2]
    assert "figure" not in page.partition("<body>")[2]


@pytest.mark.parametrize(("kind", "words"), [("learned", "these were trained on"), ("watched", "the first answer and the last")])
def test_rows_that_were_not_held_out_are_told(tmp_path: Path, kind: str, words: str) -> None:
    report = replace(run_report(), example_kind="learned" if kind == "learned" else "watched")
    write_report(report, tmp_path / "report.html")
    assert words in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_base_that_had_nothing_to_lose_has_lost_nothing(tmp_path: Path) -> None:
    found = run_report().forgetting
    assert found is not None
    write_report(replace(run_report(), forgetting=replace(found, rows=found.rows[3:])), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The base answers none of 1 questions correctly, so there was nothing to keep." in page
    assert 'svg class="share"' not in page


def test_the_report_begins_with_what_was_learned_and_what_it_cost(page: str) -> None:
    body = page.partition("<main>")[2]
    assert body.index('<div class="headline bad">') < body.index('<dl class="tiles">')
    assert "11 of 12 held-out questions are answered with the new texts (0 before)" in body
    assert "1 of 3 old answers is lost" in body
    assert "much was lost: mix general rows in" in body
    assert "遗忘较多" in body


def test_long_lists_of_lost_answers_fold(tmp_path: Path) -> None:
    found = run_report().forgetting
    assert found is not None
    lost = tuple(replace(found.rows[1], question=f"lost {number}") for number in range(35))
    write_report(replace(run_report(), forgetting=replace(found, rows=lost)), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    opened = page.partition("<details open>")[2].partition("</details>")[0]
    assert opened.count("lost ") == opened.count("<tr>") - 1 == 10
    assert "25 more lost" in page
    assert "其余 25 条丢失" in page


def test_best_step_and_rescues_are_marked_and_explained(tmp_path: Path) -> None:
    rescue = Rescued(step=6, back_to=4, rate_scale=0.5, reason="the loss rose", rows=(), best_step=4, best_loss=1.0)
    write_report(replace(run_report(), events=[*run_report().events, rescue]), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('<line class="ring best"') == 1
    assert page.count('<line class="rescue"') == 1
    assert "best: step 8, whose weights are kept" in page
    assert "rescue: after step 6 back to step 4, learning rate × 0.5" in page
    assert "救回：第 6 步之后退回第 4 步" in page


def test_every_mark_of_the_page_is_explained(page: str) -> None:
    for words in (
        "✓ new: the tuned answer has",
        "✗ lost: right before",
        "A dot is an evaluation",
        "圆点是一次评估",
        "✓ 不变：与之前一字不差",
    ):
        assert words in page


def test_the_report_says_how_it_was_made_and_what_is_next(page: str) -> None:
    for words in (
        "2026-11-29 14:56:57+00:00",
        "PyTorch 2.6.0",
        "NVIDIA H200, 139.8 GiB",
        "imprint chat runs/identity",
        "训练环境与后续命令",
    ):
        assert words in page


def test_scores_of_an_evaluation_stand_on_top(page: str) -> None:
    assert "10.25 → <b>31.50</b> <small>held-out</small>" in page


def test_in_long_examples_words_are_compared_only_as_long_as_it_takes_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpage, "MARKED_CHARACTERS", 150)
    row = run_report().examples[0]
    examples = tuple(replace(row, label="红色的上衣", base="白色", tuned="红色的上衣" * times) for times in (4, 4, 4, 40, 4))
    write_report(replace(run_report(), examples=examples, fill_texts=()), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    rows = page.split('<article class="row"')[1:]
    assert ["<mark>" in one.partition("</article>")[0] for one in rows] == [True, True, True, False, False]
    assert "words that the label has too; only in the first 3 examples." in page
