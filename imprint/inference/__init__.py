"""From prompt ids to answer ids, and how likely given answers are."""
