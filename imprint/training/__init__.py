"""One training run: the story (`run`), its parts, what it keeps, and how it is resumed."""
