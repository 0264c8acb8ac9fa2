"""Whatever a model wrote, the Markdown report keeps its tables."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from imprint.report.comparison import ComparedRow, Comparison
from imprint.report.markdown import write_markdown


def rendered(comparison: Comparison, folder: Path) -> str:
    write_markdown(comparison, folder / "compare.md")
    return str(MarkdownIt("commonmark").enable("table").render((folder / "compare.md").read_text(encoding="utf-8")))


def widths(html: str) -> list[list[int]]:
    """The number of cells in each line of each table."""
    tables = re.findall(r"<table>.*?</table>", html, re.DOTALL)
    return [[len(re.findall(r"<t[hd]", line)) for line in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)] for table in tables]


def test_pipes_and_newlines_and_marks_in_answers_do_not_break_a_table(comparison: Comparison, tmp_path: Path) -> None:
    html = rendered(comparison, tmp_path)

    assert widths(html) == [[4] * 8, [6] * 5, [6] * 5, [6] * 5, [2] * 4]
    assert "<td>&lt;script&gt;window.broken = true&lt;/script&gt;| `a` *b*</td>" in html
    assert "第一行<br>| 第二行" in html
    assert "类型#上衣*颜色#白色*材质#牛仔布" in html


def test_the_table_of_scores_has_means_intervals_and_differences(comparison: Comparison, tmp_path: Path) -> None:
    write_markdown(comparison, tmp_path / "compare.md")
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")

    assert comparison.base_summary is not None
    assert comparison.tuned_summary is not None
    base, tuned, gain = comparison.base_summary.means["bleu-4"], comparison.tuned_summary.means["bleu-4"], comparison.gains["bleu-4"]
    (line,) = [line for line in text.splitlines() if line.startswith("| bleu-4 |")]
    assert f"| {base.value:.2f} ({base.low:.2f} to {base.high:.2f}) | {tuned.value:.2f} (" in line
    assert f"{abs(gain.value):.2f}**" in line
    assert "| empty answers | 0.0% | 33.3% | |" in text
    assert "| never-ending answers | 0.0% | not known | |" in text
    assert "chatglm-6b: BLEU-4 over characters, ROUGE over jieba words" in text


def test_without_paired_gains_the_difference_stands_alone(comparison: Comparison, tmp_path: Path) -> None:
    write_markdown(replace(comparison, gains={}), tmp_path / "compare.md")

    (line,) = [line for line in (tmp_path / "compare.md").read_text(encoding="utf-8").splitlines() if line.startswith("| bleu-4 |")]
    assert line.endswith("** |")


@pytest.mark.parametrize(
    "text", ["# no heading", "- no list\n- at all", "1. one\n\n2. two", "    code", "\\", "a\r\nb\u2028c", "[x](y)", "|", "~~x~~"]
)
def test_a_strange_answer_is_shown_as_it_is(comparison: Comparison, tmp_path: Path, text: str) -> None:
    row = comparison.rows[0]
    strange = ComparedRow(text, text, text, text, row.base_scores, row.tuned_scores)

    html = rendered(replace(comparison, rows=(strange,)), tmp_path)

    assert widths(html)[1:] == [[6] * 5]
    shown = "<br>".join(line.strip() for line in text.strip().splitlines())
    assert html.count(f"<td>{shown}</td>") == 4


def test_an_empty_answer_says_so(comparison: Comparison, tmp_path: Path) -> None:
    assert rendered(comparison, tmp_path).count("<em>(empty)</em>") == 1


def test_questions_without_references_have_no_columns_of_scores(questions: Comparison, tmp_path: Path) -> None:
    html = rendered(questions, tmp_path)
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")

    assert widths(html) == [[4] * 4, [2] * 4, [2] * 4, [2] * 4, [2] * 4]
    assert not any(word in text for word in ("rouge", "bleu", "chatglm-6b", "bootstrap", "label"))
    assert "| repeating answers | 0.0% | 50.0% | |" in text


def test_many_bad_answers_of_the_tuned_model_are_warned_of_above_the_table(questions: Comparison, tmp_path: Path) -> None:
    html = rendered(questions, tmp_path)

    assert html.count("<blockquote>") == 3
    assert html.index("75% of the answers never stop") < html.index("<table>")
    assert "警告。" in html
    assert "imprint data check FILE" in html


def test_a_classification_has_its_baseline_and_its_picture_beside(classified: Comparison, tmp_path: Path) -> None:
    write_markdown(classified, tmp_path / "compare.md")
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    head, rule, *lines = text[text.index("| labels |") :].partition("\n\n")[0].splitlines()
    assert head.endswith("| TF-IDF + logistic regression |")
    assert {line.replace("\\|", "").count("|") for line in (head, rule, *lines)} == {6}
    assert "(compare-confusion.png)" in text
    assert "TF-IDF" not in text[text.index("## 1") :]
    assert "accuracy" in text[text.index("## 1") :]
