"""From a path to a model: where a base is, what a run says of itself, and what a bundle holds."""
