from dataclasses import replace
from pathlib import Path

import pytest

from imprint.forgetting.score import Asked, Forgetting
from imprint.report.runpage import Example, RunReport, write_report

HOSTILE = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"


def run_report() -> RunReport:
    """A small report with everything in it that could break a page."""
    rows = (
        Asked.of("天黑了", ("晚上好",), "晚上好！", "晚上好呀"),
        Asked.of("1+1=?", ("1+1=2",), "1+1=2。", HOSTILE),
        Asked.of("你好", (), "你好", "你好"),
        Asked.of("9×9", ("81",), "80", "80"),
    )
    examples = tuple(Example(f"你是谁{number}？", "我是小墨。", "我是小印。", "我是小墨！" if number else HOSTILE) for number in range(12))
    return RunReport(
        title="identity <b>",
        base_name="embedded",
        method="lora",
        verdict=(("verdict: `fine`", "结论：好"),),
        points=[
            {"step": 0, "eval_loss": 7.0},
            *({"step": step, "loss": 3 / step, "learning_rate": 1e-3, "memory_gib": 0.5, "seconds": 20.0 * step} for step in range(1, 9)),
            {"step": 8, "eval_loss": 0.5},
        ],
        examples=examples,
        examples_are="held-out",
        texts=("小墨",),
        forgetting=Forgetting(rows, 0.0123, 900, "a/long/path/" * 12 + "probes.jsonl", "neutral.txt", 2.0),
        recipe="output: runs/identity\n",
    )


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


def test_your_rows_are_marked_by_the_new_texts_and_only_the_first_stand_open(page: str) -> None:
    assert page.count('<article class="row"') == 12
    assert page.count("✓ new") == 11
    assert page.count("✗ not yet") == 1
    assert "4 more" in page


def test_what_was_not_measured_and_has_no_rows_is_said_or_left_out(tmp_path: Path) -> None:
    bare = replace(run_report(), forgetting=None, examples=(), points=[], texts=(), verdict=())
    write_report(bare, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not measured. imprint forgetting RUN does." in page
    assert "article" not in page.partition("<body>")[2]
    assert "figure" not in page.partition("<body>")[2]


@pytest.mark.parametrize(("kind", "words"), [("learned", "these were learned from"), ("watched", "the first answer and the last")])
def test_rows_that_were_not_held_out_are_told(tmp_path: Path, kind: str, words: str) -> None:
    report = replace(run_report(), examples_are="learned" if kind == "learned" else "watched")
    write_report(report, tmp_path / "report.html")
    assert words in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_base_that_had_nothing_to_lose_has_lost_nothing(tmp_path: Path) -> None:
    found = run_report().forgetting
    assert found is not None
    write_report(replace(run_report(), forgetting=replace(found, rows=found.rows[3:])), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The base answers none of 1 questions rightly, so there was nothing to keep." in page
    assert 'svg class="share"' not in page
