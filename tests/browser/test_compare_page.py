"""The before/after page in a real browser: what a person sees, and that nothing a model wrote can run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from imprint.metrics.means import summary
from imprint.metrics.rates import FailureRates, failure_rates
from imprint.metrics.scores import RowScore, score_rows
from imprint.report.comparison import ComparedRow, Comparison
from imprint.report.page import write_html
from tests.browser.pages import Window

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

HOSTILE = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"
TEXTS = (
    ("类型#上衣*颜色#白色*材质#牛仔布*风格#简约", "白色的牛仔外套很百搭。", "这件上衣的颜色是白色。", "白色的牛仔外套，很百搭。"),
    ("你是谁？", "我是一个会写文案的助手。", HOSTILE, "我是一个会写文案的小助手。"),
    ("类型#裤", "裤子很好看。", "裤子很好看。", "x" * 300),
)


def comparison() -> Comparison:
    labels = [label for _, label, _, _ in TEXTS]
    before, after = (score_rows([text[place] for text in TEXTS], labels) for place in (2, 3))
    rows = [ComparedRow(*texts, old.by_metric(), new.by_metric()) for texts, old, new in zip(TEXTS, before, after, strict=True)]
    best = summary([RowScore(100.0, 100.0, 100.0, 100.0, empty=False)] * 3)
    return Comparison(
        title="Before and after",
        base_name="demo base",
        tuned_name="runs/" + "a-long-name-" * 8,
        rows=tuple(rows),
        base_summary=summary(before),
        tuned_summary=best,
        base_rates=failure_rates([row.base for row in rows], unfinished=1),
        tuned_rates=failure_rates([row.tuned for row in rows], unfinished=0),
        settings={"data": "a/long/path/" * 12 + "dev.jsonl"},
        gains=best.means,
        baseline=summary(before),
    )


def questions() -> Comparison:
    """The same without references, and a tuned model that has come to grief."""
    found = comparison()
    rows = tuple(replace(row, label="") for row in found.rows)
    return replace(
        found, rows=rows, base_summary=None, tuned_summary=None, gains={}, baseline=None, tuned_rates=FailureRates(0.12, 0.4, 0.5)
    )


def opened(window: Window, shown: Comparison, folder: Path, width: int, scheme: Literal["light", "dark"]) -> "Iterator[Page]":
    """The page of a comparison."""
    write_html(shown, folder / "compare.html")
    with window.showing(folder / "compare.html", width, scheme) as page:
        yield page


VIEWS = [pytest.param((width, scheme), id=f"{width}-{scheme}") for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(params=VIEWS)
def page(window: Window, tmp_path: Path, request: pytest.FixtureRequest) -> "Iterator[Page]":
    yield from opened(window, comparison(), tmp_path, *request.param)


@pytest.fixture(params=VIEWS)
def asked(window: Window, tmp_path: Path, request: pytest.FixtureRequest) -> "Iterator[Page]":
    yield from opened(window, questions(), tmp_path, *request.param)


def test_both_answers_are_seen_with_what_they_share_marked(page: "Page") -> None:
    row = page.locator("#row-1")

    assert row.locator(".answer.base p").inner_text() == TEXTS[0][2]
    assert row.locator(".answer.tuned p").inner_text() == TEXTS[0][3]
    assert row.locator(".answer.tuned mark").all_inner_texts() == ["白色的牛仔外套", "很百搭"]
    assert row.locator(".chips > div").count() == 4
    assert "▲ ROUGE-L +" in row.locator(".head").inner_text()


def test_nothing_that_a_model_wrote_runs(page: "Page") -> None:
    assert page.locator("#row-2 .answer.base p").inner_text() == HOSTILE
    assert page.evaluate("window.broken") is None


def test_an_answer_that_repeats_a_full_stop_is_shown_as_fast_as_others(window: Window, tmp_path: Path) -> None:
    found = comparison()
    for page in opened(window, replace(found, rows=(replace(found.rows[0], tuned="。" * 8000),)), tmp_path, 1280, "light"):
        taken = "() => { const began = performance.now(); document.body.style.width = '600px'; document.body.offsetHeight; "
        assert page.evaluate(taken + "return performance.now() - began; }") < 1500


def test_the_page_never_scrolls_sideways(page: "Page") -> None:
    for language in ("en", "zh"):
        page.locator(f"#ui-{language}").check()
        assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth")


def test_answers_stand_side_by_side_where_there_is_room(page: "Page") -> None:
    base, tuned = (page.locator(f"#row-1 .answer.{who}").bounding_box() for who in ("base", "tuned"))
    assert base is not None
    assert tuned is not None
    wide = page.evaluate("window.innerWidth") > 720

    assert (tuned["y"] == base["y"]) == wide
    assert (tuned["x"] == base["x"]) != wide


def test_the_interface_speaks_both_languages(page: "Page") -> None:
    assert page.locator("#scores").inner_text() == "Scores"

    page.locator("#ui-zh").check()

    assert page.locator("#scores").inner_text() == "评分"
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"


def test_rows_are_filtered_sorted_and_found(page: "Page") -> None:
    def shown() -> list[str | None]:
        return [row.get_attribute("id") for row in page.locator("article").all() if row.is_visible()]

    page.locator("#order").select_option("loss")
    assert shown()[0] == "row-3"
    page.locator("#order").select_option("file")
    assert shown() == ["row-1", "row-2", "row-3"]
    page.locator("#filter").select_option("up")
    assert shown() == ["row-1", "row-2"]
    page.locator("#find").fill("小助手")
    assert shown() == ["row-2"]
    assert page.locator("#count").inner_text() == "1 / 3"
    page.locator("#find").fill("没有这个")
    assert page.locator("#none").is_visible()


def contrasts(page: "Page") -> list[list[Any]]:
    """The contrast of each text to what is behind it, and which text that is."""
    found: list[list[Any]] = page.evaluate(
        """() => {
          const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
              .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const colour = getComputedStyle(at).backgroundColor;
              if (!/, 0\\)$|transparent/.test(colour)) return colour;
            }
          };
          const texts = document.querySelectorAll("p, h1, h2, h3, h4, dt, dd, th, td, small, mark, .gain, .switch span, select");
          return [...texts].map((element) => {
            const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
            return [(pair[0] + 0.05) / (pair[1] + 0.05), element.outerHTML.slice(0, 80)];
          });
        }"""
    )
    return found


def test_text_stands_out_from_what_is_behind_it(page: "Page") -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of at least 4.5."""
    found = contrasts(page)

    assert len(found) > 50
    assert min(found)[0] >= 4.5, min(found)


def test_questions_without_references_are_shown_without_scores(asked: "Page") -> None:
    assert asked.locator("#scores").inner_text() == "At a glance"
    assert asked.locator(".figures, .label, .plot, #filter, #order").count() == 0
    assert asked.locator(".rates").all_inner_texts()[1].split("\t")[-3:] == ["0.0%", "40.0%", "+40.0"]
    assert asked.locator("#row-1 .answer.tuned p").inner_text() == TEXTS[0][3]


def test_warnings_stand_above_everything_and_can_be_read(asked: "Page") -> None:
    warnings = asked.locator(".warning")
    table = asked.locator("table.scores").bounding_box()
    last = warnings.nth(2).bounding_box()

    assert warnings.count() == 3
    assert warnings.nth(0).inner_text().startswith("Tuned: 12% of the answers are empty")
    assert table is not None
    assert last is not None
    assert last["y"] + last["height"] <= table["y"]
    assert min(contrasts(asked))[0] >= 4.5


def test_questions_never_scroll_sideways_and_are_found(asked: "Page") -> None:
    for language in ("zh", "en"):
        asked.locator(f"#ui-{language}").check()
        assert asked.evaluate("document.documentElement.scrollWidth") <= asked.evaluate("window.innerWidth")
    asked.locator("#find").fill("小助手")
    assert asked.locator("#count").inner_text() == "1 / 3"
    assert [row.get_attribute("id") for row in asked.locator("article").all() if row.is_visible()] == ["row-2"]


def test_paper_is_white_and_without_controls_also_where_the_screen_is_dark(page: "Page") -> None:
    page.emulate_media(media="print")

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.row')).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#tools").is_visible()
    assert not page.locator(".switch").is_visible()


def test_without_scripts_the_page_is_whole_and_switches_language(browser: "Browser", tmp_path: Path) -> None:
    write_html(replace(comparison(), title="标题"), tmp_path / "compare.html")
    page = browser.new_page(java_script_enabled=False)
    page.goto((tmp_path / "compare.html").as_uri())

    page.locator("#ui-zh").check()

    assert page.locator("article").count() == 3
    assert page.get_by_role("heading", name="评分").is_visible()
    assert not page.locator("#tools").is_visible()
    page.close()
