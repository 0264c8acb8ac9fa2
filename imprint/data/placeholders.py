"""Texts of a recipe in the place of `{name}` in rows: one file of rows for whoever's name and author.

`{name}`, or `{{name}}`, is a placeholder whatever the name, and one without a text is an error. The identity files that went about in 2023
write `<NAME>` and `[NAME]`; such a word in capitals may as well be a mark of something else, so it counts only where its name is asked for.
Names are the same in small and capital letters.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.messages import Bilingual

PLACEHOLDER: Final = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*) *\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|<([A-Z_]+)>|\[([A-Z_]+)\]")
BRACE_GROUPS: Final = 2
"""The first so many groups of it."""
IDENTITY_NAMES: Final = ("name", "author")
"""What rows about an identity leave open; in a recipe that fills nothing these are told, and all others may be code."""
MAX_LISTED: Final = 5
"""How many places a sentence names."""


def fill_placeholders(samples: Sequence[Sample], texts: Mapping[str, str]) -> list[Sample]:
    """The samples with each placeholder replaced by its text; a text that holds a placeholder itself stays as it is.

    Raises UserError for all placeholders that have no text, with their places.
    """
    wrong: dict[str, list[str]] = {}
    known = {name.lower(): text for name, text in texts.items()}
    for sample in samples:
        for name in placeholders(sample, known) - known.keys():
            wrong.setdefault(name, []).append(sample.location)
    if wrong:
        raise UserError("\n".join(_unknown_placeholder(name, locations, texts) for name, locations in sorted(wrong.items())))
    return [_fill_sample(sample, known) for sample in samples]


def refuse_unused_fill(samples: Sequence[Sample], texts: Mapping[str, str], source: Path) -> None:
    """Raise UserError for a text whose placeholder no row has: most likely a typing mistake."""
    known = {name.lower(): name for name in texts}
    names_held = {name for sample in samples for name in placeholders(sample, known)}
    if unused := sorted(known[name] for name in known.keys() - names_held):
        there = ", ".join(f"{{{name}}}" for name in sorted(names_held)) or "no placeholder at all"
        raise UserError(
            Bilingual(
                f"data.fill.{unused[0]}: no row of {source} holds {{{unused[0]}}}; found {there}. Correct the name, or take it out of "
                "data.fill.",
                f"数据中没有占位符 {{{unused[0]}}}：请改正名称，或从 data.fill 中删去。",
            )
        )


def unfilled_notes(samples: Sequence[Sample], source: Path) -> list[str]:
    """A sentence where rows hold `{name}` or `{author}`, however written, and nobody says what to put there."""
    found = [placeholders(sample, IDENTITY_NAMES) & set(IDENTITY_NAMES) for sample in samples]
    names = [name for name in IDENTITY_NAMES if any(name in names_held for names_held in found)]
    if not names:
        return []
    listed = " and ".join(f"{{{name}}}" for name in names)
    knob = f"data.fill.{names[0]}=..."
    note = Bilingual(
        f"{source}: {sum(map(bool, found))} rows hold {listed}, and they are learned as they stand; {knob} puts a text there",
        f"数据中有占位符 {listed}，将按原样学习；可用 {knob} 填写",
    )
    return [note.line]


def placeholders(sample: Sample, known: Collection[str] = ()) -> set[str]:
    """The names of the placeholders in a sample, in small letters; `<NAME>` and `[NAME]` count where the name is `known`."""
    found = {
        (match.lastindex or 0, match[match.lastindex or 0].lower())
        for text in _sample_texts(sample)
        for match in PLACEHOLDER.finditer(text)
    }
    return {name for group, name in found if group <= BRACE_GROUPS or name in known}


def _sample_texts(sample: Sample) -> Iterator[str]:
    yield from (sample.query, sample.answer, sample.system or "")
    yield from (message.text for message in sample.context or ())
    for turn in sample.history or ():
        yield from turn


def _fill_sample(sample: Sample, texts: Mapping[str, str]) -> Sample:
    def put(text: str) -> str:
        return PLACEHOLDER.sub(lambda found: texts.get(found[found.lastindex or 0].lower(), found[0]), text)

    history = None if sample.history is None else tuple((put(question), put(answer)) for question, answer in sample.history)
    system = None if sample.system is None else put(sample.system)
    context = None if sample.context is None else tuple(replace(message, text=put(message.text)) for message in sample.context)
    return replace(sample, query=put(sample.query), answer=put(sample.answer), history=history, system=system, context=context)


def _unknown_placeholder(name: str, locations: Sequence[str], texts: Mapping[str, str]) -> str:
    more = f" and {len(locations) - MAX_LISTED} more" if len(locations) > MAX_LISTED else ""
    return str(
        Bilingual(
            f"{', '.join(locations[:MAX_LISTED])}{more}: holds {{{name}}}, and data.fill does not say what to put there; it has "
            f"{', '.join(sorted(texts))}. Add data.fill.{name}=..., or keep it as it stands with 'data.fill.{name}=\"{{{name}}}\"'.",
            f"占位符 {{{name}}} 没有对应的内容：请设 data.fill.{name}=...。",
        )
    )
