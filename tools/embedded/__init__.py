"""Makes the embedded base: its vocabulary, its pre-training, and its files for measuring and reducing forgetting."""
