"""One training run, from the recipe to the saved result; `run` is the place to start reading."""
