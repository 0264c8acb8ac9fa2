"""Reads a YAML recipe plus `a.b=c` overrides into one frozen section; callers pass the section's class.

A knob is declared once, as a field of a `Section` with its type, default, bound and description:

    class Schedule(Section):
        warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from zero.")

`describe` makes the help and the docs from it, `read_recipe` the error messages.
"""

from imprint.config.knobs import Knob, describe
from imprint.config.recipe import dump, read_overrides, read_recipe, recipe_text
from imprint.config.section import DefaultTag, Field, InsteadOf, MayChange, Section
from imprint.config.table import as_lines, as_markdown, as_text

__all__ = [
    "DefaultTag",
    "Field",
    "InsteadOf",
    "Knob",
    "MayChange",
    "Section",
    "as_lines",
    "as_markdown",
    "as_text",
    "describe",
    "dump",
    "read_overrides",
    "read_recipe",
    "recipe_text",
]
