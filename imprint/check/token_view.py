"""A training row as the eye can follow it: every token, whether it is read or learned, and what the limits cut."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from types import MappingProxyType
from typing import Final

from imprint.check.terminal import Style, pad_right, width
from imprint.data.encode import EncodedRow
from imprint.data.readers.bad_rows import printable
from imprint.messages import Bilingual
from imprint.pack import IGNORE_INDEX
from imprint.tokenizers import SPACE, Tokenizer

BORDER: Final = "│"


class TokenMark(Enum):
    """What becomes of a token; the value is what the reader sees in front of its line."""

    READ = Bilingual("read", "只读")
    LEARNED = Bilingual("learn", "学习")
    CUT = Bilingual("cut", "截去")


MARK_STYLES: Final[Mapping[TokenMark, tuple[str, ...]]] = MappingProxyType(
    {TokenMark.READ: ("blue",), TokenMark.LEARNED: ("green", "bold"), TokenMark.CUT: ("red", "dim")}
)
SPECIAL_STYLE: Final = ("yellow",)
SPACES: Final = re.compile(r" {2,}")
LABEL: Final = max(width(mark.value.line) for mark in TokenMark)


@dataclass(frozen=True)
class TokenView:
    """One token for the eye."""

    text: str
    """What it stands for, on one line."""
    mark: TokenMark
    """What becomes of it."""
    control: bool
    """Whether it steers the model and is no text."""


def view_tokens(tokenizer: Tokenizer, row: EncodedRow, whole: EncodedRow) -> list[TokenView]:
    """The tokens of a row as it is trained, with those of the `whole` row that it has lost in their place."""
    names = {token: name for name, token in tokenizer.special_ids.items()}
    marks = [TokenMark.READ if label == IGNORE_INDEX else TokenMark.LEARNED for label in row.labels]
    learned, learned_whole = marks.count(TokenMark.LEARNED), sum(label != IGNORE_INDEX for label in whole.labels)
    found: list[TokenView] = []
    for start, end, first, last in (
        (0, len(row.ids) - learned, 0, len(whole.ids) - learned_whole),
        (len(row.ids) - learned, len(row.ids), len(whole.ids) - learned_whole, len(whole.ids)),
    ):
        kept, full = row.ids[start:end], whole.ids[first:last]
        head, tail = _common_ends(kept, full)
        cut = [(token, TokenMark.CUT) for token in full[head : len(full) - tail]]
        there = list(zip(kept, marks[start:end], strict=True))
        found += [_view(tokenizer, names, token, mark) for token, mark in (*there[:head], *cut, *there[head:])]
    return found


def mark_legend(style: Style) -> str:
    """The legend."""
    marks = " · ".join(style(mark.value.line, *MARK_STYLES[mark]) for mark in TokenMark)
    special = style(f"<sop> {Bilingual('control', '控制符').line}", *SPECIAL_STYLE)
    signs = {"▁": Bilingual("space", "空格"), "⏎": Bilingual("newline", "换行"), "<0x..>": Bilingual("byte", "字节")}
    return " · ".join([marks, special, *(f"{sign} {name.line}" for sign, name in signs.items())])


def token_lines(found: Sequence[TokenView], style: Style, columns: int) -> Iterator[str]:
    """The pieces in lines of so many columns, each line named after what becomes of its tokens."""
    for mark, group in groupby(found, key=lambda piece: piece.mark):
        label, row, used = mark.value.line, "", 0
        for piece in group:
            size = width(piece.text) + 1
            if used and used + size > columns - LABEL - 2:
                yield _labelled_line(label, row, style, mark)
                label, row, used = "", "", 0
            row += style(piece.text, *(SPECIAL_STYLE if piece.control else MARK_STYLES[mark])) + style(BORDER, "dim")
            used += size
        yield _labelled_line(label, row, style, mark)


def _labelled_line(label: str, row: str, style: Style, mark: TokenMark) -> str:
    return style(pad_right(label, LABEL), *MARK_STYLES[mark]) + " " + style(BORDER, "dim") + row


def _common_ends(kept: Sequence[int], full: Sequence[int]) -> tuple[int, int]:
    """How many tokens at the start and at the end are the same in both, together at most as many as are kept."""
    room = min(len(kept), len(full))
    head = next((index for index in range(room) if kept[index] != full[index]), room)
    tail = next((index for index in range(room - head) if kept[-1 - index] != full[-1 - index]), room - head)
    return head, tail


def _view(tokenizer: Tokenizer, names: Mapping[int, str], token: int, mark: TokenMark) -> TokenView:
    if token in names:
        return TokenView(names[token], mark, control=True)
    try:
        text = tokenizer.token_bytes(token).decode()
    except UnicodeDecodeError:
        text = tokenizer.token_text(token)
    shown = SPACES.sub(lambda found: f"␣×{len(found[0])}", text).replace(" ", SPACE).replace("\n", "⏎").replace("\t", "⇥")
    return TokenView(printable(shown) or f"#{token}", mark, control=False)
