"""From a path to a model: resolves model folders, runs and bundles, and loads them."""
