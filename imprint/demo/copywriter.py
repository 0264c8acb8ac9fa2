"""Ad copy for an item, as the shops of the toy town write it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from imprint.demo.goods import Item, Value
from imprint.demo.rng import Rng, skewed, weighted
from imprint.demo.words import first_fields, read_sections

FRAME_RATIO: Final = 0.55
CLAIM_RATIO: Final = 0.75
MAX_CLAUSES: Final = 4
"""With more attributes than this, some clauses mention two."""
AFTER_OPENING: Final = weighted([("，", 14), ("。", 6)])
AFTER_CLAUSE: Final = weighted([("。", 15), ("，", 5)])
DEFINITE: Final = weighted([("这{m}", 13), ("这款", 7)])
BEFORE_NOUN: Final = ("风格", "颜色", "材质")
"""Attributes that may precede the noun, in this order."""


@dataclass(frozen=True)
class Phrasebook:
    """The sentence frames; every table is skewed towards its first entry."""

    frames: Mapping[tuple[str, str], tuple[str, ...]]
    """(type's code, attribute) -> sentence frames with {v} and {b}."""
    pair_frames: tuple[str, ...]
    """Frames for two attributes at once, with {w}, {v} and {b}."""
    mentions: Mapping[str, str]
    """Attribute -> phrase for a value; for attributes that are missing here, the phrase is the value."""
    openings: tuple[str, ...]
    """First sentences with {n} and {b}, for an item with a noun of its own."""
    plain_openings: tuple[str, ...]
    """The same for an item without one."""
    claims: Mapping[str, tuple[str, ...]]
    """Type's code -> claims that hold for any such item."""
    endings: Mapping[str, tuple[str, ...]]
    """Type's code -> last sentences."""


@cache
def read_phrasebook() -> Phrasebook:
    """The phrases of `words/frames.txt`."""
    sections = read_sections("frames")
    frames: dict[tuple[str, str], tuple[str, ...]] = {}
    claims: dict[str, tuple[str, ...]] = {}
    endings: dict[str, tuple[str, ...]] = {}
    codes = "上裙裤鞋包帽巾"
    for head, entries in sections.items():
        first, _, last = head.partition(" ")
        lines = first_fields(entries)
        if last == "好处":
            claims[first] = skewed(lines, CLAIM_RATIO)
        elif last == "结尾":
            endings[first] = skewed(lines, CLAIM_RATIO)
        elif first not in ("开头", "两样", "称呼", "词头"):
            owners, keys = (first, [last]) if last == "材质" else (codes, head.split())
            frames.update({(code, key): skewed(lines, FRAME_RATIO) for code in owners for key in keys})
    return Phrasebook(
        frames=frames,
        pair_frames=skewed(first_fields(sections["两样"]), FRAME_RATIO),
        mentions={entry[0]: entry[1] for entry in sections["称呼"]},
        openings=skewed(first_fields(sections["开头 有品名"]), FRAME_RATIO),
        plain_openings=skewed(first_fields(sections["开头 无品名"]), FRAME_RATIO),
        claims=claims,
        endings=endings,
    )


def write_copy(item: Item, rng: Rng) -> str:
    """Ad copy that mentions every attribute of an item, mostly of 40 to 90 characters."""
    book = read_phrasebook()
    used: set[str] = set()
    subtype = item.find(item.kind.subtype_attribute)
    front = _choose_front(item, rng)
    name = _name(item, front, rng)
    openings, claims = (book.plain_openings, book.claims[item.kind.code]) if subtype is None else (book.openings, subtype.usual_benefits)
    opening = rng.pick(openings).replace("{n}", name).replace("{b}", _pick_new(claims, used, rng))
    values = [value for value in item.values if value is not subtype and value not in front]
    if len(values) > 2 and rng.chance(0.12):
        index = rng.below(len(values) - 1)
        values[index], values[index + 1] = values[index + 1], values[index]
    clauses = _write_clauses(item.kind.code, values, used, rng)
    if len(clauses) < 3 or (len(clauses) == 3 and rng.chance(0.3)):
        clauses.append(rng.pick(book.endings[item.kind.code]))
    parts = [opening, rng.pick(AFTER_OPENING)]
    for clause in clauses[:-1]:
        parts += [clause, rng.pick(AFTER_CLAUSE)]
    return "".join([*parts, clauses[-1], "。"])


def _choose_front(item: Item, rng: Rng) -> tuple[Value, ...]:
    """The values that precede the noun and so need no clause."""
    size = len(item.values)
    shares = {"颜色": 0.4 if size < 5 else 0.8, "材质": 0.0 if size < 5 else 0.25, "风格": 0.0 if size < 6 else 0.25}
    candidates = [value for key in BEFORE_NOUN if (value := item.find(key)) is not None]
    return tuple(value for value in candidates if rng.chance(shares[value.attribute]))


def _name(item: Item, front: Sequence[Value], rng: Rng) -> str:
    """The item's name in the copy: 这件白色的外套."""
    words = "".join([f"{value.word}风" if value.attribute == "风格" else value.word for value in front])
    link = "的" if words and rng.chance(0.6) else ""
    return rng.pick(DEFINITE).replace("{m}", item.kind.measure) + words + link + item.noun


def _write_clauses(code: str, values: Sequence[Value], used: set[str], rng: Rng) -> list[str]:
    """At most MAX_CLAUSES clauses that mention the values in order."""
    book = read_phrasebook()
    clauses: list[str] = []
    num_pairs = max(0, len(values) - MAX_CLAUSES)
    index = 0
    while index < len(values):
        value = values[index]
        is_pair = index + 1 < len(values) and (num_pairs > 0 or (len(values) > 2 and rng.chance(0.1)))
        if is_pair:
            num_pairs -= 1
            index += 1
            frame = rng.pick(book.pair_frames).replace("{w}", _mention(value)).replace("{v}", _mention(values[index]))
            value = values[index]
        else:
            frame = _pick_new(book.frames[code, value.attribute], used, rng).replace("{v}", value.word)
        clauses.append(frame.replace("{b}", _pick_new(value.usual_benefits, used, rng)))
        index += 1
    return clauses


def _mention(value: Value) -> str:
    return read_phrasebook().mentions.get(value.attribute, "{v}").replace("{v}", value.word)


def _pick_new(table: Sequence[str], used: set[str], rng: Rng) -> str:
    """A random phrase, one that this copy has not used yet if possible."""
    phrase = rng.pick(table)
    if phrase in used:
        phrase = next((other for other in table if other not in used), phrase)
    used.add(phrase)
    return phrase
