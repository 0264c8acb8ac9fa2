"""The kinds of findings, with severity and label, and a tally with examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from imprint.messages import Bilingual

EXAMPLES: Final = 3
"""Examples shown of each kind."""


@dataclass(frozen=True)
class FindingKind:
    """A kind of problem that data can have."""

    severity: Literal["error", "warning"]
    """An error makes the command exit with status 1; a warning is for the user to judge."""
    label: Bilingual
    """What is counted, as a plural."""
    fix: Bilingual | None = None
    """What `--fix` does about it; None where the user must decide."""


_REJECTS = Bilingual("rejects them", "剔除")
_REMOVES = Bilingual("removes them", "删去")
_DROPS = Bilingual("drops them", "去掉")


KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(
    {
        "bad": FindingKind("error", Bilingual("bad rows", "坏行"), Bilingual("fixes what it can, rejects the rest", "能修则修，其余剔除")),
        "empty": FindingKind("error", Bilingual("rows with an empty question or answer", "空提问或空回答"), _REJECTS),
        "lost": FindingKind("error", Bilingual("rows that have lost characters (U+FFFD and the like)", "丢失字符的行"), _REJECTS),
        "garbled": FindingKind(
            "error", Bilingual("rows of mojibake: UTF-8 decoded as another encoding", "乱码行"), Bilingual("decodes them again", "重新解码")
        ),
        "stray": FindingKind(
            "error", Bilingual("rows with stray characters: NUL, U+FEFF, \\r, lone surrogates", "含杂散字符的行"), _REMOVES
        ),
        "tokens": FindingKind("error", Bilingual("rows with special tokens typed around a text", "文本首尾有控制符的行"), _REMOVES),
        "duplicated": FindingKind("error", Bilingual("rows that repeat an earlier row word for word", "完全重复的行"), _DROPS),
        "leaked": FindingKind("error", Bilingual("rows that the held-out file has too", "留出数据中也有的行"), _DROPS),
        "no_end_token": FindingKind("error", Bilingual("rows without the end token of an answer", "没有结束符的行")),
        "blanks": FindingKind(
            "warning", Bilingual("rows with whitespace around a text", "文本首尾有空白的行"), Bilingual("trims them", "去掉空白")
        ),
        "inside": FindingKind("warning", Bilingual("rows with special tokens typed in a text, which stay text", "文本中夹有控制符的行")),
        "contradicting": FindingKind("warning", Bilingual("rows that answer an earlier question differently", "同问不同答的行")),
        "leaked_questions": FindingKind(
            "warning", Bilingual("rows whose question the held-out file answers differently", "问题与留出数据相同的行")
        ),
        "loops": FindingKind("warning", Bilingual("answers that mostly repeat themselves", "大段自我重复的回答")),
        "breaks_off": FindingKind("warning", Bilingual("answers that end with a comma, a colon or the like", "没说完的回答")),
        "half": FindingKind("warning", Bilingual("answers that data.max_target_length cuts in mid-sentence", "被长度上限截在半句的回答")),
        "nothing": FindingKind("warning", Bilingual("rows without an answer to learn", "没有可学内容的行")),
    }
)
"""Name -> kind, the most severe first."""


@dataclass
class FindingTally:
    """Number of findings of a kind, with the first examples."""

    count: int = 0
    """Number of findings."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """The first (location, excerpt) pairs."""

    def add(self, location: str, text: str) -> None:
        """Count a finding."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((location, text))
