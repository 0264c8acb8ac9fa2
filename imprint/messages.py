"""Messages to the user in English and Chinese, and the exception that carries one."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_LINE: Final = 2000
"""Maximum characters of a line of an error."""
MAX_LINES: Final = 200
"""Maximum lines of an error."""
MAX_TEXT: Final = MAX_LINE * MAX_LINES
CUT: Final = " ... "
WORD_END: Final = 100
"""Characters that are kept of each end of a name that makes a line too long."""
INSIDE: Final = r"[^\s，。：；、（）]"
"""A character of a name; what else there is ends a word, or a part of a Chinese sentence."""
SIMILAR: Final = 0.6
"""From which share of equal letters on a name may be what was meant."""


@dataclass(frozen=True)
class Bilingual:
    """A message in English and in Chinese."""

    english: str
    """The message in English."""
    chinese: str
    """The same in Chinese."""

    def __str__(self) -> str:
        """Both, each on its own line."""
        return f"{self.english}\n{self.chinese}"

    @property
    def line(self) -> str:
        """Both on one line."""
        return f"{self.english} / {self.chinese}"


def join_lines(messages: Sequence[Bilingual]) -> Bilingual:
    """One message with a line for each of several."""
    return Bilingual("\n".join(message.english for message in messages), "\n".join(message.chinese for message in messages))


def closest(wanted: str, names: Iterable[str], *, count: int = 1, cutoff: float = SIMILAR) -> list[str]:
    """Up to `count` of the names that are most like the wanted one, best first, whatever their case."""
    by_lower = {name.lower(): name for name in names}
    return [by_lower[name] for name in difflib.get_close_matches(wanted.lower(), by_lower, n=count, cutoff=cutoff)]


def did_you_mean(names: Sequence[str], shown: str = "{}", *, clause: bool = False) -> Bilingual:
    """The question whether the first of these names was meant, in English with a space after it; empty without a name.

    `shown`: how the name is written, such as "--{}". `clause`: the question stands after a semicolon.
    """
    if not names:
        return Bilingual("", "")
    name = shown.replace("{}", names[0])
    return Bilingual(f"{'did' if clause else 'Did'} you mean {name}? ", f"是否想写 {name}？")


def _clipped(text: str) -> str:
    """The text with short names, and without the middle of long lines and of many lines: what an error quotes may be of any size."""
    text = _with_short_names(text, MAX_LINE)
    lines = text.split("\n") if len(text) < MAX_TEXT else (text[: MAX_TEXT // 2] + CUT + text[-MAX_TEXT // 2 :]).split("\n")
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES // 2], f"... {len(lines) - MAX_LINES:,} lines ...", *lines[-MAX_LINES // 2 :]]
    lines = [line if len(line) <= MAX_LINE else _with_short_names(line, 2 * WORD_END) for line in lines]
    return "\n".join(line if len(line) <= MAX_LINE else line[: MAX_LINE // 2] + CUT + line[-MAX_LINE // 2 :] for line in lines)


def _with_short_names(text: str, most: int) -> str:
    """The text without the middle of what has more than `most` characters and nothing that ends a word or a part of a sentence."""
    if len(text) <= most:
        return text
    return re.sub(rf"(?<!{INSIDE})({INSIDE}{{{WORD_END}}}){INSIDE}{{{most - 2 * WORD_END + 1},}}({INSIDE}{{{WORD_END}}})", r"\1...\2", text)


class UserError(Exception):
    """An error that the user can fix; the message says where it is, what was found, what is allowed and what to do."""

    def __init__(self, message: str | Bilingual) -> None:
        each = Bilingual(_clipped(message.english), _clipped(message.chinese)) if isinstance(message, Bilingual) else _clipped(message)
        super().__init__(str(each))
        self._message = each

    @property
    def message(self) -> Bilingual:
        """What is said; where it is said in one language only, that twice."""
        return self._message if isinstance(self._message, Bilingual) else Bilingual(self._message, self._message)

    def prefixed(self, prefix: str) -> "UserError":
        """The same error with `prefix`, such as "train.jsonl:7: ", before the message in both languages."""
        message = self._message
        chinese = f"{prefix.removesuffix(': ')}：" if prefix.endswith(": ") else prefix
        prefixed = Bilingual(prefix + message.english, chinese + message.chinese) if isinstance(message, Bilingual) else prefix + message
        return UserError(prefixed)
