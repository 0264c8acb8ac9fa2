"""What a tuning has taken from its base: answers that were kept or lost, and how far the next-token distributions moved."""
