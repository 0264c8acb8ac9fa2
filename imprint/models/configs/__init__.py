"""config.json of each architecture: read, checked, and as a typed value."""
