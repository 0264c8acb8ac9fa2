"""What can be wrong with data: each kind of finding with its weight, its words, and the rows that show it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

EXAMPLES: Final = 3
"""How many rows of each kind are shown."""


@dataclass(frozen=True)
class FindingKind:
    """One thing that can be found."""

    severity: Literal["wrong", "advice"]
    """Whether it is a mistake, for which the command ends with status 1, or something to know."""
    english: str
    """What is counted, in the plural."""
    chinese: str
    """The same in Chinese."""
    fix: str = ""
    """What `--fix` does about it; empty where that is for a person to decide."""


KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(
    {
        "bad": FindingKind("wrong", "bad rows", "坏行", "mends what it can, rejects the rest"),
        "empty": FindingKind("wrong", "rows with an empty question or answer", "空提问或空回答", "rejects them"),
        "lost": FindingKind("wrong", "rows that have lost characters (U+FFFD and the like)", "丢失字符的行", "rejects them"),
        "garbled": FindingKind("wrong", "rows of garbled text: UTF-8 read as something else", "乱码行", "turns them back"),
        "stray": FindingKind("wrong", "rows with stray characters: NUL, U+FEFF, \\r, half characters", "含杂散字符的行", "takes them out"),
        "tokens": FindingKind("wrong", "rows with control tokens typed at the end of a text", "文本首尾有控制符的行", "takes them off"),
        "repeated": FindingKind("wrong", "rows that repeat an earlier row word for word", "完全重复的行", "drops them"),
        "leaked": FindingKind("wrong", "rows that the held-out file has too", "留出数据中也有的行", "drops them"),
        "unended": FindingKind("wrong", "rows without the id that ends an answer", "没有结束符的行"),
        "blanks": FindingKind("advice", "rows with blanks around a text", "文本首尾有空白的行", "trims them"),
        "inside": FindingKind("advice", "rows with control tokens within a text, which stay text", "文本中夹有控制符的行"),
        "contradicting": FindingKind("advice", "rows that answer an earlier question otherwise", "同问不同答的行"),
        "leaked_questions": FindingKind("advice", "rows whose question the held-out file answers otherwise", "问题与留出数据相同的行"),
        "loops": FindingKind("advice", "answers that mostly repeat themselves", "大段自我重复的回答"),
        "breaks_off": FindingKind("advice", "answers that end on a comma, a colon or the like", "没说完的回答"),
        "half": FindingKind("advice", "answers that data.max_target_length ends in mid-sentence", "被长度上限截在半句的回答"),
        "nothing": FindingKind("advice", "rows without an answer to learn", "没有可学内容的行"),
    }
)
"""Name -> kind, the gravest first."""


@dataclass
class FindingTally:
    """How often something was found, and where first."""

    count: int = 0
    """How often."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """The first places, each with what stands there."""

    def add(self, location: str, text: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((location, text))
