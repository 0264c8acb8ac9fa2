"""Measures forgetting: which of the base's answers are kept or lost, and how far the next-token distributions moved."""
