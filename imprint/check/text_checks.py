"""Checks of one text: special tokens, lost characters, mojibake, language, repetition; and its repair."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from imprint.data.special_tokens import SPECIAL_TOKEN, without_edge_tokens

TYPED_SPECIAL_TOKEN: Final = re.compile(SPECIAL_TOKEN + r"|\[Round \d+\]\s*问：")
"""Special tokens of any model, and the delimiters of ChatGLM-6B's turns."""
LOST_CHARACTER: Final = re.compile("\ufffd|(?:锟斤拷){2}|â€[™œ“”]")
"""Remains of characters that a wrong conversion destroyed."""
STRAY_CHARACTER: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff\u200b\ud800-\udfff]")
"""Control characters except newline and tab, byte-order marks, zero-width spaces, lone surrogates."""
MID_SENTENCE: Final = re.compile(r"[，、,;；:：（(《“‘【]\s*$")
"""End of a text that stops in mid-sentence."""
NGRAM_LENGTH: Final = 4
"""Characters of an n-gram that is counted as repeated."""
MAX_COMPARED: Final = 2**20
"""Characters of a text that is checked for repetition."""
MIN_NGRAMS: Final = 24
"""Minimum n-grams of a text that is checked for repetition."""

HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+")
KANA: Final = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d]+")
HANGUL: Final = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]+")
LATIN_WORD: Final = re.compile("[A-Za-z\u00c0-\u024f]+")
CYRILLIC_WORD: Final = re.compile("[\u0400-\u04ff]+")
MAIN_SHARE: Final = 0.7
"""Minimum share of characters and words in the language of a text."""


def language(text: str) -> str:
    """The language of a text by its letters: zh, en, ja, ko, ru, mixed or other; a Chinese character counts as much as a Latin word."""
    if text.isascii():
        return "en" if LATIN_WORD.search(text) else "other"
    counts: dict[str, int] = {}
    for name, script in (("zh", HAN), ("ja", KANA), ("ko", HANGUL)):
        rest = script.sub("", text)
        counts[name], text = len(text) - len(rest), rest
    counts |= {"en": len(LATIN_WORD.findall(text)), "ru": len(CYRILLIC_WORD.findall(text))}
    if counts["ja"] * 10 > counts["zh"]:
        counts["ja"] += counts.pop("zh")  # kanji are Han characters
    total = sum(counts.values())
    if not total:
        return "other"
    name, most = max(counts.items(), key=lambda item: item[1])
    return name if most >= MAIN_SHARE * total else "mixed"


def repeats_itself(text: str) -> bool:
    """Whether more than half of a text's 4-grams of characters are repetitions, whitespace ignored; of a long text, those of its start."""
    plain = "".join(text[:MAX_COMPARED].split())
    count = len(plain) - NGRAM_LENGTH + 1
    if count < MIN_NGRAMS:
        return False
    return 2 * len({plain[index : index + NGRAM_LENGTH] for index in range(count)}) < count


def ends_mid_sentence(text: str) -> bool:
    """Whether a text ends with a comma, a semicolon, a colon or an opening bracket."""
    return MID_SENTENCE.search(text) is not None


def undo_mojibake(text: str) -> str | None:
    """Decode UTF-8 that was read as Latin-1 (ä½å¥½) or as GB18030 (浣犲ソ); None for every other text.

    Other texts hardly ever decode to valid characters of the expected scripts.
    """
    if text.isascii():
        return None
    for encoding in ("gb18030", "cp1252", "latin-1"):
        try:
            decoded = text.encode(encoding).decode()
        except UnicodeError:
            continue
        letters = [character for character in decoded if not character.isascii()]
        if encoding != "gb18030" or (len(letters) > 1 and all(_expected(character) for character in letters)):
            return decoded
    return None


def clean_text(text: str) -> tuple[str, list[str]]:
    """The clean text, and the names of the applied `CLEANERS`; a clean text is unchanged."""
    applied: dict[str, None] = {}
    before = None
    while before != text:  # one removal may uncover another problem: a byte-order mark hides mojibake
        before = text
        for name, clean in CLEANERS.items():
            if (cleaned := clean(text)) != text:
                text = cleaned
                applied[name] = None
    return text, list(applied)


def _without_stray(text: str) -> str:
    """Normalize line ends, join surrogate pairs, and remove other stray characters."""
    if not STRAY_CHARACTER.search(text):
        return text
    joined = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return STRAY_CHARACTER.sub("", joined)


def _expected(character: str) -> bool:
    """Whether a character is expected in Chinese text: Han, kana, and their punctuation."""
    return bool(HAN.match(character) or KANA.match(character)) or character in "，。！？、：；“”‘’（）《》【】…—·～「」『』　"


CLEANERS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "garbled": lambda text: undo_mojibake(text) or text,
        "stray": _without_stray,
        "tokens": without_edge_tokens,
        "blanks": str.strip,
    }
)
"""Name of a repair -> its function, in the order in which they are applied."""
