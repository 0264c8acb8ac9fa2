"""A training row as readable tokens, each marked as read, learned or truncated."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from types import MappingProxyType
from typing import Final

from imprint.data.encode import EncodedRow
from imprint.messages import Bilingual
from imprint.terminal import Style, pad_right, printable, width
from imprint.tokenizers import SPACE, Tokenizer

BORDER: Final = "│"


class TokenMark(Enum):
    """Role of a token in training; the value is the label of its line."""

    READ = Bilingual("read", "只读")
    LEARNED = Bilingual("learn", "学习")
    CUT = Bilingual("cut", "截去")


MARK_STYLES: Final[Mapping[TokenMark, tuple[str, ...]]] = MappingProxyType(
    {TokenMark.READ: ("blue",), TokenMark.LEARNED: ("green", "bold"), TokenMark.CUT: ("red", "dim")}
)
SPECIAL_STYLE: Final = ("yellow",)
SPACES: Final = re.compile(r" {2,}")
LABEL_COLUMNS: Final = max(width(mark.value.line) for mark in TokenMark)


@dataclass(frozen=True)
class TokenView:
    """One token to print."""

    text: str
    """Its text, on one line."""
    mark: TokenMark
    """Its role in training."""
    special: bool
    """Whether it is a special token."""


def view_tokens(tokenizer: Tokenizer, row: EncodedRow, untruncated: EncodedRow) -> list[TokenView]:
    """The tokens of a training row, and at their positions those that truncation removed from the `untruncated` row."""
    names = {token: name for name, token in tokenizer.controls.items()}
    marks = [TokenMark.LEARNED if scored else TokenMark.READ for scored in row.scored]
    prompt, full_prompt = marks.count(TokenMark.READ), untruncated.scored.count(False)
    views: list[TokenView] = []
    for start, end, full_start, full_end in (
        (0, prompt, 0, full_prompt),
        (prompt, len(row.ids), full_prompt, len(untruncated.ids)),
    ):
        kept, full = row.ids[start:end], untruncated.ids[full_start:full_end]
        head, tail = _common_ends(kept, full)
        cut = [(token, TokenMark.CUT) for token in full[head : len(full) - tail]]
        marked = list(zip(kept, marks[start:end], strict=True))
        views += [_view(tokenizer, names, token, mark) for token, mark in (*marked[:head], *cut, *marked[head:])]
    return views


def mark_legend(style: Style) -> str:
    """The legend of marks and signs, on one line."""
    marks = " · ".join(style(mark.value.line, *MARK_STYLES[mark]) for mark in TokenMark)
    special = style(f"<sop> {Bilingual('special', '控制符').line}", *SPECIAL_STYLE)
    signs = {"▁": Bilingual("space", "空格"), "⏎": Bilingual("newline", "换行"), "<0x..>": Bilingual("byte", "字节")}
    return " · ".join([marks, special, *(f"{sign} {name.line}" for sign, name in signs.items())])


def token_lines(views: Sequence[TokenView], style: Style, columns: int) -> Iterator[str]:
    """The tokens in lines of at most `columns` columns, each run of equal marks labelled."""
    for mark, group in groupby(views, key=lambda view: view.mark):
        label, row, used = mark.value.line, "", 0
        for view in group:
            size = width(view.text) + 1
            if used and used + size > columns - LABEL_COLUMNS - 2:
                yield _labelled_line(label, row, style, mark)
                label, row, used = "", "", 0
            row += style(view.text, *(SPECIAL_STYLE if view.special else MARK_STYLES[mark])) + style(BORDER, "dim")
            used += size
        yield _labelled_line(label, row, style, mark)


def _labelled_line(label: str, row: str, style: Style, mark: TokenMark) -> str:
    return style(pad_right(label, LABEL_COLUMNS), *MARK_STYLES[mark]) + " " + style(BORDER, "dim") + row


def _common_ends(kept: Sequence[int], full: Sequence[int]) -> tuple[int, int]:
    """Lengths of the common prefix and suffix of both, together at most `len(kept)`."""
    shorter = min(len(kept), len(full))
    head = next((index for index in range(shorter) if kept[index] != full[index]), shorter)
    tail = next((index for index in range(shorter - head) if kept[-1 - index] != full[-1 - index]), shorter - head)
    return head, tail


def _view(tokenizer: Tokenizer, names: Mapping[int, str], token: int, mark: TokenMark) -> TokenView:
    if token in names:
        return TokenView(names[token], mark, special=True)
    try:
        text = tokenizer.token_bytes(token).decode()
    except UnicodeDecodeError:
        text = tokenizer.token_text(token)
    shown = SPACES.sub(lambda match: f"␣×{len(match[0])}", text).replace(" ", SPACE).replace("\n", "⏎").replace("\t", "⇥")
    return TokenView(printable(shown) or f"#{token}", mark, special=False)
