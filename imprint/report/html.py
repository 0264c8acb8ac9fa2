"""The frame of every page: one HTML file that needs nothing else, in two languages, and the pieces of which its content is made.

Everything that a model or a person wrote is escaped. The content security policy names the hashes of the page's one
style and one script, so nothing else in it can run even if that were forgotten once.
"""

import base64
import hashlib
import re
from html import escape
from importlib import resources
from pathlib import Path

from imprint.files import write_text


def write_page(path: Path, title: str, top: str, main: str) -> None:
    """Write a page to `path` (UTF-8), aside and renamed; `top` and `main` are HTML. It opens from the disk in any browser of 2023 on."""
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
{top}
<main>
{main}
</main>
<script>{script}</script>
</body>
</html>
""",
    )


def masthead(title: str, kicker: str, base_name: str, tuned_name: str) -> str:
    """The top of a page: the seal, the title, both models and the switch of languages; `kicker` is HTML."""
    return f"""<header class="top">
<div class="seal" aria-hidden="true">印</div>
<div class="names">
<p class="kicker">Imprint · {kicker}</p>
<h1{language(title)}>{escape(title)}</h1>
<p class="models"><span class="who base">{escape(base_name)}</span> <span aria-hidden="true">→</span>
<span class="who tuned">{escape(tuned_name)}</span></p>
</div>
<fieldset class="switch"><legend class="hidden">Language / 语言</legend>
<label lang="en"><input type="radio" name="ui" id="ui-en" checked><span>English</span></label>
<label lang="zh-Hans"><input type="radio" name="ui" id="ui-zh"><span>中文</span></label>
</fieldset>
</header>"""


def both(english: str, chinese: str) -> str:
    """Both languages of one text of ours (HTML); the style shows one of them."""
    return f'<span lang="en" class="ui">{english}</span><span lang="zh-Hans" class="ui">{chinese}</span>'


def shown(sentence: str) -> str:
    """A sentence of ours as HTML, with what stands between backticks as code, and arrows that no line break takes apart."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(sentence.replace(" -> ", " → ")))


def language(text: str) -> str:
    """The attribute that lets a screen reader and the font choice know Chinese text."""
    return ' lang="zh-Hans"' if any("\u4e00" <= letter <= "\u9fff" for letter in text) else ' lang="en"'


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
