from pathlib import Path

from imprint.report.html import both, language, masthead, shown, write_page


def test_a_page_runs_nothing_but_its_own_script(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "a <b>", "<header></header>", "<p>main</p>")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>a &lt;b&gt;</title>" in page
    assert "default-src 'none'" in page
    assert "unsafe" not in page
    assert page.count("<script>") == 1
    assert "<main>\n<p>main</p>\n</main>" in page


def test_titles_and_names_are_escaped() -> None:
    top = masthead("<i>", "kicker", "<base>", "tuned & more")
    assert "&lt;i&gt;" in top
    assert "&lt;base&gt;" in top
    assert "tuned &amp; more" in top


def test_each_text_of_ours_is_there_in_both_languages_and_code_is_marked() -> None:
    assert both("a", "b") == '<span lang="en" class="ui">a</span><span lang="zh-Hans" class="ui">b</span>'
    assert shown("run `imprint <x>`") == "run <code>imprint &lt;x&gt;</code>"
    assert (language("你好"), language("hello")) == (' lang="zh-Hans"', ' lang="en"')
