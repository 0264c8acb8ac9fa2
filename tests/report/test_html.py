import re
from pathlib import Path

import imprint
from imprint.messages import Bilingual
from imprint.report.html import escape, lang_attribute, page_header, ui_message, ui_text, write_page


def test_a_page_runs_nothing_but_its_own_script(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "a <b>", "<header></header>", "<p>main</p>")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>a &lt;b&gt;</title>" in page
    assert "default-src 'none'" in page
    assert "unsafe" not in page
    assert page.count("<script>") == 1
    assert "<main>\n<p>main</p>\n</main>" in page


def test_text_becomes_html_in_one_place() -> None:
    package = Path(imprint.__file__).parent
    door = re.compile(r"from html import|^import html$|html\.escape", re.MULTILINE)
    others = [file.name for file in package.rglob("*.py") if door.search(file.read_text(encoding="utf-8"))]
    assert others == ["html.py"]
    assert escape("<a>\x1b\u202e&'\"") == "&lt;a&gt;\ufffd\ufffd&amp;&#x27;&quot;"
    assert escape(5) == "5"


def test_titles_and_names_are_escaped() -> None:
    header = page_header("<i>", "overline", "<base>", "tuned & more")
    assert "&lt;i&gt;" in header
    assert "&lt;base&gt;" in header
    assert "tuned &amp; more" in header


def test_each_text_of_ours_is_there_in_both_languages_and_code_is_marked() -> None:
    assert ui_text(Bilingual("a", "b")) == '<span lang="en" class="ui">a</span><span lang="zh-Hans" class="ui">b</span>'
    assert ui_message(Bilingual("run `imprint <x>`", "a -> b")) == ui_text(Bilingual("run <code>imprint &lt;x&gt;</code>", "a → b"))
    assert (lang_attribute("你好"), lang_attribute("hello")) == (' lang="zh-Hans"', ' lang="en"')
