"""A chat in a terminal: `imprint chat RUN|MODEL`."""
