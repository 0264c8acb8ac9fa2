"""Names of accounts, passwords, and other short texts that people give: what is allowed, and when two names are the same."""

import secrets
import unicodedata
from typing import Final

from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError, invalid
from imprint.serve.store.look_alikes import ZERO, mixes_scripts

MAX_NAME: Final = 48
MIN_PASSWORD: Final = 10
MAX_PASSWORD: Final = 256
"""Characters of a password as it is hashed (NFKC)."""
MAX_TYPED: Final = 4
"""Characters that a keyboard may send for one of a name or a password: a letter and its marks."""
PUNCTUATION: Final = "._-@+"
INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
"""Letters and marks that are not seen (Default_Ignorable_Code_Point of Unicode): with one of them a name would look like another's."""
ONE_TIME_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that are not taken for each other when they are read out."""
ONE_TIME_GROUPS: Final = 4
ONE_TIME_GROUP: Final = 5


def account_name(text: str) -> str:
    """A name as it is kept: NFC, of letters, digits and `._-@+`, letter or digit first. Raises StoreError for another one."""
    name = unicodedata.normalize("NFC", text)
    if not 1 <= len(name) <= MAX_NAME or not all(map(_is_allowed, name)) or not name[0].isalnum() or mixes_scripts(name):
        raise invalid(
            f"name: must have 1 to {MAX_NAME} letters of one common alphabet, Chinese characters (Latin letters and kana may stand "
            f"beside them), digits 0 to 9, or {' '.join(PUNCTUATION)}, and begin with a letter or digit; got {_quoted(text)}.",
            f"name：须为 1 到 {MAX_NAME} 个同一种常用文字的字母、汉字（可与拉丁字母、假名并用）或数字 0 到 9，"
            f"也可含 {' '.join(PUNCTUATION)}，并以字母、汉字或数字开头；实际是 {_quoted(text)}。",
        )
    return name


def name_key(name: str) -> str:
    """By what two names are the same: `Admin`, `admin` and `ａｄｍｉｎ` are one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _is_allowed(character: str) -> bool:
    is_letter = unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo", "Lm", "Nd", "Mn", "Mc")
    return character in PUNCTUATION or character == ZERO or (is_letter and character not in INVISIBLE)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MAX_NAME else text[:MAX_NAME] + "...")


def kept_text(text: str) -> str:
    """A short text as it is kept; what is compared with one is brought into this form, too."""
    return unicodedata.normalize("NFC", text.strip())


def short_text(text: str, field: str, *, most: int, least: int = 0) -> str:
    """A text that people give, without white space around it. Raises StoreError if it is too long, too short, or no Unicode text."""
    kept = kept_text(text)
    refuse_no_text(kept, field)
    if not least <= len(kept) <= most:
        raise invalid(
            f"{field}: must have {least} to {most:,} characters, got {len(kept):,}.",
            f"{field}：须有 {least} 到 {most:,} 个字符，实际是 {len(kept):,} 个。",
        )
    return kept


def refuse_no_text(text: str, field: str) -> None:
    """Raise StoreError for what no text has: a NUL character, or half of a surrogate pair."""
    if "\0" in text or any("\ud800" <= one <= "\udfff" for one in text):
        raise invalid(
            f"{field}: has a NUL character or half of a surrogate pair, which no text has. Remove it.",
            f"{field}：含有 NUL 字符或不完整的代理对，请删除。",
        )


def password_text(password: str) -> str:
    """A password as it is hashed, set or typed: the same however a keyboard composes its letters; nothing is cut off."""
    return unicodedata.normalize("NFKC", password)


def refuse_weak_password(password: str, name: str) -> None:
    """Raise StoreError for a password that is too short, too long, or easily guessed from the name."""
    refuse_no_text(password, "password")
    kept = password_text(password)
    if len(kept) > MAX_PASSWORD or len(password) > MAX_TYPED * MAX_PASSWORD:
        raise invalid(
            f"password: must have at most {MAX_PASSWORD} characters, with spaces at its ends; got {len(kept):,}.",
            f"密码（password）最多 {MAX_PASSWORD} 个字符，首尾空格也计算在内；实际是 {len(kept):,} 个。",
        )
    if len(kept) < MIN_PASSWORD or not kept.strip():
        raise invalid(
            f"password: must have at least {MIN_PASSWORD} characters. Several words are easier to remember than signs.",
            f"密码（password）至少要有 {MIN_PASSWORD} 个字符；几个词连起来比符号好记。",
        )
    if len(set(password)) < 4 or (name_key(name) in name_key(password) and len(password) < len(name) + MIN_PASSWORD // 2):
        raise invalid(
            "password: must not repeat a few characters, nor be little more than the name. Choose another one.",
            "密码（password）不能只是几个字符的重复，也不能与用户名相近，请换一个。",
        )


def new_one_time_password() -> str:
    """A password for one login, of 99 random bits, easy to read out."""
    groups = ("".join(secrets.choice(ONE_TIME_ALPHABET) for _ in range(ONE_TIME_GROUP)) for _ in range(ONE_TIME_GROUPS))
    return "-".join(groups)


def name_taken(name: str) -> StoreError:
    """The error for a second account of the same name."""
    return StoreError(
        "conflict",
        Bilingual(f'name: there is an account "{name}" already. Choose another name.', f'name：已有账号 "{name}"，请换一个名字。'),
    )


def look_alike_error(name: str, other: str) -> StoreError:
    """The error for a name that can be taken for that of an account."""
    return StoreError(
        "conflict",
        Bilingual(
            f'name: "{name}" looks like the account "{other}": accents, other forms of a letter, and letters or digits that look alike '
            "do not make another name. Choose another one.",
            f'name："{name}" 与已有账号 "{other}" 看起来相同：变音符号、字母的其他写法和形近的字母、数字不算不同的名字，请换一个。',
        ),
    )
