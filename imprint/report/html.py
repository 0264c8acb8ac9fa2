"""The frame of every report page: one self-contained HTML file in two languages, and helpers for its content.

Text by models, users and files is escaped where it is written, by the `escape` of this module alone, which also replaces what could
reorder a line. What a function takes or gives as HTML, its docstring calls so; everything else is text. The content security policy
allows only the page's style and script, by their hashes, so that nothing else can run even if escaping were forgotten somewhere.
"""

import base64
import hashlib
import html
import re
from importlib import resources
from pathlib import Path

from imprint.files.atomic import write_text
from imprint.messages import Bilingual
from imprint.terminal import harmless


def write_page(path: Path, title: str, header: str, main: str) -> None:
    """Write a page to `path` atomically; `header` and `main` are HTML. It opens from disk in any browser since 2023."""
    style, script = _resource("page.css"), _resource("page.js")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    write_text(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{header}
<main>
{main}
</main>
<script>{script}</script>
</body>
</html>
""",
    )


def page_header(title: str, overline: str, base_name: str, tuned_name: str) -> str:
    """The header of a page: seal, title, both models and the language switch; `overline` is HTML."""
    return f"""<header class="top">
<div class="seal" aria-hidden="true">印</div>
<div class="names">
<p class="overline">Imprint · {overline}</p>
<h1{lang_attribute(title)}>{escape(title)}</h1>
<p class="models"><span class="who base">{escape(base_name)}</span> <span aria-hidden="true">→</span>
<span class="who tuned">{escape(tuned_name)}</span></p>
</div>
<fieldset class="switch"><legend class="hidden">Language / 语言</legend>
<label lang="en"><input type="radio" name="ui" id="ui-en" checked><span>English</span></label>
<label lang="zh-Hans"><input type="radio" name="ui" id="ui-zh"><span>中文</span></label>
</fieldset>
</header>"""


def section(name: str, heading: str, content: str) -> str:
    """A part of a page under a heading; `heading` and `content` are HTML, `name` is the id."""
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{content}\n</section>'


def escape(text: object) -> str:
    """A text, or a number, as HTML, without control characters."""
    return html.escape(harmless(str(text)))


def ui_text(text: Bilingual) -> str:
    """A text of the page in both languages, each HTML; the style shows one of them."""
    return f'<span lang="en" class="ui">{text.english}</span><span lang="zh-Hans" class="ui">{text.chinese}</span>'


def ui_message(message: Bilingual) -> str:
    """A plain-text message as `ui_text`: text in backticks becomes code, `->` becomes one character that no line break splits."""
    return ui_text(Bilingual(_message_html(message.english), _message_html(message.chinese)))


def _message_html(message: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(message.replace(" -> ", " → ")))


def lang_attribute(text: str) -> str:
    """The `lang` attribute of a text, for screen readers and font choice."""
    return ' lang="zh-Hans"' if any("\u4e00" <= letter <= "\u9fff" for letter in text) else ' lang="en"'


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
