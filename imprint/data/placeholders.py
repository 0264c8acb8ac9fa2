"""Fills placeholders such as `{name}` in rows with texts of a recipe (`data.fill`).

`{name}` and `{{name}}` are placeholders for any name, and one without a text is an error. The identity files of 2023 use `<NAME>` and
`[NAME]`; words in capitals may have another meaning, so they count only if the recipe fills their name. Names are case-insensitive.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, Generic, TypeVar

from imprint.data.long_rows import MAX_TEXT, text_length
from imprint.data.sample import Sample
from imprint.messages import Bilingual, UserError, join_lines
from imprint.templates import Message

PLACEHOLDER: Final = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*) *\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|<([A-Z_]+)>|\[([A-Z_]+)\]")
BRACE_GROUPS: Final = 2
"""The number of groups of PLACEHOLDER with braces, which come first."""
IDENTITY_NAMES: Final = ("name", "author")
"""Placeholders of identity rows; without `data.fill` only these are reported, as all others may be code."""
MAX_LISTED: Final = 5
"""Maximum number of locations that an error lists."""
MAX_GROWTH: Final = 200_000_000
"""Maximum characters that filling adds to all rows, equal texts counted once: up to 0.8 GB, and encoding takes several times as much."""
Turn = TypeVar("Turn")


def fill_placeholders(samples: Sequence[Sample], texts: Mapping[str, str]) -> list[Sample]:
    """The samples with each placeholder replaced by its text; placeholders in a text are not replaced.

    Raises UserError for all placeholders without a text, with their locations, and for rows that would be too long, each or together.
    """
    missing: dict[str, dict[str, None]] = {}
    known = {name.lower(): text for name, text in texts.items()}
    for sample, added in _added_texts(samples):
        for name in _names(added, known) - known.keys():
            missing.setdefault(name, {})[sample.location] = None
    if missing:
        raise UserError(join_lines([_unknown_placeholder(name, list(places), texts) for name, places in sorted(missing.items())]))
    growth = {text: _growth(text, known) for _sample, added in _added_texts(samples) for text in added}
    _refuse_long_rows(samples, growth)
    _refuse_long_texts(sum(growth.values()), texts)
    fill = _Fill(known)
    return [filled for _location, row in groupby(samples, attrgetter("location")) for filled in fill.row(row)]


def _refuse_long_rows(samples: Sequence[Sample], growth: Mapping[str, int]) -> None:
    """Raise UserError for the rows of more than MAX_TEXT characters after filling; `growth`: by how many characters each text grows."""
    whole_rows = {sample.location: sample for sample in samples}  # the last sample of a row has all its texts
    lengths = {location: length for location, sample in whole_rows.items() if (length := _filled_length(sample, growth)) > MAX_TEXT}
    if lengths:
        places, longest = _listed(list(lengths)), max(lengths.values())
        raise UserError(
            Bilingual(
                f"{places.english}: has up to {longest:,} characters of text when data.fill replaces its placeholders; a row has at most "
                f"{MAX_TEXT:,}, about a million tokens. Give data.fill shorter texts, or divide the row into several.",
                f"{places.chinese}：用 data.fill 填写占位符后，文本最长达 {longest:,} 个字符，而一行最多 {MAX_TEXT:,} 个（约一百万词元）："
                "请缩短 data.fill 的内容，或拆成几行。",
            )
        )


def _refuse_long_texts(growth: int, texts: Mapping[str, str]) -> None:
    """Raise UserError if the different texts of all rows grow by more than MAX_GROWTH characters: they are counted before they are kept."""
    if growth > MAX_GROWTH:
        longest = max(texts, key=lambda name: len(texts[name]))
        raise UserError(
            Bilingual(
                f"data.fill: adds {growth:,} characters to the rows, at most {MAX_GROWTH:,}; its longest text, data.fill.{longest}, has "
                f"{len(texts[longest]):,}. Give shorter texts, or fewer rows.",
                f"data.fill：会给数据增加 {growth:,} 个字符，最多 {MAX_GROWTH:,} 个；其中最长的 data.fill.{longest} 有 "
                f"{len(texts[longest]):,} 个字符。请缩短内容，或减少数据行。",
            )
        )


def _filled_length(sample: Sample, growth: Mapping[str, int]) -> int:
    """Characters of a sample with its placeholders filled."""
    more = sum(growth.get(text, 0) for text in _texts(sample))
    return text_length(sample) + more if more > 0 else 0


def _growth(text: str, texts: Mapping[str, str]) -> int:
    """By how many characters a text grows when it is filled."""
    return sum(len(_text_of(match, texts)) - len(match[0]) for match in PLACEHOLDER.finditer(text))


def refuse_unused_fill(samples: Sequence[Sample], texts: Mapping[str, str], source: Path) -> None:
    """Raise UserError for a text whose placeholder is in no row, most likely a typo."""
    known = {name.lower(): name for name in texts}
    present = {name for _sample, added in _added_texts(samples if known else ()) for name in _names(added, known)}
    if unused := sorted(known[name] for name in known.keys() - present):
        listed = ", ".join(f"{{{name}}}" for name in sorted(present)) or "no placeholder at all"
        raise UserError(
            Bilingual(
                f"data.fill.{unused[0]}: no row of {source} holds {{{unused[0]}}}; found {listed}. Correct the name, or remove it from "
                "data.fill.",
                f"数据中没有占位符 {{{unused[0]}}}：请改正名称，或从 data.fill 中删去。",
            )
        )


def unfilled_notes(samples: Sequence[Sample], source: Path) -> list[str]:
    """A note if rows hold `{name}` or `{author}` in any form; empty otherwise."""
    present, count = set[str](), 0
    for _location, row in groupby(samples, attrgetter("location")):
        in_row = set[str]()  # each sample has the texts of those before it
        for _sample, added in _added_texts(row):
            in_row |= _names(added, IDENTITY_NAMES) & set(IDENTITY_NAMES)
            count += bool(in_row)
        present |= in_row
    names = [name for name in IDENTITY_NAMES if name in present]
    if not names:
        return []
    listed = " and ".join(f"{{{name}}}" for name in names)
    knob = f"data.fill.{names[0]}=..."
    note = Bilingual(
        f"{source}: {count} rows hold {listed}, which is learned as it is; {knob} replaces it",
        f"数据中有占位符 {listed}，将按原样学习；可用 {knob} 填写",
    )
    return [note.line]


def _names(texts: Iterable[str], known: Collection[str]) -> set[str]:
    """Names of the placeholders in texts, in lower case; `<NAME>` and `[NAME]` count only if the name is in `known`."""
    matches = {(match.lastindex or 0, match[match.lastindex or 0].lower()) for text in texts for match in PLACEHOLDER.finditer(text)}
    return {name for group, name in matches if group <= BRACE_GROUPS or name in known}


def _added_texts(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Iterator[str]]]:
    """Each sample with its texts, without those that it shares with the sample before it: all of a conversation take quadratic time."""
    before: Sample | None = None
    for sample in samples:
        yield sample, _texts(sample, before if before is not None and before.location == sample.location else None)
        before = sample


def _texts(sample: Sample, before: Sample | None = None) -> Iterator[str]:
    """The texts of a sample, without those that it shares with the sample `before` it in its row."""
    yield from (sample.query, sample.answer)
    if sample.system is not None and (before is None or sample.system is not before.system):
        yield sample.system
    context = _added(sample.context or (), (before and before.context) or ())
    yield from (message.text for message in (*context, *sample.further_messages))
    for turn in _added(sample.history or (), (before and before.history) or ()):
        yield from turn


def _added(turns: tuple[Turn, ...], before: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns of a sample after those `before`, or all if it does not have these."""
    return turns[len(before) :] if before and len(turns) >= len(before) and turns[len(before) - 1] is before[-1] else turns


def _text_of(match: re.Match[str], texts: Mapping[str, str]) -> str:
    """What replaces a placeholder: its text, or itself if it has none."""
    return texts.get(match[match.lastindex or 0].lower(), match[0])


class _Fill:
    """Fills rows. Equal texts of all rows, and the turns of the samples of a row, are filled once and shared."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._filled: dict[str, str] = {}

    def row(self, row: Iterable[Sample]) -> Iterator[Sample]:
        """The samples of a row, filled."""
        text = cache(self._text)
        history = _FilledTurns[tuple[str, str]](lambda turn: (text(turn[0]), text(turn[1])))
        context = _FilledTurns[Message](lambda message: replace(message, text=text(message.text)))
        for sample in row:
            yield replace(
                sample,
                query=text(sample.query),
                answer=text(sample.answer),
                history=None if sample.history is None else history.fill(sample.history),
                system=None if sample.system is None else text(sample.system),
                context=None if sample.context is None else context.fill(sample.context),
                further_messages=tuple(replace(message, text=text(message.text)) for message in sample.further_messages),
            )

    def _text(self, text: str) -> str:
        if text not in self._filled:
            filled = PLACEHOLDER.sub(lambda match: _text_of(match, self._texts), text)
            if filled == text:
                return text
            self._filled[text] = filled
        return self._filled[text]


class _FilledTurns(Generic[Turn]):
    """The turns before the samples of a row, of which each sample has those of the one before it."""

    def __init__(self, fill: Callable[[Turn], Turn]) -> None:
        self._fill = fill
        self._before: tuple[Turn, ...] = ()
        self._filled: list[Turn] = []

    def fill(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        """The turns of the next sample, filled; they themselves if no placeholder is in them."""
        added = _added(turns, self._before)
        del self._filled[len(turns) - len(added) :]
        for turn in added:
            filled = self._fill(turn)
            self._filled.append(turn if filled == turn else filled)
        self._before = turns
        return turns if tuple(self._filled) == turns else tuple(self._filled)


def _unknown_placeholder(name: str, locations: Sequence[str], texts: Mapping[str, str]) -> Bilingual:
    places = _listed(locations)
    keep = f"'data.fill.{name}=\"{{{name}}}\"'"
    return Bilingual(
        f"{places.english}: holds {{{name}}}, and data.fill has no text for it; it has "
        f"{', '.join(sorted(texts))}. Add data.fill.{name}=..., or keep it as it is with {keep}.",
        f"{places.chinese}：占位符 {{{name}}} 没有对应的内容：请设 data.fill.{name}=...；若要原样保留，请设 {keep}。",
    )


def _listed(locations: Sequence[str]) -> Bilingual:
    """The first MAX_LISTED locations, and the number of the others."""
    shown, rest = ", ".join(locations[:MAX_LISTED]), len(locations) - MAX_LISTED
    return Bilingual(f"{shown} and {rest} more", f"{shown} 等 {len(locations)} 处") if rest > 0 else Bilingual(shown, shown)
