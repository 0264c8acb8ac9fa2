"""Decoding and scoring: from prompt ids to answer ids, and the log-probabilities of given answers."""
