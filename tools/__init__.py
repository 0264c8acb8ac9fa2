"""Programs that made files of the project; not part of the wheel."""
