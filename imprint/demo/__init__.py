"""A small world of Chinese text, made up for this project, and the toy base that knows nothing else."""
