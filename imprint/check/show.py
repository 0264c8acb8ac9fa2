"""`imprint data show FILE`: rows as the tokens that training sees, what is learned of them, and what the limits cut."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice

from imprint.check.report import heading
from imprint.check.settings import Settings, read_settings
from imprint.check.shaped_rows import shaped_rows
from imprint.check.terminal import Ink, columns_of, ink_for
from imprint.check.text_scan import described, first_rows
from imprint.check.token_view import lines, names_of_marks, pieces
from imprint.data.encode import Encoded
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.rows import describe
from imprint.data.shapes import samples_of
from imprint.errors import UserError
from imprint.pack import IGNORE_INDEX


def show_command(file: str, *, model: str | None, limit: int, overrides: Sequence[str]) -> None:
    """Print the first `limit` rows of `file` as tokens; a bad row is told in its place.

    Raises UserError for what cannot be read, and for mistaken arguments.
    """
    settings = read_settings(model, overrides, [file])
    ink = ink_for(sys.stdout)
    print(heading("data show", "数据查看", ink).lstrip("\n"))  # noqa: T201
    what = describe(file, settings.columns) if settings.texts is None else described(file)
    for line in (f"  {settings.told()}", f"  {what}", f"  {names_of_marks(ink)}"):
        print(line)  # noqa: T201
    shown = _texts(file, settings, limit, ink) if settings.texts is not None else _rows(file, settings, limit, ink)
    empty = True
    for line in shown:
        print(line)  # noqa: T201
        empty = False
    if empty:
        raise UserError(f"{file} holds nothing to show.")


def _texts(file: str, settings: Settings, limit: int, ink: Ink) -> Iterator[str]:
    for place, row in first_rows(file, settings, limit):
        yield from _row(settings, row, row, place, ink)


def _rows(file: str, settings: Settings, limit: int, ink: Ink) -> Iterator[str]:
    for place, value, shape in islice(shaped_rows(file, settings.columns), limit):
        try:
            samples = samples_of(value, shape, place, tools=settings.template.tools)
            for number, sample in enumerate(samples, start=1):
                turn = f", answer {number} of {len(samples)} / 第 {number} 个回答" if len(samples) > 1 else ""
                yield from _row(settings, settings.encode(sample), settings.encode_whole(sample), f"{place}{turn}", ink)
        except (BadRowError, UserError) as problem:
            yield f"\n{ink('✗', 'red', 'bold')} {place}: {problem}"


def _row(settings: Settings, row: Encoded, whole: Encoded, title: str, ink: Ink) -> Iterator[str]:
    """One training row: how long it is, what it lost, and its tokens."""
    learned = sum(label != IGNORE_INDEX for label in row.labels)
    cut = len(whole.ids) - len(row.ids)
    counts = f"{len(row.ids)} tokens / 词元: {len(row.ids) - learned} read / 只读, {learned} learned / 学习"
    yield ""
    yield ink(title, "bold") + f"  {counts}" + (ink(f", {cut} cut / 截去", "red") if cut else "")
    yield from lines(pieces(settings.tokenizer, row, whole), ink, columns_of(sys.stdout))
