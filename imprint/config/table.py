"""The table of knobs for a terminal and for the docs."""

from collections.abc import Sequence

from imprint.config.knobs import Knob
from imprint.terminal import clip_columns, pad_right

MAX_DEFAULT = 14
"""Columns of the defaults in a list; a longer one moves its line to the right."""
HEADER = "| knob | type | default | what it does |\n| --- | --- | --- | --- |\n"


def as_text(knobs: Sequence[Knob]) -> str:
    """The knobs for a terminal, each with its full path, ready to be copied into an override."""
    width = max(len(knob.path) for knob in knobs) + 2
    lines: list[str] = []
    for knob in knobs:
        if knob.type == "section":
            lines += ["", f"{knob.path}: {knob.description}"]
        else:
            lines += [f"  {knob.path:<{width}}{', '.join(_facts(knob))}", f"  {'':<{width}}{knob.description}"]
    return "\n".join(lines).strip("\n") + "\n"


def as_lines(knobs: Sequence[Knob], *, before: str = "", columns: int | None = None) -> list[str]:
    """A line for each knob: its path after `before`, its default, and what it does, cut to `columns` if there are so many."""
    shown = [knob for knob in knobs if knob.type != "section"]
    path_width = max(len(knob.path) for knob in shown) + len(before)
    default_width = min(max(len(knob.default) for knob in shown), MAX_DEFAULT)
    lines = []
    for knob in shown:
        condition = f" (with {knob.condition})" if knob.condition else ""
        line = f"  {before + knob.path:<{path_width}}  {pad_right(knob.default, default_width)}  {knob.description}{condition}"
        lines.append(line if columns is None else clip_columns(line, columns))
    return lines


def as_markdown(knobs: Sequence[Knob]) -> str:
    """The knobs as Markdown: a heading and a table for each section."""
    blocks: list[str] = []
    open_table = False
    for knob in knobs:
        if knob.type == "section":
            blocks.append(f"\n## `{knob.path}`\n\n{knob.description}\n\n")
            open_table = False
            continue
        if not open_table:
            blocks.append(HEADER)
            open_table = True
        remarks = f" *Only with `{knob.condition}`.*" if knob.condition else ""
        remarks += " *A resumed run may change it.*" if knob.may_change else ""
        holds = ", ".join(part for part in (knob.type, knob.bound) if part)
        blocks.append(
            "| " + " | ".join(_cell(text) for text in (f"`{knob.path}`", holds, knob.default, knob.description + remarks)) + " |\n"
        )
    return "".join(blocks).strip("\n") + "\n"


def _facts(knob: Knob) -> list[str]:
    default = knob.default if knob.default == "required" else f"default {knob.default}"
    facts = [f"{knob.type} ({knob.bound})" if knob.bound else knob.type, default]
    return [*facts, f"only with {knob.condition}"] if knob.condition else facts


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
