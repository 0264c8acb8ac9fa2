"""When a name could be taken for another one: which scripts it mixes, and what names that look alike have in common.

After Unicode Technical Standard 39 ("restriction levels", "confusable detection"), https://www.unicode.org/reports/tr39/; the pairs of
letters are those of its `confusables.txt` for the scripts that names here are written in.
"""

import unicodedata
from typing import Final

TOGETHER: Final = tuple(
    map(
        frozenset,
        (
            ("CJK", "IDEOGRAPHIC", "LATIN"),
            ("CJK", "IDEOGRAPHIC", "HIRAGANA"),
            ("KATAKANA", "KATAKANA-HIRAGANA"),
            ("HIRAGANA", "KATAKANA-HIRAGANA"),
        ),
    )
)
"""Scripts that one name may have beside each other, as none of their letters look alike; CJK and IDEOGRAPHIC are Chinese characters."""
PARTS: Final = ("BOPOMOFO", "HANGUL LETTER", "HANGUL CHOSEONG", "HANGUL JUNGSEONG", "HANGUL JONGSEONG")
"""Letters by themselves that write no name, and look like others: ㄧ like 一, ㅇ like o."""
LIKE_ASCII: Final = {"\u0251": "a", "\u0269": "i", "\u01c0": "l", "\u0292": "3"}
"""Latin letters that look like one of ASCII, and are not called a form of it: alpha, iota, the dental click, and ezh."""
OVERLAID: Final = 1
ATTACHED: Final = 200
"""Combining classes of Unicode: marks through a letter, and from this one on those around a letter, of any script."""
LARGE: Final = str.maketrans(
    "I" + "АВЕКМНОРСТУХІЈЅԌԚԜ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "l" + "ABEKMHOPCTYXlJSGQW" + "ABEZHlKMNOPTYX",
)
"""Capitals that look like another letter: I, and those of Cyrillic and Greek."""
SMALL: Final = str.maketrans(
    "10" + "аеорсухіјѕһԁԛԝӏ" + "ονιραγσ" + "ーニハロカタトエ",
    "lo" + "aeopcyxijshdqwl" + "ovipayo" + "一二八口力夕卜工",
)
"""Digits and small letters that do, and the Katakana that look like Chinese characters."""
PAIRS: Final = (("rn", "m"), ("vv", "w"))


def mixes_scripts(name: str) -> bool:
    """Whether a name has letters of scripts that do not belong together, digits other than 0 to 9, or parts of letters."""
    characters = unicodedata.normalize("NFKC", name)
    scripts = {_script(one) for one in characters if one.isalpha()}
    has_odd_digit = any(unicodedata.category(one) == "Nd" and not one.isascii() for one in characters)
    has_part = any(unicodedata.name(one, "").startswith(PARTS) for one in characters)
    return has_odd_digit or has_part or (len(scripts) > 1 and not any(scripts <= some for some in TOGETHER))


def looks(name: str) -> frozenset[str]:
    """The skeletons of a name, as it is written and in small letters: two names look alike if they have one in common.

    That of `admın`, `ádmin` and `ＡＤＭＩＮ` is `admin`; `aIice` has the one of `alice`, and 王ニ that of 王二. Marks that make another
    letter of a script, such as those of か and が, or a tone of Thai, are no accents.
    """
    written = unicodedata.normalize("NFKC", name)
    return frozenset(map(_skeleton, (written.casefold(), written.translate(LARGE).casefold())))


def _skeleton(name: str) -> str:
    kept: list[str] = []
    for one in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name)):
        is_mark = unicodedata.category(one).startswith("M")
        is_of_any_script = unicodedata.combining(one) == OVERLAID or unicodedata.combining(one) >= ATTACHED
        if not is_mark:
            kept.append(_plain_letter(one))
        elif not (is_of_any_script or (kept and kept[-1].isascii())):
            kept.append(one)
    skeleton = "".join(kept).translate(SMALL)
    for pair, letter in PAIRS:
        skeleton = skeleton.replace(pair, letter)
    return skeleton


def _plain_letter(letter: str) -> str:
    """The ASCII letter of which Unicode calls a Latin letter a form, such as `i` of "LATIN SMALL LETTER DOTLESS I"; any other as it is."""
    if letter.isascii():
        return letter
    _, _, rest = unicodedata.name(letter, "").partition(" ")
    form = LIKE_ASCII.get(letter) or rest.partition(" WITH ")[0].rpartition(" ")[2].lower()
    return form if _script(letter) == "LATIN" and len(form) == 1 else letter


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
