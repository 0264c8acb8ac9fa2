"""Programs that made what the project carries; not part of the wheel."""
