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
            ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
        ),
    )
)
"""Scripts that one name may have beside each other, as people write them; CJK and IDEOGRAPHIC are Chinese characters."""
COMMON: Final = frozenset(
    (
        *("ARABIC", "ARMENIAN", "BENGALI", "CJK", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN", "GREEK", "GUJARATI", "GURMUKHI"),
        *("HANGUL", "HEBREW", "HIRAGANA", "IDEOGRAPHIC", "KANNADA", "KATAKANA", "KATAKANA-HIRAGANA", "KHMER", "LAO", "LATIN"),
        *("MALAYALAM", "MYANMAR", "ORIYA", "SINHALA", "TAMIL", "TELUGU", "THAANA", "THAI", "TIBETAN"),
    )
)
"""Scripts in common use, those that Unicode recommends for names (UAX 31, table 5). Of others, such as Lisu and Cherokee, whole words look
like Latin ones, and few people can read them."""
ZERO: Final = "〇"
"""A Chinese character that Unicode calls a number."""
LONG: Final = "ー"
"""What makes a vowel of Kana long; anywhere else it would be taken for the Chinese character for one."""
PARTS: Final = ("BOPOMOFO", "HANGUL LETTER", "HANGUL CHOSEONG", "HANGUL JUNGSEONG", "HANGUL JONGSEONG")
"""Letters by themselves that write no name, and look like others: ㄧ like 一, ㅇ like o."""
LIKE_ASCII: Final = {"\u0251": "a", "\u0269": "i", "\u01c0": "l", "\u0292": "3"}
"""Latin letters that look like one of ASCII, and are not called a form of it: alpha, iota, the dental click, and ezh."""
OVERLAID: Final = 1
ATTACHED: Final = 200
"""Combining classes of Unicode: marks through a letter, and from this one on those around a letter, of any script."""
LARGE: Final = str.maketrans(
    "I" + "АВЕКМНОРСТУХІЈЅԌԚԜ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" + "ՍՏՕԼ",
    "l" + "ABEKMHOPCTYXlJSGQW" + "ABEZHlKMNOPTYX" + "USOL",
)
"""Capitals that look like another letter: I, and those of Cyrillic, Greek and Armenian."""
SMALL: Final = str.maketrans(
    "10" + "аеорсухіјѕһԁԛԝӏ" + "ονιραγσυ" + "օսոռհզգցյաք" + "ყჿ" + "סון" + "ଠഠဝዐ" + "〇丨丅乂㐅囗",
    "lo" + "aeopcyxijshdqwl" + "ovipayou" + "ounnhqqgjwf" + "yo" + "oll" + "oooo" + "oltxx口",
)
"""Digits and small letters that do, of Cyrillic, Greek, Armenian, Georgian, Hebrew, and of Oriya, Malayalam, Burmese and Ethiopic those
like o; and Chinese characters."""
KATAKANA: Final = str.maketrans(
    "ーニハロカタトエ" + "オヌヒノチミムメルケヶヵヽ" + "ヘリ" + "ㇳㇴㇵㇶㇸㇺㇼㇽㇿ",
    "一二八口力夕卜工" + "才又匕丿千三厶x儿个个力丶" + "へり" + "卜又八匕へ厶り儿口",
)
"""Katakana that look like Chinese characters, like Hiragana, and the small ones of Ainu."""
ARABIC: Final = str.maketrans(
    "\u064a\u0649" + "\u0643\u06aa" + "\u0647\u06c1\u06be\u06d5" + "\u0627" + "\u06c3",
    "\u06cc\u06cc" + "\u06a9\u06a9" + "oooo" + "l" + "\u0629",
)
"""Forms of yeh, kaf and heh that Arabic, Persian, Urdu and Uighur write with letters of their own; heh and alef look like o and l."""
PAIRS: Final = (("rn", "m"), ("vv", "w"))


def mixes_scripts(name: str) -> bool:
    """Whether a name has letters of uncommon scripts or of some that do not go together, digits but 0 to 9, or parts of letters."""
    characters = unicodedata.normalize("NFKC", name)
    scripts = {_script(one) for one in characters if one.isalpha() or one == ZERO}
    has_odd_digit = any(unicodedata.category(one) == "Nd" and not one.isascii() for one in characters)
    has_part = any(unicodedata.name(one, "").startswith(PARTS) for one in characters)
    has_odd_long = any(one == LONG and not _is_kana(before) for before, one in zip(" " + characters, characters, strict=False))
    is_mixed = len(scripts) > 1 and not any(scripts <= some for some in TOGETHER)
    return has_odd_digit or has_part or has_odd_long or is_mixed or not scripts <= COMMON


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
    skeleton = "".join(kept).translate(SMALL).translate(KATAKANA).translate(ARABIC)
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


def _is_kana(letter: str) -> bool:
    return _script(letter) in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")
