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
from typing import Final

from imprint.data.long_rows import MAX_TEXT, text_length
from imprint.data.sample import Sample
from imprint.messages import Bilingual, UserError, join_lines

PLACEHOLDER: Final = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*) *\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|<([A-Z_]+)>|\[([A-Z_]+)\]")
BRACE_GROUPS: Final = 2
"""The number of groups of PLACEHOLDER with braces, which come first."""
IDENTITY_NAMES: Final = ("name", "author")
"""Placeholders of identity rows; without `data.fill` only these are reported, as all others may be code."""
MAX_LISTED: Final = 5
"""Maximum number of locations that an error lists."""


def fill_placeholders(samples: Sequence[Sample], texts: Mapping[str, str]) -> list[Sample]:
    """The samples with each placeholder replaced by its text; placeholders in a text are not replaced.

    Raises UserError for all placeholders without a text, with their locations, and for the rows that would be too long.
    """
    missing: dict[str, list[str]] = {}
    known = {name.lower(): text for name, text in texts.items()}
    for sample in samples:
        for name in placeholders(sample, known) - known.keys():
            missing.setdefault(name, []).append(sample.location)
    if missing:
        raise UserError(join_lines([_unknown_placeholder(name, locations, texts) for name, locations in sorted(missing.items())]))
    _refuse_long_rows(samples, known)
    return [filled for _location, row in groupby(samples, attrgetter("location")) for filled in _fill_row(row, known)]


def _refuse_long_rows(samples: Sequence[Sample], texts: Mapping[str, str]) -> None:
    """Raise UserError for the rows of more than MAX_TEXT characters after filling: they are counted first, since they may exceed memory."""
    whole_rows = {sample.location: sample for sample in samples}  # the last sample of a row has all its texts
    lengths = {location: length for location, sample in whole_rows.items() if (length := _filled_length(sample, texts)) > MAX_TEXT}
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


def _filled_length(sample: Sample, texts: Mapping[str, str]) -> int:
    """Characters of a sample with its placeholders filled."""
    matches = (match for text in _sample_texts(sample) for match in PLACEHOLDER.finditer(text))
    growth = sum(len(_text_of(match, texts)) - len(match[0]) for match in matches)
    return text_length(sample) + growth if growth > 0 else 0


def refuse_unused_fill(samples: Sequence[Sample], texts: Mapping[str, str], source: Path) -> None:
    """Raise UserError for a text whose placeholder is in no row, most likely a typo."""
    known = {name.lower(): name for name in texts}
    present = {name for sample in samples for name in placeholders(sample, known)}
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
    present = [placeholders(sample, IDENTITY_NAMES) & set(IDENTITY_NAMES) for sample in samples]
    names = [name for name in IDENTITY_NAMES if any(name in sample_names for sample_names in present)]
    if not names:
        return []
    listed = " and ".join(f"{{{name}}}" for name in names)
    knob = f"data.fill.{names[0]}=..."
    note = Bilingual(
        f"{source}: {sum(map(bool, present))} rows hold {listed}, which is learned as it is; {knob} replaces it",
        f"数据中有占位符 {listed}，将按原样学习；可用 {knob} 填写",
    )
    return [note.line]


def placeholders(sample: Sample, known: Collection[str] = ()) -> set[str]:
    """Names of the placeholders in a sample, in lower case; `<NAME>` and `[NAME]` count only if the name is in `known`."""
    matches = {
        (match.lastindex or 0, match[match.lastindex or 0].lower())
        for text in _sample_texts(sample)
        for match in PLACEHOLDER.finditer(text)
    }
    return {name for group, name in matches if group <= BRACE_GROUPS or name in known}


def _sample_texts(sample: Sample) -> Iterator[str]:
    yield from (sample.query, sample.answer, sample.system or "")
    yield from (message.text for message in (*(sample.context or ()), *sample.further_messages))
    for turn in sample.history or ():
        yield from turn


def _text_of(match: re.Match[str], texts: Mapping[str, str]) -> str:
    """What replaces a placeholder: its text, or itself if it has none."""
    return texts.get(match[match.lastindex or 0].lower(), match[0])


def _fill_row(row: Iterable[Sample], texts: Mapping[str, str]) -> list[Sample]:
    """The samples of a row, which share the filled texts as they share the others."""
    fill = cache(lambda text: PLACEHOLDER.sub(lambda match: _text_of(match, texts), text))
    return [_fill_sample(sample, fill) for sample in row]


def _fill_sample(sample: Sample, fill: Callable[[str], str]) -> Sample:
    history = None if sample.history is None else tuple((fill(question), fill(answer)) for question, answer in sample.history)
    system = None if sample.system is None else fill(sample.system)
    context = None if sample.context is None else tuple(replace(message, text=fill(message.text)) for message in sample.context)
    further = tuple(replace(message, text=fill(message.text)) for message in sample.further_messages)
    return replace(
        sample,
        query=fill(sample.query),
        answer=fill(sample.answer),
        history=history,
        system=system,
        context=context,
        further_messages=further,
    )


def _unknown_placeholder(name: str, locations: Sequence[str], texts: Mapping[str, str]) -> Bilingual:
    places = _listed(locations)
    return Bilingual(
        f"{places.english}: holds {{{name}}}, and data.fill has no text for it; it has "
        f"{', '.join(sorted(texts))}. Add data.fill.{name}=..., or keep it as it is with 'data.fill.{name}=\"{{{name}}}\"'.",
        f"{places.chinese}：占位符 {{{name}}} 没有对应的内容：请设 data.fill.{name}=...。",
    )


def _listed(locations: Sequence[str]) -> Bilingual:
    """The first MAX_LISTED locations, and the number of the others."""
    shown, rest = ", ".join(locations[:MAX_LISTED]), len(locations) - MAX_LISTED
    return Bilingual(f"{shown} and {rest} more", f"{shown} 等 {len(locations)} 处") if rest > 0 else Bilingual(shown, shown)
