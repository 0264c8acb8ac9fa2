"""`imprint data show FILE`: the tokens of training rows, marked as read, learned or truncated."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice

from imprint.check.report import heading
from imprint.check.settings import CheckSettings, read_settings
from imprint.check.shaped_rows import rows_with_shapes
from imprint.check.text_scan import describe_texts, first_rows
from imprint.check.token_view import TokenMark, mark_legend, token_lines, view_tokens
from imprint.data.encode import EncodedRow
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.rows import describe_source
from imprint.data.shapes import samples_from_row
from imprint.messages import Bilingual, UserError
from imprint.terminal import Style, say, style_for, terminal_columns


def show_command(file: str, *, model: str | None, limit: int, overrides: Sequence[str]) -> None:
    """Print the first `limit` rows of `file` as tokens, or the error of a bad row.

    Raises UserError for what cannot be read, and for wrong arguments.
    """
    settings = read_settings(model, overrides, [file])
    style = style_for(sys.stdout)
    say(heading(Bilingual("data show", "数据查看"), style).lstrip("\n"))
    source = describe_source(file, settings.columns) if settings.texts is None else describe_texts(file, settings.texts.text_column)
    for line in (f"  {settings.summary()}", f"  {source.english}", f"  {source.chinese}", f"  {mark_legend(style)}"):
        say(line)
    if settings.texts is None and settings.limits is None:  # they are chosen from all rows, and these are the first
        say("  " + Bilingual("the limits cut at most 1 % of the rows, which are shown whole", "上限至多截断 1 % 的行，此处完整显示").line)
    shown = _texts(file, settings, limit, style) if settings.texts is not None else _rows(file, settings, limit, style)
    empty = True
    for line in shown:
        say(line)
        empty = False
    if empty:
        raise UserError(Bilingual(f"{file} holds nothing to show.", f"{file}：文件中没有可显示的内容。"))


def _texts(file: str, settings: CheckSettings, limit: int, style: Style) -> Iterator[str]:
    for location, row in first_rows(file, settings, limit):
        yield from _row(settings, row, row, location, style)


def _rows(file: str, settings: CheckSettings, limit: int, style: Style) -> Iterator[str]:
    for location, value, shape in islice(rows_with_shapes(file, settings.columns), limit):
        try:
            samples = samples_from_row(value, shape, location, tools=settings.template.supports_tools)
            for number, sample in enumerate(samples, start=1):
                turn = ", " + Bilingual(f"answer {number} of {len(samples)}", f"第 {number} 个回答").line if len(samples) > 1 else ""
                yield from _row(settings, settings.encode(sample), settings.encode_untruncated(sample), f"{location}{turn}", style)
        except (BadRowError, UserError) as problem:
            reason = problem.reason if isinstance(problem, BadRowError) else problem.message
            yield f"\n{style('✗', 'red', 'bold')} {location}: {reason.english}\n  {reason.chinese}"


def _row(settings: CheckSettings, row: EncodedRow, untruncated: EncodedRow, title: str, style: Style) -> Iterator[str]:
    """One training row: its length, what was truncated, and its tokens."""
    learned = sum(row.scored)
    cut = len(untruncated.ids) - len(row.ids)
    read = f"{len(row.ids) - learned} {TokenMark.READ.value.line}"
    counts = f"{len(row.ids)} {Bilingual('tokens', '词元').line}: {read}, {learned} {Bilingual('learned', '学习').line}"
    yield ""
    yield style(title, "bold") + f"  {counts}" + (style(f", {cut} {TokenMark.CUT.value.line}", "red") if cut else "")
    yield from token_lines(view_tokens(settings.tokenizer, row, untruncated), style, terminal_columns(sys.stdout))
