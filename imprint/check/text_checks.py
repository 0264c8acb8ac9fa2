"""What one text shows of the way it has come: control tokens, lost and garbled characters, its language, its repetitions."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

SPECIAL_TOKEN: Final = (
    r"\[(?:[gs]?MASK|CLS|SEP|PAD|UNK|/?INST)\]"
    r"|</?s>|<(?:sop|eop|eod|bos|eos|pad|unk|ENC|dBLOCK)>|<</?SYS>>"
    r"|<\|(?:user|assistant|system|observation|endoftext|im_start|im_end|begin_of_text|end_of_text|eot_id)\|>"
)
TYPED_SPECIAL_TOKEN: Final = re.compile(SPECIAL_TOKEN + r"|\[Round \d+\]\s*问：")
"""What steers a model, ours or another: in a text it was typed, so it stays text, and the data has been through another tool."""
AROUND_TEXT: Final = re.compile(rf"(?:\s*(?:{SPECIAL_TOKEN}))*(.*?)(?:(?:{SPECIAL_TOKEN})\s*)*", re.DOTALL)
LOST_CHARACTER: Final = re.compile("\ufffd|(?:锟斤拷){2}|â€[™œ“”]")
"""What is left of characters that a wrong conversion has destroyed."""
STRAY_CHARACTER: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff\u200b\ud800-\udfff]")
"""Control characters (carriage return among them), byte-order marks, zero-width spaces, halves of characters; newline and tab are text."""
OPEN_END: Final = re.compile(r"[，、,;；:：（(《“‘【]\s*$")
"""How a text ends that goes on somewhere else."""
RUN_LENGTH: Final = 4
"""Characters of a run that counts as said again."""
MIN_RUNS: Final = 24
"""Runs a text must have before its repetitions mean anything."""

HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+")
KANA: Final = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d]+")
HANGUL: Final = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]+")
LATIN_WORD: Final = re.compile("[A-Za-z\u00c0-\u024f]+")
CYRILLIC_WORD: Final = re.compile("[\u0400-\u04ff]+")
LANGUAGES: Final = ("zh", "en", "ja", "ko", "ru", "mixed", "other")
MAIN_SHARE: Final = 0.7
"""The share of a text's characters and words from which on it is in one language."""


def language(text: str) -> str:
    """The language that a text's letters tell, one of `LANGUAGES`: a Chinese character counts as much as a Latin word."""
    if text.isascii():
        return "en" if LATIN_WORD.search(text) else "other"
    counts: dict[str, int] = {}
    for name, script in (("zh", HAN), ("ja", KANA), ("ko", HANGUL)):
        rest = script.sub("", text)
        counts[name], text = len(text) - len(rest), rest
    counts |= {"en": len(LATIN_WORD.findall(text)), "ru": len(CYRILLIC_WORD.findall(text))}
    if counts["ja"] * 10 > counts["zh"]:
        counts["ja"] += counts.pop("zh")  # Japanese writes kanji too
    whole = sum(counts.values())
    if not whole:
        return "other"
    name, most = max(counts.items(), key=lambda item: item[1])
    return name if most >= MAIN_SHARE * whole else "mixed"


def repeats_itself(text: str) -> bool:
    """Whether more than half of a text has been said before in it, counted in runs of four characters, whitespace aside."""
    plain = "".join(text.split())
    runs = len(plain) - RUN_LENGTH + 1
    if runs < MIN_RUNS:
        return False
    return 2 * len({plain[index : index + RUN_LENGTH] for index in range(runs)}) < runs


def ends_mid_sentence(text: str) -> bool:
    """Whether a text ends where no sentence does: on a comma, a semicolon, a colon, an opening bracket."""
    return OPEN_END.search(text) is not None


def undo_mojibake(text: str) -> str | None:
    """The text that was meant, where UTF-8 was read as Latin-1 (ä½å¥½) or as GB18030 (浣犲ソ); None for every other text.

    Garbled text gives whole characters back, all of them in scripts we know: of other texts that is next to impossible.
    """
    if text.isascii():
        return None
    for encoding in ("gb18030", "cp1252", "latin-1"):
        try:
            meant = text.encode(encoding).decode()
        except UnicodeError:
            continue
        letters = [character for character in meant if not character.isascii()]
        if encoding != "gb18030" or (len(letters) > 1 and all(_expected(character) for character in letters)):
            return meant
    return None


def clean_text(text: str) -> tuple[str, list[str]]:
    """The text as it was meant, and the names of what had to be mended, of `CLEANERS`; a tidy text is itself."""
    done: dict[str, None] = {}
    before = None
    while before != text:  # behind what was taken out there may be more: a byte order mark hides that a text is garbled
        before = text
        for name, mend in CLEANERS.items():
            if (mended := mend(text)) != text:
                text = mended
                done[name] = None
    return text, list(done)


def _without_stray(text: str) -> str:
    """Windows' line ends become newlines, the halves of a character are joined, other stray characters go."""
    if not STRAY_CHARACTER.search(text):
        return text
    whole = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return STRAY_CHARACTER.sub("", whole)


def _without_edge_tokens(text: str) -> str:
    """The text without control tokens in front of it and behind it: a template has left them there."""
    if not (text.lstrip()[:1] in ("[", "<") or "]" in text[-16:] or ">" in text[-16:]):
        return text
    found = AROUND_TEXT.fullmatch(text)
    assert found is not None, "every text matches"
    return found[1]


def _expected(character: str) -> bool:
    """Whether a Chinese text may well hold it: Chinese, kana, and their punctuation."""
    return bool(HAN.match(character) or KANA.match(character)) or character in "，。！？、：；“”‘’（）《》【】…—·～「」『』　"


CLEANERS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "garbled": lambda text: undo_mojibake(text) or text,
        "stray": _without_stray,
        "tokens": _without_edge_tokens,
        "blanks": str.strip,
    }
)
"""What can be mended in a text -> how, in the order in which it must be done."""
