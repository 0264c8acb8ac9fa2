"""Routes: paths, who may call them, and what they do."""
