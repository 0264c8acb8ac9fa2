"""How the embedded base was made: its vocabulary, its pre-training, and what it brings along against forgetting."""
