"""What the users of a model are told about it."""

from collections.abc import Mapping
from typing import Final

from imprint.loading.licence import Use, use_of
from imprint.messages import Bilingual
from imprint.serve.generation.job import NOTE

WRITTEN: Final = Bilingual("A language model writes the answers, and they may be wrong.", "回答由语言模型生成，可能有误。")
NOTES: Final[Mapping[Use, Bilingual]] = {
    "any": WRITTEN,
    "as stated": NOTE,
    "research": Bilingual(
        f"{WRITTEN.english} For research only: the licence of the base allows no other use, or only after a registration.",
        f"{WRITTEN.chinese}仅供研究：底座的许可证不允许其他用途，或须先登记。",
    ),
    "unknown": Bilingual(
        f"{WRITTEN.english} For research only, as long as the licence of the base is not known.",
        f"{WRITTEN.chinese}底座的许可证不明，在查明之前仅供研究。",
    ),
}


def note_of(licence: str | None) -> Bilingual:
    """What to know about a base of this licence."""
    return NOTES[use_of(licence)]
