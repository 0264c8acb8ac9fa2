"""The page is one file that runs nothing but its own script, whatever a model wrote."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from imprint.report.comparison import Comparison
from imprint.report.markdown import write_markdown
from imprint.report.page import write_html
from imprint.terminal import CONTROLS
from tests.report.made import intruders, poisoned

VOID = {"meta", "link", "input", "br", "img"}


class Outline(HTMLParser):
    """Collects the elements of a page and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(comparison: Comparison, tmp_path: Path) -> str:
    write_html(comparison, tmp_path / "compare.html")
    return (tmp_path / "compare.html").read_text(encoding="utf-8")


@pytest.fixture
def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    return parsed


def test_every_element_is_closed_and_what_models_wrote_adds_none(outline: Outline) -> None:
    tags = [tag for tag, _ in outline.found]

    assert outline.open == []
    assert tags.count("script") == 1
    assert tags.count("img") == 0
    assert tags.count("article") == 4


def test_no_text_can_put_anything_into_a_page_or_its_markdown(comparison: Comparison, classified: Comparison, tmp_path: Path) -> None:
    for compared in (comparison, replace(classified, picture=None)):
        poison = poisoned(compared)
        write_html(poison, tmp_path / "compare.html")
        assert intruders((tmp_path / "compare.html").read_text(encoding="utf-8")) == []
        write_markdown(poison, tmp_path / "compare.md")
        markdown = (tmp_path / "compare.md").read_text(encoding="utf-8")
        assert "<script" not in markdown
        assert "<img" not in markdown
        assert not CONTROLS.search(markdown)


def test_what_models_and_people_wrote_is_escaped(page: str) -> None:
    assert "&lt;script&gt;window.broken = true&lt;/script&gt;" in page
    assert "Before &amp; after &lt;b&gt;tuning&lt;/b&gt;" in page
    assert "greedy &lt;n&gt;" in page
    assert "<n>" not in page


def test_the_policy_allows_the_one_style_and_the_one_script(page: str, outline: Outline) -> None:
    (policy,) = [attributes["content"] for tag, attributes in outline.found if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    for name in ("script", "style"):
        (text,) = re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_nothing_is_fetched_and_no_element_carries_a_style_or_a_handler(page: str, outline: Outline) -> None:
    assert "http://" not in page
    assert "https://" not in page
    for _, attributes in outline.found:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert attributes.get("src") is None
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))


def test_every_text_of_ours_is_there_in_both_languages(outline: Outline) -> None:
    ours = [attributes["lang"] for _, attributes in outline.found if attributes.get("class") == "ui"]

    assert ours.count("en") == ours.count("zh-Hans") > 20


def test_an_attribute_list_is_chips_and_another_prompt_is_text(page: str, outline: Outline) -> None:
    assert "<dt>颜色</dt><dd>白色</dd>" in page
    assert "第一行\n| 第二行</p>" in page
    assert sum("chips" in (attributes.get("class") or "") for _, attributes in outline.found) == 2


def test_shared_words_are_marked_and_an_empty_answer_says_so(page: str) -> None:
    assert "<mark>白色的牛仔外套</mark>" in page
    assert page.count("(empty)") == 1


def test_a_row_without_a_label_has_no_scores(comparison: Comparison, tmp_path: Path) -> None:
    write_html(replace(comparison, rows=comparison.rows[3:]), tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")

    assert 'class="figures"' not in page
    assert 'class="label"' not in page
    assert 'id="tools"' not in page


def test_what_the_protocol_counts_is_told_in_both_languages(page: str) -> None:
    assert "chatglm-6b: BLEU-4 over characters, ROUGE over jieba words" in page
    assert "chatglm-6b：BLEU-4 按字" in page


def test_the_facts_have_names_in_both_languages(page: str) -> None:
    for english, chinese in (("data", "数据"), ("decoding", "解码方式")):
        assert f'<dt><span lang="en" class="ui">{english}</span><span lang="zh-Hans" class="ui">{chinese}</span></dt>' in page


def test_the_sentence_counts_who_is_nearer(page: str) -> None:
    counts = re.findall(r'<b class="gain (\w+)">(\d+)</b>', page)

    assert counts == [("up", "2"), ("even", "0"), ("down", "1")] * 2  # in English and in Chinese


def test_questions_without_references_have_rates_and_no_scores(questions: Comparison, tmp_path: Path) -> None:
    write_html(questions, tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    parsed = Outline()
    parsed.feed(page)
    parsed.close()

    assert parsed.open == []
    assert not any(
        word in page for word in ("ROUGE", "BLEU", "chatglm-6b", 'class="figures"', 'class="label"', 'id="filter"', 'class="plot"')
    )
    assert "At a glance" in page
    assert 'id="find"' in page
    assert page.count("<article") == 4
    assert re.search(r"repeating answers</span>.*?<td>0\.0%</td><td>50\.0%</td><td>\+50\.0</td>", page)


def test_many_bad_answers_of_the_tuned_model_are_warned_of_in_both_languages(
    comparison: Comparison, questions: Comparison, tmp_path: Path
) -> None:
    write_html(questions, tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")

    assert page.count('<p class="warning">') == 3
    assert page.index("75% of the answers never stop") < page.index("<table")
    assert "75% 的回答停不下来" in page
    write_html(replace(comparison, tuned_rates=comparison.base_rates), tmp_path / "compare.html")
    assert 'class="warning"' not in (tmp_path / "compare.html").read_text(encoding="utf-8")


def test_a_classification_has_its_baseline_and_its_picture_inside(classified: Comparison, tmp_path: Path) -> None:
    write_html(classified, tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    (source,) = [attributes["src"] or "" for tag, attributes in outline.found if tag == "img"]
    assert classified.picture is not None
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == classified.picture.read_bytes()
    assert page.count('<th scope="col">TF-IDF + logistic regression</th>') == 1
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    assert len({len(re.findall(r"<t[hd]", row)) for row in rows}) == 1  # every line of the table has as many cells
    assert "0 to 100, higher is nearer to the label, but for perplexity." in page
    assert "By ACCURACY the tuned answer is nearer" in page
    assert "accuracy: right" in page
