"""A recipe in YAML plus `a.b=c` overrides becomes one frozen section; no section is known here, callers hand theirs in.

A knob is said once, as a field of a `Section` with its type, default, bound and sentence:

    class Schedule(Section):
        warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from zero.")

`describe` makes the help and the docs from it, `read_recipe` the errors.
"""

from imprint.config.knobs import Knob, describe
from imprint.config.recipe import dump, read_overrides, read_recipe
from imprint.config.section import Field, Otherwise, Section
from imprint.config.table import as_markdown, as_text

__all__ = ["Field", "Knob", "Otherwise", "Section", "as_markdown", "as_text", "describe", "dump", "read_overrides", "read_recipe"]
