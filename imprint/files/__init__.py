"""Files: read within bounds, written atomically, links that lead nowhere else, errors of the disk as messages."""
